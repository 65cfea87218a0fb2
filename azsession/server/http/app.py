"""The gateway as an ASGI application. `GatewayService` serves it, and other ASGI servers and applications can serve it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import unquote

from ...broker.base import Broker
from ...broker.calls import CallContext, WaitingSlots
from ...errors import AuthenticationFailedError, MessageTooLargeError
from ...protocol import EXTENSIONS_HEADER, PROTOCOL_HEADER, PROTOCOL_VERSION, SERVER_EXTENSIONS
from ...protocol.routes import Operation
from ...telemetry import gateway_telemetry
from ..access_keys import AccessKey
from ..answer import Answer, PendingAnswer, error_answer, no_metrics
from ..authorization import OPEN, Guard
from ..dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, MAX_WAITING, Admission, Gateway
from ..explorer.mount import ExplorerMount, is_for_explorer
from ..request import Headers, Request, iter_messages
from ..route_templates import placeholder
from . import access_log
from .asgi import CONNECTION_KEY, ASGIApplication, ClientGoneError, Receive, RequestConnection, Scope, Send
from .body import Body
from .turns import collect, encode
from .waiting import result_of

if TYPE_CHECKING:
    from ..metrics import GatewayMetrics

T = TypeVar("T")

#: The operations that wait for a message or a session, and all that can take long, which end if the client goes away.
_WAITING = frozenset({Operation.RECEIVE, Operation.ACCEPT})
_LONG = _WAITING | {Operation.BACKUP}
#: Bytes of a body that are read past after an early answer, so that the connection can be used again.
MAX_SKIPPED = 65536
#: Bytes of a file that are read and sent at once.
FILE_PIECE_SIZE = 256 * 1024


def create_app(
    broker: Broker,
    *,
    keys: Iterable[AccessKey] | Guard | None,
    hosts: Iterable[str] = (),
    max_body_size: int = MAX_BODY_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    max_waiting: int = MAX_WAITING,
    explorer: bool = True,
    metrics: GatewayMetrics | None = None,
) -> ASGIApplication:
    """Return an ASGI application that serves a broker.

    Serve the application from one process, because the embedded broker belongs to one process. It can be mounted below a path
    prefix of another ASGI application. A waiting receive uses no thread.

    Example::

        broker = EmbeddedBroker("messages.db", queues=["orders"])
        application = create_app(broker, keys=[AccessKey.parse("app:SECRET:Send,Listen")])

    Args:
        broker: The broker. The caller closes it.
        keys: The keys whose tokens the application accepts, or a `Guard`, whose keys can be replaced while the application
            serves. `None` accepts every request without a token.
        hosts: Host names that tokens may be for, besides the host name in the request. A `Guard` has its own.
        max_body_size: Bytes of a request's body at most; a larger one gets status 413.
        max_message_size: Bytes of a message's body, or of a session state, at most; a larger one gets status 413.
        max_waiting: Receives and accepts that may wait at once, from 1. Others get status 429.
        explorer: Serve the Explorer, a web interface, at ``/explorer``. It needs jinja2, and keys with which users sign in:
            without keys, there is no Explorer.
        metrics: Serve these metrics at ``/metrics``, to keys with the right Metrics or Manage. Each application needs
            metrics of its own.

    Returns:
        The application. It never raises for a request.

    Raises:
        ConfigurationError: Two keys have the same name, or a host name is malformed.
    """
    guard = keys if keys is None or isinstance(keys, Guard) else Guard(keys, hosts)
    if metrics is not None:
        broker = metrics.measured(broker)
    gateway = Gateway(
        broker,
        guard,
        max_body_size=max_body_size,
        max_message_size=max_message_size,
        metrics=no_metrics if metrics is None else metrics.answer,
    )
    pages = ExplorerMount(broker, guard, result_of, max_message_size) if explorer and guard is not None else None
    return _Application(gateway, WaitingSlots(max_waiting), pages, metrics)


class _Application:
    def __init__(
        self, gateway: Gateway, slots: WaitingSlots, explorer: ExplorerMount | None, metrics: GatewayMetrics | None
    ) -> None:
        self.gateway = gateway
        self.metrics = metrics
        self.explorer = explorer
        self.slots = slots
        self.telemetry = gateway_telemetry()
        self.context = CallContext(blocking=False, slots=slots)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await _Exchange(self, scope, receive, send).run()
        elif kind == "lifespan":
            await _live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})


async def _live(receive: Receive, send: Send) -> None:
    """Confirm the start and the end of the server. The application has nothing to do at either."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: _Application, scope: Scope, receive: Receive, send: Send) -> None:
        self._gateway = app.gateway
        self._metrics = app.metrics
        self._explorer = app.explorer
        self._context = app.context
        self._telemetry = app.telemetry
        self._scope = scope
        self._receive = receive
        self._send = send
        self._method: str = scope["method"]
        self._connection: RequestConnection = (scope.get("state") or {}).get(CONNECTION_KEY) or RequestConnection()
        self._body: Body  # `_read_head` sets it.
        #: `True` if the connection must be closed after the request.
        self._closes = False
        #: The answer whose messages return to the broker if the client does not get them.
        self._pending: PendingAnswer[Any] | None = None
        self._admitted: Admission | None = None
        #: The path of a request for the Explorer.
        self._explorer_path: str | None = None
        #: Seconds that the request waited for a message or a session.
        self._waited = 0.0

    async def run(self) -> None:
        self._connection.begin()
        is_delivered = False
        began = time.monotonic() if self._metrics is not None or access_log.is_on() else None
        span = None if self._telemetry is None else self._telemetry.begin(self._scope)
        status = None
        try:
            answer = await self._answer()
            is_delivered = await self._respond(answer)
            status = answer.status
        except (ClientGoneError, OSError):
            # ASGI 2.4: the server raises OSError if the client went away.
            pass
        finally:
            if self._pending is not None and not is_delivered:
                self._pending.future.add_done_callback(self._give_back)
            self._connection.end()
            if span is not None:
                span.end(self._page() if self._admitted is None else placeholder(self._admitted.route.operation), status)
            if began is not None:
                self._report(status, began)

    def _report(self, status: int | None, began: float) -> None:
        """Log and count the request, which has ended."""
        if access_log.is_on():
            access_log.request(self._scope, self._admitted, status, began, page=self._page())
        if self._metrics is not None:
            other = "refused" if self._explorer_path is None else "explorer"
            name = other if self._admitted is None else self._admitted.route.operation.value
            self._metrics.request(name, status, time.monotonic() - began - self._waited)

    def _page(self) -> str | None:
        """Return the path of a request for the Explorer, with placeholders; `None` for other requests."""
        path = self._explorer_path
        return None if self._explorer is None or path is None else self._explorer.route(path)

    async def _answer(self) -> Answer:
        try:
            headers = self._read_head()
            path, prefix = self._path()
            if self._explorer is not None and is_for_explorer(path, headers.get("Authorization")):
                self._explorer_path = path
                query = self._scope.get("query_string", b"").decode("latin-1")
                return await self._explorer.answer(self._method, path, query, headers, self._scope, self._read_body)
            admitted = self._admitted = self._admit(headers, path, prefix)
            operation = admitted.route.operation
            body, messages = b"", None
            if operation not in OPEN or self._body.complete:
                body = await self._read_body(self._gateway.max_body_size, self._gateway.body_too_large)
            if operation in (Operation.SEND, Operation.SCHEDULE):
                messages = await collect(iter_messages(headers, body, self._gateway.max_message_size))
            request = Request(admitted.route, admitted.query, headers, body, self._context, messages, admitted.key)
            answer = self._gateway.answer(request)
            return answer if isinstance(answer, Answer) else await self._wait(answer, admitted)
        except ClientGoneError:
            raise
        except Exception as error:
            return error_answer(error, self._method)

    def _read_head(self) -> Headers:
        scope, head = self._scope, None
        self._closes = True  # If the head is refused.
        try:
            target_size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
            head = self._connection.heads.read(scope["http_version"], target_size, scope["headers"])
        finally:
            self._body = Body(self._receive, self._connection.body_arrived, head)
        self._closes = head.asks_for_upgrade
        return head.headers

    def _path(self) -> tuple[str, tuple[str, ...]]:
        """Return the application's own path, and the segments of the prefix in front of it."""
        scope = self._scope
        raw: bytes | None = scope.get("raw_path")
        # Without a raw path, the path is decoded, and U+FFFD stands for bytes that are not UTF-8. The protocol refuses lone
        # surrogates.
        path: str = raw.decode("latin-1") if raw else scope["path"].replace("\ufffd", "\udcff")
        return _split_root(path, scope.get("root_path", ""), encoded=bool(raw))

    def _admit(self, headers: Headers, path: str, prefix: tuple[str, ...]) -> Admission:
        query = self._scope.get("query_string", b"").decode("latin-1")
        is_encoded = bool(self._scope.get("raw_path"))
        return self._gateway.admit(self._method, path, query, headers, encoded=is_encoded, prefix=prefix)

    async def _read_body(self, limit: int, too_large: Callable[[int | None], MessageTooLargeError]) -> bytes:
        body = await self._body.read(limit, too_large)
        self._connection.body_read()
        return body

    async def _wait(self, pending: PendingAnswer[T], admitted: Admission) -> Answer:
        self._pending = pending if pending.give_back is not None else None
        watch = end = None
        operation = admitted.route.operation
        if operation in _LONG and not pending.future.done():
            watch = partial(self._connection.watch, self._receive)
            self._gateway.end_when_revoked(pending.future, admitted)
            end = self._metrics.waits(operation) if self._metrics is not None and operation in _WAITING else None
        try:
            return pending.make(await result_of(pending.future, watch, patience=pending.patience))
        except FutureCancelledError:
            raise AuthenticationFailedError("the key of the request was revoked while the request waited") from None
        finally:
            if end is not None:
                self._waited = end()

    def _give_back(self, future: Future[Any]) -> None:
        """Return the messages of an answer that the client did not get."""
        give_back = None if self._pending is None else self._pending.give_back
        if give_back is not None and not future.cancelled() and future.exception() is None:
            give_back(future.result())

    async def _respond(self, answer: Answer) -> bool:
        """Write the answer. Return `False` if the client is known not to have got it."""
        connection, body = self._connection, self._body
        if self._pending is not None and await connection.has_left(self._receive):
            return False
        headers, pieces = answer.pieces()
        encoded = await encode(pieces)
        download = answer.download
        fields = [(_header_name(name), value.encode("latin-1")) for name, value in headers.items()]
        fields += _ALWAYS
        fields += connection.headers
        if answer.status != 204:
            size = sum(map(len, encoded)) if download is None else download.size
            fields.append((b"content-length", b"%d" % size))
        # Read past a small rest of the body, so that the connection stays in use. The length of a chunked one is unknown.
        is_small = body.complete or (body.length or MAX_SKIPPED + 1) <= MAX_SKIPPED
        closes = self._closes or connection.is_last or not is_small or body.awaits_consent
        if closes:
            fields.append((b"connection", b"close"))
        if answer.status == 204 or self._method == "HEAD":
            encoded = []
        last = encoded.pop() if encoded else b""
        connection.join_writes()
        await self._send({"type": "http.response.start", "status": answer.status, "headers": fields})
        if download is not None:
            await self._send_file(download.file)
        for piece in encoded:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            connection.flush()
        if not body.complete and not body.awaits_consent:
            await self._send({"type": "http.response.body", "body": last, "more_body": True})
            connection.flush()
            last = b""
            # A connection that is closed before the end of the body loses the answer, too.
            await body.discard(self._gateway.max_body_size)
        if closes:
            connection.close_slowly()
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
        connection.flush()
        return self._pending is None or await connection.flushed()

    async def _send_file(self, file: BinaryIO) -> None:
        """Write a file as the body. `send` waits until the client has taken the piece before.

        Raises:
            ClientGoneError: The key of the request was revoked before the end. The client gets no more of the file.
        """
        loop = asyncio.get_running_loop()
        revocation: Future[None] = Future()
        revocation.add_done_callback(partial(self._end_if_revoked, loop))
        if self._admitted is not None:
            self._gateway.end_when_revoked(revocation, self._admitted)
        try:
            with file:
                while not revocation.cancelled() and (piece := await loop.run_in_executor(None, file.read, FILE_PIECE_SIZE)):
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                    self._connection.flush()
            if revocation.cancelled():
                # The loss of the connection is reported before the server learns that the answer has no end.
                await self._connection.has_left(self._receive)
                raise ClientGoneError
        finally:
            if revocation.set_running_or_notify_cancel():  # From now on, it cannot be cancelled.
                revocation.set_result(None)

    def _end_if_revoked(self, loop: asyncio.AbstractEventLoop, revocation: Future[None]) -> None:
        """Close the connection, also if the client does not read: a part of a file cannot be followed by an error."""
        if revocation.cancelled():
            with suppress(RuntimeError):  # The loop is closed already.
                loop.call_soon_threadsafe(self._connection.abort)


def _split_root(path: str, root: str, *, encoded: bool) -> tuple[str, tuple[str, ...]]:
    """Split the complete path of a request into the application's own path, and the segments of the prefix in front of it.

    Args:
        path: The complete path.
        root: The prefix at which the application is mounted, decoded: the ``root_path`` of ASGI.
        encoded: Whether `path` is percent-encoded.
    """
    root = root.strip("/")
    if not root:
        return path or "/", ()
    prefix = tuple(root.split("/"))
    segments = path.lstrip("/").split("/")
    first = segments[: len(prefix)]
    if tuple(map(unquote, first) if encoded else first) != prefix:
        return path or "/", ()
    return "/" + "/".join(segments[len(prefix) :]), prefix


@lru_cache(256)
def _header_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


#: The headers of every answer.
_ALWAYS = [
    (PROTOCOL_HEADER.lower().encode(), PROTOCOL_VERSION.encode()),
    (EXTENSIONS_HEADER.lower().encode(), SERVER_EXTENSIONS.encode()),
    (b"cache-control", b"no-store"),
]
