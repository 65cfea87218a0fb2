"""The gateway as an ASGI application. `GatewayService` serves it, and other ASGI servers and applications can serve it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote

from ...broker.base import Broker
from ...broker.calls import CallContext, WaitingSlots
from ...errors import MessageTooLargeError, ProviderError, QueueError, ValidationError
from ...messages import Message
from ...protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from ...protocol.error_codes import SERVER_BUSY
from ...protocol.routes import Operation, Route
from ..answer import Answer, PendingAnswer, error_answer
from ..authorization import OPEN, AccessKey, Guard
from ..dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, MAX_WAITING, Gateway
from ..request import Headers, Request, iter_messages
from .asgi import CONNECTION_KEY, ASGIApplication, Connection, Receive, Scope, Send, UnknownConnection
from .body import Body, ClientGoneError
from .framing import asks_for_upgrade, framing_error, head_size
from .limits import MAX_HEAD_SIZE
from .waiting import Wait, has_left

T = TypeVar("T")

#: The operations that can wait for a message.
_WAITING = frozenset({Operation.RECEIVE, Operation.ACCEPT})
#: Bytes of a body that are read past after an early answer, so that the connection can be used again.
MAX_SKIPPED = 65536
#: Bytes of an answer that are passed to the server at once.
PIECE_SIZE = 65536
#: Seconds for which messages are encoded or decoded before other requests get their turn.
TURN = 0.01


def create_app(
    broker: Broker,
    *,
    keys: Iterable[AccessKey] | None,
    hosts: Iterable[str] = (),
    max_body_size: int = MAX_BODY_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    max_waiting: int = MAX_WAITING,
) -> ASGIApplication:
    """Return an ASGI application that serves a broker.

    Serve the application from one process, because the embedded broker belongs to one process. It can be mounted below a path
    prefix of another ASGI application. A waiting receive uses no thread.

    Example::

        broker = EmbeddedBroker("messages.db", queues=["orders"])
        application = create_app(broker, keys=[AccessKey.parse("app:SECRET:Send,Listen")])

    Args:
        broker: The broker. The caller closes it.
        keys: The keys whose tokens the application accepts. `None` accepts every request without a token.
        hosts: Host names that tokens may be for, besides the host name in the request.
        max_body_size: Bytes of a request's body at most; a larger one gets status 413.
        max_message_size: Bytes of a message's body, or of a session state, at most; a larger one gets status 413.
        max_waiting: Receives and accepts that may wait at once, from 1. Others get status 429.

    Returns:
        The application. It never raises for a request.
    """
    gateway = Gateway(
        broker,
        None if keys is None else Guard(keys, hosts),
        max_body_size=max_body_size,
        max_message_size=max_message_size,
    )
    return _Application(gateway, WaitingSlots(max_waiting))


class _Application:
    def __init__(self, gateway: Gateway, slots: WaitingSlots) -> None:
        self.gateway = gateway
        self.slots = slots
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


class _RefusalError(Exception):
    """The head of a request is refused. The connection is closed after the answer."""

    def __init__(self, error: QueueError) -> None:
        super().__init__(str(error))
        self.error = error


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: _Application, scope: Scope, receive: Receive, send: Send) -> None:
        self._gateway = app.gateway
        self._context = app.context
        self._scope = scope
        self._receive = receive
        self._send = send
        self._method: str = scope["method"]
        self._connection: Connection = (scope.get("state") or {}).get(CONNECTION_KEY) or UnknownConnection()
        self._body: Body | None = None
        #: Whether the connection cannot be used after the request.
        self._closes = False
        #: Returns the messages of the answer to the broker.
        self._pending: PendingAnswer[Any] | None = None

    async def run(self) -> None:
        self._connection.begin()
        delivered = False
        try:
            delivered = await self._respond(*await self._answer())
        except ClientGoneError:
            pass
        except OSError:
            # ASGI 2.4: the server raises it if the client went away.
            pass
        finally:
            if not delivered:
                self._give_back()
            self._connection.end()

    async def _answer(self) -> tuple[Answer, bool]:
        """Return the answer, and whether the connection must be closed after it."""
        try:
            headers = self._check_head()
            route, query = self._admit(headers)
            body, messages = b"", None
            if route.operation not in OPEN or self._body_is_complete:
                body = await self._read_body()
                self._connection.body_read()
            if route.operation is Operation.SEND:
                messages = await self._decode(headers, body)
            answer = self._gateway.answer(Request(route, query, headers, body, self._context, messages))
            if isinstance(answer, PendingAnswer):
                self._pending = answer
                answer = answer.make(await self._result(answer, route.operation))
            return answer, False
        except _RefusalError as refusal:
            return error_answer(refusal.error, self._method), True
        except ClientGoneError:
            raise
        except Exception as error:
            return error_answer(error, self._method), False

    # The request

    def _check_head(self) -> Headers:
        scope = self._scope
        fields: list[tuple[bytes, bytes]] = list(scope["headers"])
        version: str = scope["http_version"]
        self._body = Body(self._receive, self._connection.body_arrived, (), is_http1=True)
        problem = framing_error(version, fields)
        if problem is not None:
            raise _RefusalError(ValidationError(problem))
        self._closes = asks_for_upgrade(fields)
        self._body = Body(self._receive, self._connection.body_arrived, fields, is_http1=version.startswith("1"))
        size = head_size(scope.get("raw_path") or b"", fields) + len(scope.get("query_string", b""))
        if size > MAX_HEAD_SIZE:
            raise _RefusalError(
                MessageTooLargeError(
                    f"the request line and headers have {size} bytes; the limit is {MAX_HEAD_SIZE}",
                    size=size,
                    limit=MAX_HEAD_SIZE,
                )
            )
        return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields])

    def _admit(self, headers: Headers) -> tuple[Route, Mapping[str, str]]:
        scope = self._scope
        query = scope.get("query_string", b"").decode("latin-1")
        raw: bytes | None = scope.get("raw_path")
        # Without a raw path, the path is decoded, and U+FFFD stands for bytes that are not UTF-8. The protocol refuses lone
        # surrogates.
        path: str = raw.decode("latin-1") if raw else scope["path"].replace("\ufffd", "\udcff")
        path, prefix = _split_root(path, scope.get("root_path", ""), encoded=bool(raw))
        return self._gateway.admit(self._method, path, query, headers, encoded=bool(raw), prefix=prefix)

    @property
    def _body_is_complete(self) -> bool:
        return self._body is not None and self._body.complete

    async def _read_body(self) -> bytes:
        assert self._body is not None
        return await self._body.read(self._gateway.max_body_size, self._gateway.body_too_large)

    async def _decode(self, headers: Headers, body: bytes) -> list[Message]:
        messages = []
        turn_ends = time.monotonic() + TURN
        for message in iter_messages(headers, body, self._gateway.max_message_size):
            messages.append(message)
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN
        return messages

    # The broker

    async def _result(self, pending: PendingAnswer[T], operation: Operation) -> T:
        if pending.future.done():
            if pending.give_back is not None:
                # The end of the connection may have arrived behind the request. The event loop reads it now.
                await asyncio.sleep(0)
            return pending.future.result()
        try:
            await Wait(pending.future, self._receive, self._connection).run(
                watch=operation in _WAITING, patience=pending.patience
            )
        except TimeoutError:
            raise ProviderError("the broker did not answer in time", code=SERVER_BUSY, is_transient=True) from None
        return pending.future.result()

    def _give_back(self) -> None:
        """Return the messages of an answer that the client did not get."""
        if self._pending is not None and self._pending.give_back is not None:
            _when_done(self._pending)

    # The answer

    async def _respond(self, answer: Answer, closes: bool) -> bool:
        """Write the answer. Return `False` if the client is known not to have got it."""
        if await self._has_left():
            return False
        body = self._body
        assert body is not None
        headers, pieces = answer.pieces()
        encoded = await self._encode(pieces)
        size = sum(map(len, encoded))
        fields = [*_encode_headers(headers), *self._connection.headers]
        if answer.status != 204:
            fields.append((b"content-length", b"%d" % size))
        # Read past a small rest of the body, so that the connection stays in use. The length of a chunked one is unknown.
        closes = closes or not (body.complete or (body.length or MAX_SKIPPED + 1) <= MAX_SKIPPED) or body.awaits_consent
        closes = closes or self._closes or self._connection.is_last
        if closes:
            fields.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": fields})
        drains = not body.complete and not body.awaits_consent
        if answer.status == 204 or self._method == "HEAD":
            encoded = []
        for piece in encoded[: None if drains else -1]:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if drains:
            await self._discard_body(body)
        if closes:
            self._connection.close_slowly()
        last = encoded[-1] if encoded and not drains else b""
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
        return self._pending is None or self._pending.give_back is None or await self._connection.flushed()

    async def _has_left(self) -> bool:
        """Return whether the messages of the answer would be lost, because the client went away."""
        if self._pending is None or self._pending.give_back is None:
            return False
        if isinstance(self._connection, UnknownConnection):
            return await has_left(self._receive)
        return self._connection.is_closed

    async def _encode(self, pieces: Iterable[bytes]) -> list[bytes]:
        """Encode the body of an answer, and return it in pieces of about `PIECE_SIZE`."""
        encoded: list[bytes] = []
        small: list[bytes] = []
        small_size = 0
        turn_ends = time.monotonic() + TURN
        for piece in pieces:
            if len(piece) >= PIECE_SIZE or small_size + len(piece) > PIECE_SIZE:
                encoded += [b"".join(small)] if small else []
                small, small_size = [], 0
            if len(piece) >= PIECE_SIZE:
                encoded += [piece[start : start + PIECE_SIZE] for start in range(0, len(piece), PIECE_SIZE)]
            else:
                small.append(piece)
                small_size += len(piece)
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN
        return [*encoded, b"".join(small)] if small else encoded

    async def _discard_body(self, body: Body) -> None:
        """Read past the rest of the body: a connection that is closed before loses the answer, too."""
        with contextlib.suppress(ClientGoneError):
            await body.discard(self._gateway.max_body_size)


def _when_done(pending: PendingAnswer[Any]) -> None:
    give_back = pending.give_back
    assert give_back is not None

    def on_done(future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            give_back(future.result())

    pending.future.add_done_callback(on_done)


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


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    fields = [(_header_name(name), value.encode("latin-1")) for name, value in headers.items()]
    return fields + _ALWAYS


#: The headers of every answer.
_ALWAYS = [(PROTOCOL_HEADER.lower().encode(), PROTOCOL_VERSION.encode()), (b"cache-control", b"no-store")]
