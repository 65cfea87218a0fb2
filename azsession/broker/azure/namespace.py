"""`Namespace`: the connections to one Service Bus namespace, opened when they are needed, and their tokens.

The parts of the broker call it. Callers block in their own threads; connections belong to the loop's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from ...amqp import Condition, Response
from ...errors import AuthenticationFailedError, ConnectionFailedError, ProviderError, QueueError
from ...protocol.error_codes import SERVER_BUSY
from ...tokens import REFRESH_PAUSE, Token, TokenCache
from ..base import NO_DEADLINE, CallContext
from .authorized_connection import AuthorizedConnection, address_of
from .error_mapping import error_of
from .transport.connection import Connection
from .transport.loop import Loop, closed_error
from .transport.stream import Address, Stream, open_stream

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of a wait after which its caller is watched.
QUICKLY = 0.02
#: The end of a token that says none.
NEVER = float("inf")
#: Connections at once. Each carries thousands of links.
MAX_CONNECTIONS = 16
#: Seconds for each step of opening a connection.
CONNECT_TIMEOUT = 10.0


class Namespace:
    """A namespace, and the connections to it: one, or a few where one has no room for all links.

    Args:
        address: The host and port, and how to connect.
        tokens: The source of tokens.
        timeout: Seconds to wait for an answer.

    Attributes:
        loop: The thread that owns the connections.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, address: Address, tokens: TokenCache, *, timeout: float) -> None:
        self.loop: Loop = Loop()
        self.timeout = timeout
        self._address = address
        self._tokens = tokens
        self._begin()

    def _begin(self) -> None:
        # Only the loop's thread assigns to these; any thread reads `_connections`.
        self._connections: tuple[AuthorizedConnection, ...] = ()
        self._handshaking: AuthorizedConnection | None = None
        self._opening: Future[AuthorizedConnection] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Namespace {self._address.host}>"

    # Any thread

    def connect(self, entity: str, context: CallContext) -> AuthorizedConnection:
        """Return a connection with room for more links, authorized for an entity. Blocks.

        Args:
            entity: The queue, topic or subscription; ``""`` for the namespace as a whole.
            context: The caller and its deadline.

        Raises:
            ConnectionFailedError: The namespace cannot be reached, or did not answer in time.
            AuthenticationFailedError: The token was refused, or there is none.
            ProviderError: All connections are full, or the broker is closed.
            QueueError: Another error that the namespace answered.
        """
        ready = self.ready_connection(entity)
        if ready is not None:
            return ready
        try:
            connection = self.wait(self.loop.run(self._join_or_open), context, 3 * CONNECT_TIMEOUT)
            self._authorize(connection, entity, context)
        except ConnectionFailedError as error:
            # No request was sent yet, so that nothing can have taken effect, even where an answer is missing.
            raise ConnectionFailedError(str(error), code=error.code) from error.__cause__
        return connection

    def ready_connection(self, entity: str) -> AuthorizedConnection | None:
        """Return a connection with room, authorized for an entity, if there is one. Does not block."""
        connection = self._with_room()
        return connection if connection is not None and connection.is_authorized(entity) else None

    def _with_room(self) -> AuthorizedConnection | None:
        return next((one for one in self._connections if not one.is_closed and not one.transport.is_full), None)

    def _authorize(self, connection: AuthorizedConnection, entity: str, context: CallContext) -> None:
        refused = self._put_token(connection, entity, context)
        if refused is not None:
            # The token may have been revoked: try a new one, once.
            self._tokens.drop(self._audience(entity), refused.header)
            if self._put_token(connection, entity, context) is not None:
                raise AuthenticationFailedError(f"the namespace refused the token for {entity or self._address.host!r}")

    def _audience(self, entity: str) -> str:
        return f"sb://{self._address.host}/{address_of(entity)}"

    def _put_token(self, connection: AuthorizedConnection, entity: str, context: CallContext) -> Token | None:
        """Put the entity's token; return the token if Azure refused it."""
        audience = self._audience(entity)
        token, refresh_in, ends_in = self._tokens.lookup(audience)
        now = time.monotonic()
        future: Future[Condition | None] = Future()

        def job() -> None:
            connection.authorize(entity, audience, token, now + refresh_in, now + ends_in, future.set_result)

        self.loop.call(job)
        try:
            error = self.wait(future, context)
        except ConnectionFailedError:
            self._call_unless_closed(lambda: connection.give_up(entity, token))
            raise
        if error is None:
            self.loop.call(lambda: self._plan_refresh(connection))
            return None
        failure = error_of(error, entity=entity)
        if isinstance(failure, AuthenticationFailedError):
            return token
        raise failure

    def wait(self, future: Future[T], context: CallContext, seconds: float | None = None) -> T:
        """Return a future's result. Blocks for `timeout` seconds, or for `seconds`, but not past the caller's deadline.

        Raises:
            ConnectionFailedError: There was no result in time, or the caller went away.
            QueueError: The future's error.
        """
        limit = self.timeout if seconds is None else seconds
        if context.deadline is not None:
            limit = max(0.0, min(limit, context.deadline - time.monotonic()))
        try:
            return future.result(limit if context.deadline is None else min(limit, QUICKLY))
        except FutureTimeoutError:
            if future.done():
                raise
        # A caller without a deadline is a client over HTTP. Watching it would take one of the gateway's places for waiting
        # clients, which are meant for receives and accepts.
        if context.deadline is not None:
            ended = threading.Event()
            future.add_done_callback(lambda _: ended.set())
            with context.caller.watched(ended.set):
                ended.wait(max(0.0, limit - QUICKLY))
            if future.done():
                return future.result()
        raise ConnectionFailedError(f"no answer from {self._address.host} within {limit:g} s", maybe_delivered=True)

    def manage(
        self,
        entity: str,
        operation: str,
        body: Mapping[str, Any],
        context: CallContext,
        *,
        session_id: str | None = None,
    ) -> Response:
        """Send a request to the management node of an entity, or of its dead-letter queue. Blocks.

        Args:
            entity: The queue or subscription.
            operation: The operation, without its prefix ``com.microsoft:``.
            body: The request.
            context: The caller and its deadline.
            session_id: The session that the request is about, for the error message.

        Raises:
            ConnectionFailedError: The namespace cannot be reached, or did not answer in time.
            QueueError: The error that the management node answered.
        """
        connection = self.connect(entity, context)
        future: Future[Response | Condition] = Future()
        self.loop.call(lambda: connection.manage(entity, operation, body, future.set_result))
        answer = self.wait(future, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return answer

    # Opening connections

    def _join_or_open(self) -> Future[AuthorizedConnection]:
        """Return the future of a connection with room. If there is none, a thread opens one."""
        connection = self._with_room()
        if connection is not None:
            ready: Future[AuthorizedConnection] = Future()
            ready.set_result(connection)
            return ready
        if len(self._connections) >= MAX_CONNECTIONS:
            text = f"all {len(self._connections)} connections are full of sessions: hold fewer in this process"
            raise ProviderError(text, code=SERVER_BUSY, status=503, is_transient=True)
        if self._opening is None:
            if self._closed:
                raise closed_error()
            opening: Future[AuthorizedConnection] = Future()
            self._opening = opening
            try:
                threading.Thread(target=self._open, args=(opening,), name="azsession-connect", daemon=True).start()
            except RuntimeError as error:
                self._opening = None
                raise ProviderError(f"no thread can be started: {error}", code=SERVER_BUSY, status=503) from error
        return self._opening

    def _open(self, opening: Future[AuthorizedConnection]) -> None:
        try:
            stream = open_stream(self._address, CONNECT_TIMEOUT)
        except BaseException as error:
            failed = error if isinstance(error, QueueError) else ConnectionFailedError(f"{type(error).__name__}")
            self._call_unless_closed(lambda: self._on_open_failed(opening, failed))
            return
        if not self._call_unless_closed(lambda: self._begin_connection(opening, stream)):
            stream.close()

    def _call_unless_closed(self, job: Callable[[], object]) -> bool:
        """Run `job` in the loop's thread; return `False` if the loop is closed."""
        try:
            self.loop.call(job)
        except ProviderError:
            return False
        return True

    def _on_open_failed(self, opening: Future[AuthorizedConnection], error: QueueError) -> None:
        if self._opening is opening:
            self._opening = None
        if not opening.done():
            opening.set_exception(error)

    def _begin_connection(self, opening: Future[AuthorizedConnection], stream: Stream) -> None:
        if self._closed:
            stream.close()
            self._on_open_failed(opening, closed_error())
            return

        def on_opened() -> None:
            self._opening = self._handshaking = None
            self._connections = (*self._connections, connection)
            opening.set_result(connection)

        def on_closed(error: QueueError) -> None:
            self._on_open_failed(opening, error)
            self._connections = tuple(one for one in self._connections if one is not connection)
            if self._handshaking is connection:
                self._handshaking = None
            if connection.refresh_timer is not None:
                connection.refresh_timer.cancel()

        try:
            transport = Connection(
                self.loop, stream, self._address, on_opened=on_opened, on_closed=on_closed, open_timeout=CONNECT_TIMEOUT
            )
        except BaseException as error:
            stream.close()
            self._on_open_failed(opening, ConnectionFailedError(f"{self._address.host}: {type(error).__name__}"))
            raise
        connection = self._handshaking = AuthorizedConnection(transport)

    # Refreshing tokens

    def _plan_refresh(self, connection: AuthorizedConnection) -> None:
        if connection.refresh_timer is not None:
            connection.refresh_timer.cancel()
        due = connection.next_refresh()
        if due is not None and due < NEVER and not connection.is_closed:
            seconds = due - time.monotonic()
            connection.refresh_timer = self.loop.later(seconds, lambda: self._refresh_tokens(connection))

    def _refresh_tokens(self, connection: AuthorizedConnection) -> None:
        """Put new tokens for those that are due, in a thread: a credential may take long."""
        entities = connection.due_for_refresh(time.monotonic())
        for entity in entities:
            connection.postpone_refresh(entity, time.monotonic() + REFRESH_PAUSE)
        self._plan_refresh(connection)
        if not entities:
            return

        def refresh() -> None:
            for entity in entities:
                self._refresh_token(connection, entity)

        threading.Thread(target=refresh, name="azsession-tokens", daemon=True).start()

    def _refresh_token(self, connection: AuthorizedConnection, entity: str) -> None:
        try:
            self._authorize(connection, entity, NO_DEADLINE)
        except QueueError as error:
            logger.warning("the token for %s could not be refreshed: %s", entity, error)

    # The end

    def close(self) -> None:
        """Close the connections, and end the loop's thread. Idempotent; waits for the thread."""

        def job() -> None:
            self._closed = True
            handshaking = () if self._handshaking is None else (self._handshaking,)
            for connection in (*self._connections, *handshaking):
                connection.transport.close()
            if self._opening is not None:
                # Callers must not wait for a connection that is still being opened.
                self._on_open_failed(self._opening, closed_error())

        if self._call_unless_closed(job):
            self.loop.close()

    def after_fork(self) -> None:
        """In a forked child: forget the connections, which stay the parent's."""
        self.loop.after_fork()
        self._tokens.after_fork()
        self._begin()
