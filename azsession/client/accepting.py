"""`Acceptance`: one attempt to take the next available session. `ProviderCore` and `ServiceBusProvider` make it.

A call can be interrupted between the grant of a session and the return of its client. Then nobody would hold the session, and
its lock would last until it expires. `Acceptance.give_back` releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from .. import interrupts
from ..errors import ConnectionFailedError, QueueError
from ..logs import SessionLogger, get_logger
from . import operations
from .call import Call
from .cancellation import PendingCalls
from .holder import RELEASE_PATIENCE, Holder, LockOptions
from .ids import new_id
from .responses import LockGrant
from .server_connection import ServerConnection
from .session import OnLockLost, SessionClient, holder_of, make_client

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")


class Provider(Protocol):
    """A `ProviderCore` as an `Acceptance` sees it.

    Attributes:
        connection: The way to the server.
        closed: Whether the provider was closed.
    """

    connection: ServerConnection
    closed: bool

    def check_open(self) -> None:
        """Raise `ConfigurationError` if the provider was closed."""

    def run_in_background(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread that closing the provider waits for."""


class Acceptance:
    """Takes the next available session of a queue.

    Args:
        core: The provider.
        queue_name: The queue.
        options: How to treat the lock.
        pending: Stopping it ends the wait.
        on_lock_lost: Called if the lock is lost.
        prefetch: How many messages to fetch in the same request, if the server can; 1 to 1000. `receiving.next_ahead` returns
            them. The caller uses the first at once. `None`: no message.
    """

    def __init__(
        self,
        core: Provider,
        queue_name: str,
        options: LockOptions,
        pending: PendingCalls,
        on_lock_lost: OnLockLost | None,
        prefetch: int | None = None,
    ) -> None:
        self._core = core
        self._queue_name = queue_name
        self._options = options
        self._pending = pending
        self._on_lock_lost = on_lock_lost
        self._prefetch = prefetch
        self._lock_id = new_id()
        #: The request, from before it is sent until its answer is known to be no grant.
        self._sent: Call[LockGrant | None] | None = None
        self._holder: Holder | None = None
        #: Whether `_holder` knows that it has the lock.
        self._is_held = False

    def accept(self, wait: float) -> SessionClient | None:
        """Return a client that holds the session. Blocks for up to `wait` seconds.

        Returns:
            The client, or `None` if no session came in time, or if `pending` was stopped.
        """
        core, pending = self._core, self._pending
        core.check_open()
        core.connection.transport.require_v1("take the next available session")
        count = self._prefetch if core.connection.transport.combines else None
        lasts = self._options.session_timeout
        call = operations.accept(self._queue_name, None, self._lock_id, wait, lasts, max_count=count)
        self._sent = call
        try:
            grant = core.connection.transport.send(call, pending)
        except QueueError as error:
            if interrupts.raised_by_handler(error):
                raise
            if not isinstance(error, ConnectionFailedError) or not error.maybe_delivered:
                self._sent = None  # The server granted nothing.
            if not isinstance(error, ConnectionFailedError):
                raise
            core.check_open()
            if not pending.stopped.is_set():
                raise
            # The server may have granted a session just before the wait was ended. A repeated request gets the same one.
            grant = self._send_again(call) if error.maybe_delivered else None
        if grant is None:
            self._sent = None
            core.check_open()  # The broker of a closed provider ends the wait.
            return None
        client = self._client_of(grant)
        if core.closed or pending.stopped.is_set():
            self._release()
            core.check_open()
            return None
        return client

    def give_back(self) -> None:
        """Release the session that was granted, if any, in the background. `accept` was interrupted or failed."""
        if self._holder is not None:
            # Without a request: the client is closed at once, so that it does not warn when it is garbage-collected.
            self._holder.shut()
        if self._sent is not None:
            self._core.run_in_background(self._release)

    def _release(self) -> None:
        sent = self._sent
        if self._is_held and self._holder is not None:
            if self._holder.shut():
                logger.info("giving back %s late: its accept was interrupted", self._holder.lock.name, **self._holder.about)
                self._holder.release()
        elif sent is not None:
            grant = self._send_again(sent)
            client = None if grant is None else self._client_of(grant)
            if client is not None:
                client.close()
        self._sent = None

    def _client_of(self, grant: LockGrant) -> SessionClient:
        client = make_client(self._core.connection, grant.session_id, self._queue_name, self._options, self._on_lock_lost)
        self._holder = holder_of(client)
        self._holder.accepted(grant, self._lock_id)
        self._is_held = True
        return client

    def _send_again(self, call: Call[T]) -> T | None:
        call.wait, call.stopped = 0.0, None
        call.response_timeout = call.retry_within = RELEASE_PATIENCE
        try:
            return self._core.connection.transport.send(call)
        except QueueError:
            return None
