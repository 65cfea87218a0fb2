"""`ProviderCore`: the internals of a `ServiceBusProvider`.

It opens session clients on one shared connection, and closes them in the end. It is used by `ServiceBusProvider`, by the
functions of `sending` and `management`, and by `SessionProcessor`.
"""

from __future__ import annotations

import weakref
from typing import TypeVar

from .. import forks, interrupts
from ..config import ServiceBusConfig
from ..errors import ConfigurationError, ConnectionFailedError, QueueError
from ..messages import ReceiptHandle
from . import operations
from .call import Call
from .cancellation import PendingCalls
from .holder import RELEASE_PATIENCE, LockOptions
from .ids import new_id
from .server_connection import ServerConnection
from .session import OnLockLost, SessionClient, holder_of, make_client
from .transport import Transport

T = TypeVar("T")


class ProviderCore:
    """Opens sessions, and sends calls that are not about one session, until it is closed. Safe to use from many threads.

    Args:
        connection: The way to the server. It is closed with the provider.
        place: Where the server is, as `repr` shows it. By default the connection's URL, or ``sb://host`` for AMQP.

    Attributes:
        pending: The calls of the provider itself that wait. `close` cancels them.
        closed: Whether the provider was closed.
    """

    def __init__(self, connection: ServerConnection, place: str | None = None) -> None:
        self.connection = connection
        self.config: ServiceBusConfig = connection.config
        self.transport: Transport = connection.transport
        self.place: str = place or f"at {_shown_url(connection)}"
        self.pending: PendingCalls = PendingCalls()
        self.closed: bool = False
        # The waits of session processors. `add`, `discard` and `copy` of a set are atomic, so it has no lock: a signal
        # handler that closes the provider could deadlock on one.
        self._waits: set[weakref.ref[PendingCalls]] = set()
        forks.register(self)

    def check_open(self) -> None:
        """Check that the provider is open.

        Raises:
            ConfigurationError: It was closed.
        """
        if self.closed:
            raise ConfigurationError("the provider is closed: create a new one")

    def send(self, call: Call[T], operation: str) -> T:
        """Send a call that the plain dialect does not have. `operation` names it in the error about that."""
        self.check_open()
        self.transport.require_v1(operation)
        return self.transport.send(call)

    # Sessions

    def open_session(
        self, queue_name: str, session_id: str, options: LockOptions, on_lock_lost: OnLockLost | None = None
    ) -> SessionClient:
        """Return a client for a session, without a request."""
        self.check_open()
        client = make_client(self.connection, session_id, queue_name, options, on_lock_lost)
        if self.closed:  # Another thread closed the provider meanwhile, and may not have seen this client.
            holder_of(client).shut()
            self.check_open()
        return client

    def accept_next(
        self,
        queue_name: str,
        options: LockOptions,
        wait: float,
        pending: PendingCalls,
        on_lock_lost: OnLockLost | None = None,
    ) -> SessionClient | None:
        """Return a client that holds the next available session. Blocks.

        Args:
            queue_name: The queue.
            options: How to treat the lock.
            wait: Seconds to wait for a session.
            pending: Stopping it ends the wait.
            on_lock_lost: Called if the lock is lost.

        Returns:
            The client, or `None` if no session came in time, or if `pending` was stopped.
        """
        self.check_open()
        self.transport.require_v1("take the next available session")
        lock_id = new_id()
        call = operations.accept(queue_name, None, lock_id, wait)
        try:
            grant = self.transport.send(call, pending)
        except ConnectionFailedError as error:
            if interrupts.raised_by_handler(error):
                raise
            self.check_open()
            if not pending.stopped.is_set():
                raise
            # The server may have granted a session just before the wait was ended. A repeated request gets the same one.
            grant = self._send_again(call) if error.maybe_delivered else None
        if grant is None:
            return None
        client = make_client(self.connection, grant.session_id, queue_name, options, on_lock_lost)
        holder = holder_of(client)
        holder.accepted(grant, lock_id)
        if self.closed or pending.stopped.is_set():
            if holder.shut():
                holder.release()
            self.check_open()
            return None
        return client

    def _send_again(self, call: Call[T]) -> T | None:
        call.wait, call.stopped = 0.0, None
        call.response_timeout = call.retry_within = RELEASE_PATIENCE
        try:
            return self.transport.send(call)
        except QueueError:
            return None

    def adopt(self, receipt: ReceiptHandle) -> SessionClient:
        """Return a client that can settle the message of a receipt."""
        self.check_open()
        options = LockOptions(self.config.session_timeout, auto_renew=False)
        client = make_client(self.connection, receipt.session_id, receipt.queue_name, options)
        holder_of(client).adopt(receipt)
        return client

    def new_waits(self) -> PendingCalls:
        """Return a registry for the calls of a `SessionProcessor` that wait. Closing the provider cancels them."""
        waits = PendingCalls()
        self._waits.add(weakref.ref(waits, self._waits.discard))
        if self.closed:
            waits.stop()
        return waits

    # Start and end

    def close(self) -> None:
        """Close all open sessions and the connection. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.pending.stop()
        for known in self._waits.copy():
            waits = known()
            if waits is not None:
                waits.stop()
        # End all waits before the first release. If the server does not answer a release, do not wait for the others.
        for holder in [holder for holder in self.connection.clients() if holder.shut()]:
            if not holder.release():
                break
        self.connection.close()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's waits to the parent."""
        self.pending = PendingCalls()
        self._waits = set()


def _shown_url(connection: ServerConnection) -> str:
    """Return the URL of the server. The URL of the routes of an AMQP namespace would look like that of a gateway."""
    url = connection.transport.url
    return f"sb://{url.partition('://')[2]}" if connection.config.uses_amqp else url
