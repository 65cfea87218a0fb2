"""Cancellation: end the wait of a request from another thread.

`Transport` makes one `RequestInFlight` for each attempt to send a call. The code that carries the request
(`http_connections`, or the in-process adapter) gets it from `current_request` and reports how far the request came.
`PendingCalls` holds the calls of one client that wait, so that closing the client can cancel them.
"""

from __future__ import annotations

import socket
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from ..events import Event


class CancelledError(OSError):
    """The request was cancelled."""


class ResponseTooLargeError(OSError):
    """The response is larger than the request allows."""


class CancellableConnection(Protocol):
    """A connection that a request uses.

    Attributes:
        in_flight: The request that uses it.
        opening: A duplicate of the socket while the connection is being opened.
        sock: The socket, or a TLS object around it.
    """

    in_flight: RequestInFlight | None
    opening: socket.socket | None
    sock: object


class RequestInFlight:
    """One attempt to send a request.

    Args:
        deadline: When the response must be complete, on the monotonic clock. A large body gets more time, see
            `bounded_response.SLOWEST_RATE`. `None` is no limit.
        max_body_size: The largest body of the response, in bytes.

    Attributes:
        tracked: The code that carries the request sets `written`. If not, `written` means nothing.
        written: The server may have received a part of the request.
        cancelled: The request was cancelled.
        takes_whole: The code that sends the request takes a `http_connections.WholeResponse`.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_end_wait",
        "cancelled",
        "deadline",
        "max_body_size",
        "takes_whole",
        "tracked",
        "written",
    )

    def __init__(self, deadline: float | None = None, max_body_size: int = sys.maxsize) -> None:
        self.deadline: float | None = deadline
        self.max_body_size: int = max_body_size
        self.tracked: bool = False
        self.written: bool = False
        self.cancelled: bool = False
        self.takes_whole: bool = False
        self._connection: CancellableConnection | None = None
        self._end_wait: Callable[[], object] | None = None

    def cancel(self) -> None:
        """Cancel the request, from any thread. The thread that waits for the response gets a connection error at once."""
        with connection_owners:
            self.cancelled = True
            connection = self._connection
            # The lock is held, so that no other request can take the connection in between.
            if connection is not None and connection.in_flight is self:
                for sock in (connection.opening, socket_of(connection.sock)):
                    _shut_down(sock)
        end_wait = self._end_wait
        if end_wait is not None:
            end_wait()

    def on_cancel(self, end_wait: Callable[[], object] | None) -> None:
        """Set the function that `cancel` calls. It is called at once if the request is already cancelled.

        Args:
            end_wait: Called from any thread, maybe more than once. `None` removes the function.
        """
        # `cancel` does these steps in the opposite order, so that at least one of the two threads sees the other's change.
        self._end_wait = end_wait
        if end_wait is not None and self.cancelled:
            end_wait()

    def use_connection(self, connection: CancellableConnection) -> None:
        """Note the connection that carries the request, so that `cancel` can shut it down.

        Raises:
            CancelledError: The request is already cancelled.
        """
        # First: a request that is cancelled below was not written, and the caller must learn that.
        self.tracked = True
        with connection_owners:
            self._connection, connection.in_flight = connection, self
            # After the change: a signal handler that interrupted this thread in between may have cancelled the request.
            if self.cancelled:
                raise CancelledError("the request was cancelled")


class CancellableCall(Protocol):
    """A call as `PendingCalls` sees it."""

    stopped: Event | None

    def cancel(self) -> None:
        """End the wait of the call, from another thread."""


class PendingCalls:
    """The calls of one client or provider that wait for the server, so that closing it can cancel them.

    Attributes:
        stopped: Set by `stop`.
    """

    def __init__(self) -> None:
        # `add`, `discard` and `copy` of a set are atomic, so it has no lock: a signal handler could deadlock on one.
        self._calls: set[CancellableCall] = set()
        self.stopped: Event = Event()

    def add(self, call: CancellableCall) -> None:
        """Have `stop` cancel a call."""
        call.stopped = self.stopped
        self._calls.add(call)

    def discard(self, call: CancellableCall) -> None:
        """Forget a call that has ended."""
        self._calls.discard(call)

    def stop(self) -> None:
        """Cancel all pending calls, and those that are added later. After an interrupt, a second call continues."""
        self.stopped.set()
        for call in self._calls.copy():
            call.cancel()


#: Guards `in_flight` of all connections, and `cancelled` of all requests. A forked child replaces it. A signal handler may
#: cancel a request while its thread holds the lock.
connection_owners: threading.RLock = threading.RLock()
#: `request` refers to the request that the thread sends.
_current: threading.local = threading.local()


def current_request() -> RequestInFlight | None:
    """Return the request that this thread sends over HTTP, if any."""
    reference: weakref.ref[RequestInFlight] | None = getattr(_current, "request", None)
    return None if reference is None else reference()


def set_current_request(request: RequestInFlight | None) -> None:
    """Note the request that this thread sends.

    An interrupt can come before the sender notes its end. The owner of a given `requests.Session` may use its connections for
    other requests then, whose time that request must not limit. So this keeps no request that nobody else has.
    """
    _current.request = None if request is None else weakref.ref(request)


def socket_of(sock: object) -> socket.socket | None:
    """Return the socket inside `sock`. urllib3 wraps the socket of a TLS connection through a TLS proxy in another object."""
    while sock is not None and not isinstance(sock, socket.socket):
        sock = getattr(sock, "socket", None)
    return sock


def _shut_down(sock: socket.socket | None) -> None:
    if sock is not None:
        try:
            # `socket.socket.shutdown`, not the method of a TLS socket: that one would remove the TLS state which the reading
            # thread uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return
