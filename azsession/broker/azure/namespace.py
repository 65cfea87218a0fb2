"""`Namespace`: the connections to one Service Bus namespace, opened when they are needed, and their tokens.

The parts of the broker call it. Everything here runs in the loop's thread, except the methods that say otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from ...amqp import Condition, Response
from ...errors import AuthenticationFailedError, ConnectionFailedError, ProviderError, QueueError
from ...futures import Future
from ...logs import SessionLogger, get_logger
from ...protocol.error_codes import SERVER_BUSY
from ...token_cache import REFRESH_PAUSE, TokenCache
from ...tokens import Token
from .authorized_connection import AuthorizedConnection, EntitySender, address_of
from .error_mapping import error_of
from .operation import Operation
from .transport.connection import Connection
from .transport.loop import Loop, closed_error
from .transport.stream import Address, Stream, open_stream
from .transport.task import LocalFuture, done_within
from .transport.workers import Workers

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")

#: The end of a token that says none.
NEVER = float("inf")
#: Connections at once. Each carries thousands of links.
MAX_CONNECTIONS = 16
#: Seconds for each step of opening a connection.
CONNECT_TIMEOUT = 10.0
#: Threads that fetch tokens, at most.
TOKEN_THREADS = 2

#: A token, and in how many seconds a new one is due, and the token ends.
_Lookup = tuple[Token, float, float]


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
        self._connecting = Workers(self.loop, "azsession-connect", 1)
        self._fetching = Workers(self.loop, "azsession-tokens", TOKEN_THREADS)
        #: The fetches of tokens that are under way, by audience.
        self._lookups: dict[str, Future[_Lookup]] = {}
        self._connections: tuple[AuthorizedConnection, ...] = ()
        self._handshaking: AuthorizedConnection | None = None
        self._opening: Future[AuthorizedConnection] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Namespace {self._address.host}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is an open connection."""
        return any(not one.is_closed for one in self._connections)

    async def connect(self, entity: str, operation: Operation) -> AuthorizedConnection:
        """Return a connection with room for more links, authorized for an entity.

        Args:
            entity: The queue, topic or subscription; ``""`` for the namespace as a whole.
            operation: The call that needs the connection.

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
            while True:
                connection = await self.wait(self._join_or_open(), operation, 3 * CONNECT_TIMEOUT)
                await self._authorize(connection, entity, operation)
                # Others may have waited for the same connection, and have filled it.
                if not connection.transport.is_full:
                    return connection
        except ConnectionFailedError as error:
            # No request was sent yet, so that nothing can have taken effect, even where an answer is missing.
            raise ConnectionFailedError(str(error), code=error.code) from error.__cause__

    def ready_connection(self, entity: str) -> AuthorizedConnection | None:
        """Return a connection with room, authorized for an entity, if there is one."""
        connection = self._with_room()
        return connection if connection is not None and connection.is_authorized(entity) else None

    def _with_room(self) -> AuthorizedConnection | None:
        return next((one for one in self._connections if not one.is_closed and not one.transport.is_full), None)

    async def wait(self, future: Future[T] | LocalFuture[T], operation: Operation, seconds: float | None = None) -> T:
        """Return a future's result. Wait for `timeout` seconds, or for `seconds`, but not past the caller's deadline.

        Raises:
            ConnectionFailedError: There was no result in time.
            QueueError: The future's error.
        """
        limit = operation.left(self.timeout if seconds is None else seconds)
        if not await done_within(future, limit):
            raise self.no_answer(limit)
        return future.result()

    def no_answer(self, seconds: float) -> ConnectionFailedError:
        """Return the error for a request that Azure did not answer within so many seconds."""
        return ConnectionFailedError(f"no answer from {self._address.host} within {seconds:g} s", maybe_delivered=True)

    async def sender(self, entity: str, operation: Operation) -> EntitySender:
        """Return the link that sends to an entity. It knows the limits of the entity, or has ended.

        Raises:
            ConnectionFailedError: The namespace cannot be reached, or did not answer in time.
            QueueError: The namespace refused the token.
        """
        sender = (await self.connect(entity, operation)).sender(entity)
        if not sender.attached:
            # The answer to the attach has the limits.
            await self.wait(sender.ready, operation)
        return sender

    async def manage(
        self,
        entity: str,
        operation_name: str,
        body: Mapping[str, Any],
        operation: Operation,
        *,
        session_id: str | None = None,
    ) -> Response:
        """Send a request to the management node of an entity, or of its dead-letter queue.

        Args:
            entity: The queue or subscription.
            operation_name: The operation of the management node, without its prefix ``com.microsoft:``.
            body: The request.
            operation: The call that needs the answer.
            session_id: The session that the request is about, for the error message.

        Raises:
            ConnectionFailedError: The namespace cannot be reached, or did not answer in time.
            QueueError: The error that the management node answered.
        """
        connection = await self.connect(entity, operation)
        future: LocalFuture[Response | Condition] = LocalFuture()
        connection.manage(entity, operation_name, body, future.set_result)
        answer = await self.wait(future, operation)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return answer

    # Tokens

    async def _authorize(self, connection: AuthorizedConnection, entity: str, operation: Operation) -> None:
        refused = await self._put_token(connection, entity, operation)
        if refused is not None:
            # The token may have been revoked: try a new one, once.
            if not self._tokens.drop(self._audience(entity), refused.header):
                raise AuthenticationFailedError(f"the namespace refused {self._tokens.source_name}")
            if await self._put_token(connection, entity, operation) is not None:
                raise AuthenticationFailedError(f"the namespace refused the token for {entity or self._address.host!r}")

    def _audience(self, entity: str) -> str:
        return f"sb://{self._address.host}/{address_of(entity)}"

    async def _put_token(self, connection: AuthorizedConnection, entity: str, operation: Operation) -> Token | None:
        """Put the entity's token; return the token if Azure refused it."""
        audience = self._audience(entity)
        token, refresh_in, ends_in = await self._lookup(audience, operation)
        now = time.monotonic()
        future: LocalFuture[Condition | None] = LocalFuture()
        connection.authorize(entity, audience, token, now + refresh_in, now + ends_in, future.set_result)
        try:
            error = await self.wait(future, operation)
        except ConnectionFailedError:
            connection.give_up(entity, token)
            raise
        if error is None:
            self._plan_refresh(connection)
            return None
        failure = error_of(error, entity=entity)
        if isinstance(failure, AuthenticationFailedError):
            return token
        raise failure

    async def _lookup(self, audience: str, operation: Operation) -> _Lookup:
        """Return the token for an audience. If a thread must fetch it, callers for the same audience share the fetch."""
        at_hand = self._tokens.at_hand(audience)
        if at_hand is not None:
            return at_hand
        lookup = self._lookups.get(audience)
        if lookup is None:
            lookup = self._lookups[audience] = self._fetching.run(lambda: self._tokens.lookup(audience))
            lookup.add_done_callback(lambda _: self._lookups.pop(audience, None))
        limit = operation.left(self.timeout)
        if not await done_within(lookup, limit):
            raise AuthenticationFailedError(f"there was no token for {self._address.host} within {limit:g} s")
        return lookup.result()

    # Opening connections

    def _join_or_open(self) -> Future[AuthorizedConnection]:
        """Return the future of a connection with room. If there is none, a worker opens one."""
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
            stream = self._connecting.run(lambda: open_stream(self._address, CONNECT_TIMEOUT), lambda unused: unused.close())
            opening: Future[AuthorizedConnection] = Future()
            self._opening = opening
            stream.add_done_callback(lambda _: self._on_stream(opening, stream))
        return self._opening

    def _on_stream(self, opening: Future[AuthorizedConnection], stream: Future[Stream]) -> None:
        error = stream.exception()
        if error is None:
            self._begin_connection(opening, stream.result())
        else:
            failure = error if isinstance(error, QueueError) else ConnectionFailedError(f"{type(error).__name__}")
            self._on_open_failed(opening, failure)

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
        """Put new tokens for those that are due."""
        entities = connection.due_for_refresh(time.monotonic())
        for entity in entities:
            connection.postpone_refresh(entity, time.monotonic() + REFRESH_PAUSE)
        self._plan_refresh(connection)
        if not entities:
            return

        self.loop.spawn(self._refresh(connection, entities))

    async def _refresh(self, connection: AuthorizedConnection, entities: list[str]) -> None:
        for entity in entities:
            await self._refresh_token(connection, entity)

    async def _refresh_token(self, connection: AuthorizedConnection, entity: str) -> None:
        try:
            await self._authorize(connection, entity, Operation())
        except QueueError as error:
            logger.warning("the token for %s could not be refreshed: %s", entity, error, queue=entity)

    # The end

    def close(self) -> None:
        """Close the connections, and end the loop's thread. Idempotent. Any thread may call this. Blocks until the end."""

        def job() -> None:
            self._closed = True
            handshaking = () if self._handshaking is None else (self._handshaking,)
            for connection in (*self._connections, *handshaking):
                connection.transport.close()
            if self._opening is not None:
                # Callers must not wait for a connection that is still being opened.
                self._on_open_failed(self._opening, closed_error())

        with suppress(ProviderError):  # It was closed before, maybe by a call that was interrupted.
            self.loop.call(job)
        self.loop.close()

    def after_fork(self) -> None:
        """In a forked child: forget the connections, which stay the parent's."""
        self.loop.after_fork()
        self._tokens.after_fork()
        self._begin()
