"""Whether the client of a long poll is still there.

The gateway's server puts a request's socket into the WSGI environment. While a receive waits, one thread watches the
sockets of all that wait; a client that closed its connection ends its wait, and no message is handed out to it.
"""

from __future__ import annotations

import select
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...broker.base import Caller
from ...errors import ThrottledError
from ...protocol.error_codes import THROTTLED

#: The key in the WSGI environment under which the server hands on the request's socket.
SOCKET_KEY = "azsession.socket"
#: The key of what the application calls when it has read the request's body.
BODY_READ_KEY = "azsession.body_read"


def _is_readable(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # Windows has no other, nor that one's limit of 1,024 descriptors.
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def is_closed(sock: socket.socket) -> bool:
    """Tell whether the peer closed the connection, without reading from it and without waiting."""
    try:
        # A socket with a timeout waits for something to read whatever the flags say, so that is found out first.
        if not _is_readable(sock):
            return False
        # The base class's, since a TLS socket cannot peek; what is peeked at is not used, only whether there is an end.
        return socket.socket.recv(sock, 1, socket.MSG_PEEK) == b""
    except (BlockingIOError, InterruptedError):
        return False
    except (OSError, ValueError):
        return True


class Presence:
    """Watches the sockets of those who wait, and counts them.

    Args:
        max_waiting: How many may wait at once; more are told to come back.
    """

    def __init__(self, max_waiting: int) -> None:
        self._slots = threading.BoundedSemaphore(max_waiting)
        self._lock = threading.Lock()  # Guards what follows.
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def caller(self, sock: socket.socket | None) -> Caller:
        """Return the caller behind a request's socket."""
        return _SocketCaller(self, sock)

    @contextmanager
    def waiting(self, sock: socket.socket | None, on_gone: Callable[[], None]) -> Iterator[None]:
        """Count one who waits, and call `on_gone` when its client goes away."""
        if not self._slots.acquire(blocking=False):
            raise ThrottledError("too many receives wait here already", code=THROTTLED, retry_after=1.0)
        try:
            watched = sock is not None and self._watch(sock, on_gone)
            try:
                yield
            finally:
                if watched and sock is not None:
                    self._unwatch(sock)
        finally:
            self._slots.release()

    def _watch(self, sock: socket.socket, on_gone: Callable[[], None]) -> bool:
        with self._lock:
            if self._stopped:
                return False
            if self._selector is None:
                self._selector = selectors.DefaultSelector()
                self._wake = socket.socketpair()
                self._selector.register(self._wake[0], selectors.EVENT_READ)
            try:
                self._selector.register(sock, selectors.EVENT_READ, on_gone)
            except (KeyError, ValueError, OSError):
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="azsession-presence", daemon=True)
                self._thread.start()
            return True

    def _unwatch(self, sock: socket.socket) -> None:
        with self._lock:
            if self._selector is not None:
                try:
                    self._selector.unregister(sock)
                except (KeyError, ValueError, OSError):
                    return

    def _run(self) -> None:
        selector = self._selector
        while selector is not None and not self._stopped:
            for key, _ in selector.select():
                if key.data is None or not isinstance(key.fileobj, socket.socket):
                    continue
                # Either the end, or a request sent ahead: neither is worth watching any longer.
                self._unwatch(key.fileobj)
                if is_closed(key.fileobj):
                    key.data()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        with self._lock:
            self._stopped = True
            thread, wake, self._wake = self._thread, self._wake, None
        if thread is None or self._selector is None or wake is None:
            return
        wake[1].send(b"\0")
        thread.join()
        self._selector.close()
        for end in wake:
            end.close()


class _SocketCaller(Caller):
    def __init__(self, presence: Presence, sock: socket.socket | None) -> None:
        self._presence = presence
        self._socket = sock

    def is_gone(self) -> bool:
        return self._socket is not None and is_closed(self._socket)

    @contextmanager
    def watched(self, on_gone: Callable[[], None]) -> Iterator[None]:
        with self._presence.waiting(self._socket, on_gone):
            yield
