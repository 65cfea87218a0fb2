"""The way to one Service Bus namespace: connections, opened when needed and again when lost, and tokens.

Callers block here, in their own threads; what belongs to the connection is done in the loop's thread.
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
from .authorized_connection import Uplink, address_of
from .error_mapping import error_of
from .transport.connection import Connection
from .transport.loop import Loop, closed_error
from .transport.stream import Address, Stream, open_stream

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds after which a wait for an answer is one that its caller may want to end.
QUICKLY = 0.02
#: Tokens without an end known say that they end then.
FOREVER = float("inf")
#: Connections at once: Azure lets each have thousands of links.
MAX_CONNECTIONS = 16
#: Seconds to wait for a connection, and for each of its steps.
CONNECT_TIMEOUT = 10.0


class Namespace:
    """A namespace, reached by any number of threads over one connection, or a few where its links would be too many.

    Args:
        address: Where it is.
        tokens: What authenticates.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, address: Address, tokens: TokenCache, *, timeout: float) -> None:
        self.loop: Loop = Loop()
        self.timeout = timeout
        self._address = address
        self._tokens = tokens
        self._begin()

    def _begin(self) -> None:
        # Written in the loop's thread only.
        self._uplinks: tuple[Uplink, ...] = ()
        self._begun: Uplink | None = None
        self._opening: Future[Uplink] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Namespace {self._address.host}>"

    # Any thread

    def reach(self, entity: str, context: CallContext) -> Uplink:
        """Return a connection with room for more links, opened and authorized for an entity. Blocks.

        Raises:
            ConnectionFailedError: It cannot be reached.
            AuthenticationFailedError: The token was refused, or there is none.
            QueueError: What else the namespace says.
        """
        ready = self.at_hand(entity)
        if ready is not None:
            return ready
        try:
            uplink = self._connected(context)
            self._authorize(uplink, entity, context)
        except ConnectionFailedError as error:
            # Nothing was asked for yet, so that nothing can have taken effect, even where an answer is missing.
            raise ConnectionFailedError(str(error), code=error.code) from error.__cause__
        return uplink

    def at_hand(self, entity: str) -> Uplink | None:
        """Return such a connection if there is one already. Does not block."""
        uplink = self._with_room()
        return uplink if uplink is not None and uplink.is_authorized(entity) else None

    def _with_room(self) -> Uplink | None:
        return next((one for one in self._uplinks if not one.connection.closed and not one.connection.is_full), None)

    def _authorize(self, uplink: Uplink, entity: str, context: CallContext) -> None:
        refused = self._put_token(uplink, entity, context)
        if refused is not None:
            # It may have been revoked: a new one, once.
            self._tokens.drop(self._audience(entity), refused.header)
            if self._put_token(uplink, entity, context) is not None:
                raise AuthenticationFailedError(f"the namespace refused the token for {entity or self._address.host!r}")

    def _audience(self, entity: str) -> str:
        return f"sb://{self._address.host}/{address_of(entity)}"

    def _put_token(self, uplink: Uplink, entity: str, context: CallContext) -> Token | None:
        """Put the entity's token; return it if it was refused."""
        audience = self._audience(entity)
        token, refresh_in, ends_in = self._tokens.lookup(audience)
        now = time.monotonic()
        future: Future[Condition | None] = Future()

        def job() -> None:
            uplink.authorize(entity, audience, token, now + refresh_in, now + ends_in, future.set_result)

        self.loop.call(job)
        try:
            error = self.wait(future, context)
        except ConnectionFailedError:
            self._tell(lambda: uplink.give_up(entity, token))
            raise
        if error is None:
            self.loop.call(lambda: self._plan_refresh(uplink))
            return None
        failure = error_of(error, entity=entity)
        if isinstance(failure, AuthenticationFailedError):
            return token
        raise failure

    def wait(self, future: Future[T], context: CallContext, seconds: float | None = None) -> T:
        """Return a future's result.

        Raises:
            ConnectionFailedError: There was none within the time that answers have, or that the caller has for it.
        """
        limit = self.timeout if seconds is None else seconds
        if context.deadline is not None:
            limit = max(0.0, min(limit, context.deadline - time.monotonic()))
        try:
            return future.result(limit if context.deadline is None else min(limit, QUICKLY))
        except FutureTimeoutError:
            if future.done():
                raise
        # A caller without a deadline is a client over HTTP. To watch one takes one of the gateway's places for waiting,
        # which are for receives and accepts.
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
        link: str | None = None,
        session_id: str | None = None,
    ) -> Response:
        """Ask the management node of an entity, or of its dead-letter queue. Blocks.

        Raises:
            QueueError: What it answered, or that it did not.
        """
        reached = self.reach(entity, context)
        future: Future[Response | Condition] = Future()
        self.loop.call(lambda: reached.manage(entity, operation, body, future.set_result, link))
        answer = self.wait(future, context)
        if isinstance(answer, Condition):
            raise error_of(answer, entity=entity, session_id=session_id)
        return answer

    # The connection

    def _connected(self, context: CallContext) -> Uplink:
        future = self.loop.run(self._join_or_open)
        return self.wait(future, context, 3 * CONNECT_TIMEOUT)

    def _join_or_open(self) -> Future[Uplink]:
        """Return the future of a connection with room, being opened in a thread of its own if there is none."""
        uplink = self._with_room()
        if uplink is not None:
            ready: Future[Uplink] = Future()
            ready.set_result(uplink)
            return ready
        if len(self._uplinks) >= MAX_CONNECTIONS:
            raise ProviderError(
                f"{len(self._uplinks)} connections are full of sessions", code=SERVER_BUSY, status=503, is_transient=True
            )
        if self._opening is None:
            if self._closed:
                raise closed_error()
            opening: Future[Uplink] = Future()
            self._opening = opening
            try:
                threading.Thread(target=self._open, args=(opening,), name="azsession-connect", daemon=True).start()
            except RuntimeError as error:
                self._opening = None
                raise ProviderError(f"no thread can be started: {error}", code=SERVER_BUSY, status=503) from error
        return self._opening

    def _open(self, opening: Future[Uplink]) -> None:
        try:
            stream = open_stream(self._address, CONNECT_TIMEOUT)
        except BaseException as error:
            failed = error if isinstance(error, QueueError) else ConnectionFailedError(f"{type(error).__name__}")
            self._tell(lambda: self._open_failed(opening, failed))
            return
        if not self._tell(lambda: self._begin_connection(opening, stream)):
            stream.close()

    def _tell(self, job: Callable[[], object]) -> bool:
        try:
            self.loop.call(job)
        except ProviderError:
            return False
        return True

    def _open_failed(self, opening: Future[Uplink], error: QueueError) -> None:
        if self._opening is opening:
            self._opening = None
        if not opening.done():
            opening.set_exception(error)

    def _begin_connection(self, opening: Future[Uplink], stream: Stream) -> None:
        if self._closed:
            stream.close()
            self._open_failed(opening, closed_error())
            return

        def opened() -> None:
            self._opening = self._begun = None
            self._uplinks = (*self._uplinks, uplink)
            opening.set_result(uplink)

        def closed(error: QueueError) -> None:
            self._open_failed(opening, error)
            self._uplinks = tuple(one for one in self._uplinks if one is not uplink)
            if self._begun is uplink:
                self._begun = None
            if uplink.refresh is not None:
                uplink.refresh.cancel()

        try:
            connection = Connection(
                self.loop, stream, self._address, on_opened=opened, on_closed=closed, open_timeout=CONNECT_TIMEOUT
            )
        except BaseException as error:
            stream.close()
            self._open_failed(opening, ConnectionFailedError(f"{self._address.host}: {type(error).__name__}"))
            raise
        uplink = self._begun = Uplink(connection)

    # Tokens

    def _plan_refresh(self, uplink: Uplink) -> None:
        if uplink.refresh is not None:
            uplink.refresh.cancel()
        due = uplink.next_refresh()
        if due is not None and due < FOREVER and not uplink.connection.closed:
            uplink.refresh = self.loop.later(due - time.monotonic(), lambda: self._refresh_tokens(uplink))

    def _refresh_tokens(self, uplink: Uplink) -> None:
        """Have tokens put anew that end soon, by a thread of its own: a credential may take its time."""
        entities = uplink.to_refresh(time.monotonic())
        for entity in entities:
            uplink.postpone(entity, time.monotonic() + REFRESH_PAUSE)
        self._plan_refresh(uplink)
        if not entities:
            return

        def refresh() -> None:
            for entity in entities:
                self._refresh_token(uplink, entity)

        threading.Thread(target=refresh, name="azsession-tokens", daemon=True).start()

    def _refresh_token(self, uplink: Uplink, entity: str) -> None:
        try:
            self._authorize(uplink, entity, NO_DEADLINE)
        except QueueError as error:
            logger.warning("the token for %s could not be refreshed: %s", entity, error)

    # The end

    def close(self) -> None:
        """Close the connection, and end the thread. Idempotent."""

        def job() -> None:
            self._closed = True
            for uplink in self._uplinks if self._begun is None else (*self._uplinks, self._begun):
                uplink.connection.close()
            if self._opening is not None:
                # Those who wait need not wait for what is still being tried.
                self._open_failed(self._opening, closed_error())

        if self._tell(job):
            self.loop.close()

    def after_fork(self) -> None:
        """In a forked child: a new connection when it is needed; the parent's stays the parent's."""
        self.loop.after_fork()
        self._tokens.after_fork()
        self._begin()
