"""Requests under way: a `Flight` says what the answer may take and how far the request came, and can have its wait ended.

`Transport` makes one for each attempt. What carries the request asks `current_flight` for it: the sockets of `connections`,
or an adapter without sockets, such as the gateway's in-process one.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from typing import Any


class CancelledError(OSError):
    """The request was cancelled before it was sent."""


class AnswerTooLargeError(OSError):
    """The answer is larger than any answer to this request has reason to be."""


class Flight:
    """One request under way: whether it was written yet, how to end its wait, and what its answer may take.

    Args:
        deadline: When the answer must have come, on the monotonic clock; later by as much as a large one takes at
            `connections.SLOWEST`. `None` is whenever.
        room: Bytes that its body may have.

    Attributes:
        tracked: Whatever carries it knows of it, so that `written` means something.
        written: Part of it may have reached the server.
        cancelled: Its wait was ended.
    """

    __slots__ = ("_connection", "_end", "cancelled", "deadline", "room", "tracked", "written")

    def __init__(self, deadline: float | None = None, room: int = sys.maxsize) -> None:
        self.deadline: float | None = deadline
        self.room: int = room
        self.tracked: bool = False
        self.written: bool = False
        self.cancelled: bool = False
        self._connection: Any = None
        self._end: Callable[[], object] | None = None

    def cancel(self) -> None:
        """End the wait: the thread that waits gets a connection error at once."""
        with owners:
            self.cancelled = True
            connection = self._connection
            # With the lock held, so that no other flight can take the connection in between.
            if connection is not None and connection.flight is self:
                for sock in (connection.opening, socket_of(connection.sock)):
                    _shut(sock)
        end = self._end
        if end is not None:
            end()

    def on_cancel(self, end: Callable[[], object] | None) -> None:
        """Have `cancel` call `end`, from any thread and maybe more than once; now, if it was cancelled already."""
        # Noted before `cancelled` is looked at, and looked for after that was set: one of the two sees the other.
        self._end = end
        if end is not None and self.cancelled:
            end()

    def take_off(self, connection: Any) -> None:
        """Note the connection that carries it, so that `cancel` can end its wait.

        Raises:
            CancelledError: It was cancelled already.
        """
        with owners:
            if self.cancelled:
                raise CancelledError("the request was cancelled")
            self._connection, connection.flight = connection, self
        self.tracked = True


owners: threading.Lock = threading.Lock()  # Guards which flight a connection belongs to, and `cancelled`.
current: threading.local = threading.local()


def current_flight() -> Flight | None:
    """Return the flight of the request that this thread sends, where `fly` sends it."""
    flight: Flight | None = getattr(current, "flight", None)
    return flight


def socket_of(sock: Any) -> socket.socket | None:
    """Return the socket itself: TLS through a proxy that is spoken to in TLS has it wrapped in another object."""
    while sock is not None and not isinstance(sock, socket.socket):
        sock = getattr(sock, "socket", None)
    return sock


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        try:
            # The base class's: a TLS socket's own would take its state away under the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return
