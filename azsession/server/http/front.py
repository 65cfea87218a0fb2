"""The gateway's connections that need no thread: new and idle ones, those whose request's head is on its way, and those whose
last answer is.

`GatewayServer` runs a `Front` in its one accepting thread. Slow and silent clients stay here, whatever their number: a
connection gets a worker thread once a whole head lies there. Past the bound on connections the one that has been idle longest
makes room; where none is idle, a new one is answered 503.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Protocol

from ...protocol import ERROR_CODE_HEADER, JSON_TYPE, PROTOCOL_HEADER, PROTOCOL_VERSION
from ...protocol.error_codes import INVALID_REQUEST, SERVER_BUSY
from .streams import Reader

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds for which a connection must have been idle to make room for a new one.
IDLE_GRACE = 1.0
#: Seconds in which the peer may still send after the last answer, and must have read it.
LINGER = 5.0
#: Seconds between looks at deadlines.
PASS_TIME = 0.5
#: Seconds without accepting after the system had no room for a connection.
NO_ROOM_PAUSE = 0.2
#: Connections accepted before others get their turn.
MAX_ACCEPTS = 64

IDLE, ARRIVING, LEAVING = range(3)

_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def refusal(status: str, code: str, message: str, **fields: str) -> bytes:
    """Return the answer to a request that the application never sees; the connection ends with it."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    described = {"Content-Type": JSON_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    described.update({PROTOCOL_HEADER: PROTOCOL_VERSION, ERROR_CODE_HEADER: code})
    described.update({name.replace("_", "-"): value for name, value in fields.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in described.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


_BUSY = refusal("503 Service Unavailable", SERVER_BUSY, "the gateway is at its bound: come back in a second", Retry_After="1")
_LATE = refusal("408 Request Timeout", INVALID_REQUEST, "the request's head took too long to arrive")


class Connection(Protocol):
    """The attributes of a connection that the front uses."""

    socket: socket.socket
    rfile: Reader
    parked: int | None
    refused: bool

    def close(self, lingering: bool = True) -> None: ...


class Server(Protocol):
    """The attributes of a server that the front uses."""

    timeout: float
    header_deadline: float
    max_request_header_size: int
    ssl_adapter: Any
    requests: Any

    def connection(self, sock: socket.socket, address: Any) -> Connection: ...

    def cut_late(self, now: float) -> None: ...


class Front:
    """Accepts connections, and holds those that need no thread.

    Args:
        server: Serves the requests.
        listener: The socket to accept on.
        most: Connections at most. An eighth more is held for as long as it takes to refuse them.
    """

    def __init__(self, server: Server, listener: socket.socket, most: int) -> None:
        self._server = server
        self._listener = listener
        self._most = most
        self._most_refused = most + max(8, most // 8)
        self._lock = threading.Lock()  # Guards the selector's registrations and what follows.
        self._selector = selectors.DefaultSelector()
        self._parked: tuple[dict[Connection, float], ...] = ({}, {}, {})
        self._open = 0
        self._closed = False
        self._stopping = False
        self._serving = False
        self._wake_ends = socket.socketpair()
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._told_at = float("-inf")
        self._accepts_at: float | None = None
        listener.settimeout(0)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._wake_ends[0], selectors.EVENT_READ)
        # Others do not notice what is registered while they wait.
        self._notices = type(self._selector).__name__ in ("EpollSelector", "KqueueSelector")

    #: cheroot asks whether a connection may be kept: it may, since an idle one goes when room is needed.
    can_add_keepalive_connection = True

    @property
    def connections(self) -> int:
        """How many connections are open, those with a thread included."""
        return self._open

    # The accepting thread

    def run(self) -> None:
        """Accept, and watch what is parked here, until `stop`."""
        self._serving = True
        try:
            looked_at = time.monotonic()
            while not self._stopping:
                for key, _ in self._selector.select(PASS_TIME):
                    if key.data is not None:
                        self._advance(key.data)
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._wake_ends[0].recv(4096)
                now = time.monotonic()
                if now >= looked_at + PASS_TIME or self._accepts_at is not None:
                    looked_at = now
                    self._pass_time(now)
        finally:
            self._serving = False

    def stop(self) -> None:
        """End `run`. Returns when it has ended."""
        self._stopping = True
        self._wake()
        while self._serving:
            time.sleep(0.001)

    def close(self) -> None:
        """Close all connections that are parked here."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            parked = [conn for kind in self._parked for conn in kind]
            for kind in self._parked:
                kind.clear()
            self._selector.close()
            if self._spare is not None:
                os.close(self._spare)
        for conn in parked:
            conn.close()
        for end in self._wake_ends:
            end.close()

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_ends[1].send(b"\0")

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                sock, address = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._on_no_room(error)
                return
            try:
                conn = self._server.connection(sock, address)
            except OSError:
                sock.close()
                continue
            with self._lock:
                self._open += 1
            if self._open > self._most and not self._evict():
                conn.refused = True
            if self._open > self._most_refused:
                conn.close()
            else:
                self._park(conn, ARRIVING if conn.refused else IDLE)

    def _evict(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        with self._lock:
            conn, since = next(iter(self._parked[IDLE].items()), (None, 0.0))
            if conn is None or since > time.monotonic() - IDLE_GRACE:
                return False
            self._release(conn)
        conn.close()
        return True

    def _on_no_room(self, error: OSError) -> None:
        """Make room for who is to be accepted, or send them away: the process has no file descriptor left."""
        now = time.monotonic()
        if now > self._told_at + 60:
            self._told_at = now
            logger.warning("no more connections can be accepted (%s); new ones are answered 503", error.strerror)
        if self._evict():
            return
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        with suppress(OSError), self._listener.accept()[0] as sock:
            sock.settimeout(0)
            if self._server.ssl_adapter is None:
                sock.send(_BUSY)
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            # Somebody else was faster; who knocks waits in the system's queue meanwhile.
            self._accepts_at = now + NO_ROOM_PAUSE
            with self._lock:
                self._selector.unregister(self._listener)

    def _advance(self, conn: Connection) -> None:
        """Take what a parked connection's peer has sent."""
        if conn.parked == LEAVING:
            self._drain(conn)
            return
        if conn.parked is None:
            return  # Closed to make room, by another event of the same round.
        try:
            more = conn.rfile.fill()
        except OSError:
            more = False
        if not more:
            self._unpark(conn)
            conn.close()
        elif conn.rfile.has_head(self._server.max_request_header_size):
            self._unpark(conn)
            self._dispatch(conn)
        else:
            # Nothing at all was read: a TLS handshake is under way.
            kind = IDLE if conn.rfile.is_quiet and conn.rfile.count else ARRIVING
            if kind != conn.parked:
                with self._lock:
                    self._parked[conn.parked].pop(conn, None)
                    conn.parked = kind
                    self._parked[kind][conn] = time.monotonic()

    def _drain(self, conn: Connection) -> None:
        try:
            # The base class's: what comes is of no interest, TLS or not.
            more = socket.socket.recv(conn.socket, 65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            more = b""
        if not more:
            self._unpark(conn)
            conn.close(lingering=False)

    def _pass_time(self, now: float) -> None:
        if self._accepts_at is not None and now >= self._accepts_at:
            self._accepts_at = None
            with self._lock:
                self._selector.register(self._listener, selectors.EVENT_READ)
        for conn in self._over(IDLE, now - self._server.timeout):
            conn.close()
        for conn in self._over(ARRIVING, now - self._server.header_deadline):
            self._send_away(conn, _LATE)
        for conn in self._over(LEAVING, now - LINGER):
            conn.close(lingering=False)
        self._server.cut_late(now)

    def _over(self, kind: int, threshold: float) -> list[Connection]:
        """Take out those that have been parked since before `threshold`: they stand in the order in which they came."""
        over = []
        with self._lock:
            for conn, since in self._parked[kind].items():
                if since > threshold:
                    break
                over.append(conn)
            for conn in over:
                self._release(conn)
        return over

    # Any thread

    def put(self, conn: Connection) -> None:
        """Take a connection back whose request was answered."""
        if conn.rfile.has_head(self._server.max_request_header_size):
            self._dispatch(conn)
        else:
            self._park(conn, IDLE if conn.rfile.is_quiet else ARRIVING)

    def leave(self, conn: Connection) -> None:
        """Close a connection whose peer may still be sending, once it has had time to read the answer.

        Closed at once, the system would answer what is still coming with a reset, which may overtake the answer.
        """
        try:
            # The base class's: a TLS socket's own would forget its state.
            socket.socket.shutdown(conn.socket, socket.SHUT_WR)
        except OSError:
            conn.close(lingering=False)
        else:
            self._park(conn, LEAVING)

    def gone(self) -> None:
        """Count a connection that was closed."""
        with self._lock:
            self._open -= 1

    def _dispatch(self, conn: Connection) -> None:
        if conn.refused:
            self._send_away(conn, _BUSY)
            return
        conn.socket.settimeout(self._server.timeout)
        if not self._server.requests.put(conn):
            self._send_away(conn, _BUSY)

    def _send_away(self, conn: Connection, answer: bytes) -> None:
        with suppress(OSError, ssl.SSLError, ValueError):
            conn.socket.settimeout(0)
            conn.socket.send(answer)
        self.leave(conn)

    def _park(self, conn: Connection, kind: int) -> None:
        with self._lock:
            done = not self._closed
            if done:
                try:
                    conn.socket.settimeout(0)
                    conn.parked = kind
                    self._parked[kind][conn] = time.monotonic()
                    self._selector.register(conn.socket, selectors.EVENT_READ, conn)
                except (OSError, ValueError):
                    conn.parked = None
                    self._parked[kind].pop(conn, None)
                    done = False
        if not done:
            conn.close(lingering=False)
        elif not self._notices:
            self._wake()

    def _unpark(self, conn: Connection) -> None:
        with self._lock:
            self._release(conn)

    def _release(self, conn: Connection) -> None:
        """Take a connection out, with the lock held."""
        if conn.parked is not None:
            self._parked[conn.parked].pop(conn, None)
            conn.parked = None
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(conn.socket)
