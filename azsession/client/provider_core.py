"""`ProviderCore`: the internals of a `ServiceBusProvider`.

It opens session clients on one shared connection, and closes them in the end. It is used by `ServiceBusProvider`, by the
functions of `sending` and `management`, and by `SessionProcessor`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from .. import forks, threads
from ..config import ServiceBusConfig
from ..errors import ConfigurationError
from ..messages import ReceiptHandle
from ..telemetry import Telemetry
from . import handover, operations
from .accepting import Acceptance
from .call import Call
from .cancellation import PendingCalls
from .holder import RELEASE_PATIENCE, LockOptions
from .lock_handle import LockHandle
from .server_connection import ServerConnection
from .session import OnLockLost, SessionClient, holder_of, make_client
from .shared_sends import SharedSends
from .transport import Transport

T = TypeVar("T")


class ProviderCore:
    """Opens sessions, and sends calls that are not about one session, until it is closed. Safe to use from many threads.

    Args:
        connection: The way to the server. It is closed with the provider.
        place: Where the server is, as `repr` shows it. By default the connection's URL, or ``sb://host`` for AMQP.

    Attributes:
        sends: Sends messages that several threads send at the same time. `None` straight on Azure, where the broker sends the
            messages of all threads on one link, without waiting for those before.
        pending: The calls of the provider itself that wait. `close` cancels them.
        closed: Whether the provider was closed.
    """

    def __init__(self, connection: ServerConnection, place: str | None = None) -> None:
        self.connection = connection
        self.config: ServiceBusConfig = connection.config
        self.transport: Transport = connection.transport
        self.telemetry: Telemetry = connection.telemetry
        self.place: str = place or f"at {_shown_url(connection)}"
        self.pending: PendingCalls = PendingCalls()
        self.sends: SharedSends | None = self._new_sends()
        self.closed: bool = False
        self._has_ended = False
        #: Threads that give back what an interrupted call was granted. Operations of a set are atomic.
        self._background: set[threading.Thread] = set()
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
        prefetch: int | None = None,
    ) -> SessionClient | None:
        """Return a client that holds the next available session. Blocks.

        Args:
            queue_name: The queue.
            options: How to treat the lock.
            wait: Seconds to wait for a session.
            pending: Stopping it ends the wait.
            on_lock_lost: Called if the lock is lost.
            prefetch: How many messages to fetch in the same request, if the server can. `receiving.next_ahead` returns them.
                The caller uses the first at once. `None`: no message.

        Returns:
            The client, or `None` if no session came in time, or if `pending` was stopped.
        """
        acceptance = Acceptance(self, queue_name, options, pending, on_lock_lost, prefetch)
        try:
            return acceptance.accept(wait)
        except BaseException:
            acceptance.give_back()
            raise

    def run_in_background(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread that `close` waits for. Without a thread, it runs at once."""
        thread = threading.Thread(target=work, name="azsession-give-back", daemon=True)
        self._background.add(thread)
        try:
            threads.start(thread)
        except RuntimeError:  # There are too many threads, or the interpreter is exiting.
            self._background.discard(thread)
            work()

    def adopt(self, receipt: ReceiptHandle) -> SessionClient:
        """Return a client that can settle the message of a receipt."""
        self.check_open()
        options = LockOptions(self.config.session_timeout, auto_renew=False)
        client = make_client(self.connection, receipt.session_id, receipt.queue_name, options)
        holder_of(client).adopt(receipt)
        return client

    def resume(self, handle: LockHandle, options: LockOptions, on_lock_lost: OnLockLost | None) -> SessionClient:
        """Return a client that holds the session of a handle.

        Raises:
            UnsupportedOperationError: The provider is straight on Azure.
        """
        self.check_open()
        handover.check_portable(uses_amqp=self.config.uses_amqp)
        client = self.open_session(handle.queue_name, handle.session_id, options, on_lock_lost)
        handover.resume(holder_of(client), handle)
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
        """Close all open sessions and the connection. Idempotent. After an interrupt, a second call continues."""
        self.closed = True
        if not self._has_ended:
            self._end_sessions()
        # Again: a signal handler can have closed the provider during an accept, which then gives its session back.
        self._join_background()
        self.connection.close()

    def _end_sessions(self) -> None:
        self.pending.stop()
        for known in self._waits.copy():
            waits = known()
            if waits is not None:
                waits.stop()
        self._join_background()
        # End all waits before the first release. If the server does not answer a release, do not wait for the others.
        for holder in [holder for holder in self.connection.clients() if holder.shut()]:
            if not holder.release():
                break
        self._has_ended = True

    def _join_background(self) -> None:
        for thread in self._background.copy():
            if thread.ident is not None:
                thread.join(2 * RELEASE_PATIENCE)
            self._background.discard(thread)

    def _new_sends(self) -> SharedSends | None:
        return None if self.config.uses_amqp else SharedSends(operations.send, self.transport.send)

    def after_fork(self) -> None:
        """In a forked child: leave the parent's waits to the parent."""
        self.pending = PendingCalls()
        self.sends = self._new_sends()
        self._waits = set()
        self._background = set()


def _shown_url(connection: ServerConnection) -> str:
    """Return the URL of the server. The URL of the routes of an AMQP namespace would look like that of a gateway."""
    url = connection.transport.url
    return f"sb://{url.partition('://')[2]}" if connection.config.uses_amqp else url
