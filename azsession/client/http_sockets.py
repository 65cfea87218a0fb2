"""The sockets under `requests`: which one a request uses, how long and how large its answer may be, and how a forked child
lets go of all of them. Used by `transport`.

`requests` does not say which connection a request runs on. Its adapters keep urllib3 pools whose classes can be exchanged
per pool manager; the ones here note the connection in the `RequestInFlight` of the thread that uses it.
"""

from __future__ import annotations

import io
import logging
import re
import socket
import threading
import time
import weakref
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3 import poolmanager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from . import cancellation
from .cancellation import RequestInFlight, ResponseTooLargeError, current_request, socket_of

#: Bytes a second that an answer may bring and still be waited for, once its own time is over.
SLOWEST = 16 * 1024
#: Bytes of an error's answer that are looked at.
ERROR_SIZE = 65536
#: Bytes of headers, and of what else stands around a body, for which there is room besides it.
_HEADERS_SIZE = 8 * 1024 * 1024
_CHUNK = 65536


_connections: weakref.WeakSet[Any] = weakref.WeakSet()
_pools: weakref.WeakSet[Any] = weakref.WeakSet()


class _HeaderLines:
    """The file of an answer while its headers are read."""

    __slots__ = ("close", "readline")

    def __init__(self, file: Any) -> None:
        read = file.readline

        # A closure, not a method: this runs for every header of every answer.
        def readline(limit: int = -1) -> bytes:
            line: bytes = read(limit)
            if not line:
                raise RemoteDisconnected("the connection was closed before or in the answer's headers")
            return line

        self.readline = readline
        self.close = file.close


class _Metered(io.RawIOBase):
    """What comes from the socket for one flight: until its time is over, and not more than it has room for.

    A socket's own timeout begins anew with every byte, and neither `http.client` nor urllib3 bounds what it reads.
    """

    def __init__(self, raw: Any, sock: Any, flight: RequestInFlight, deadline: float) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._flight = flight
        self._deadline = deadline
        self._received = 0
        #: The headers have come: from now on there is room for a body, and time where it is large.
        self.in_body = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline + (self._received / SLOWEST if self.in_body else 0.0) - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        self._received += count or 0
        if self._received > _HEADERS_SIZE + (self._flight.max_body_size if self.in_body else 0):
            what = f"more than {self._flight.max_body_size} bytes" if self.in_body else "headers without end"
            raise ResponseTooLargeError(f"its answer has {what}")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _WholeResponse(HTTPResponse):
    """An answer that must be whole, alone on its connection, and within what its flight allows.

    `http.client` takes the headers of a cut connection for all, and the body for empty.
    """

    fp: Any

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        flight = current_request()
        self._meter: _Metered | None = None
        if flight is not None and flight.deadline is not None:
            self._meter = _Metered(self.fp.detach(), sock, flight, flight.deadline)
            self.fp = io.BufferedReader(self._meter)

    def begin(self) -> None:
        file = self.fp
        self.fp = _HeaderLines(file)
        try:
            super().begin()
        finally:
            # `None` where it was closed, over a status line that is none.
            self.fp = self.fp and file
        if self._has_more():
            self.will_close = True
        if self._meter is not None:
            self._meter.in_body = True

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        # RFC 9110, 15.2: any number of 1xx precede the answer. `http.client` passes over 100 only, and takes 103 for it.
        return version, 100 if 100 < status < 200 and status != 101 else status, reason

    def _has_more(self) -> bool:
        """Tell whether something may come behind the answer, which the next request must not take for its own."""
        length, coding = self.headers.get("Content-Length"), self.headers.get("Transfer-Encoding")
        if self.status in (101, 204, 304):
            # None of them has a body (RFC 9112, 6.3); whoever announces one may well send it.
            return self.status == 101 or coding is not None or length not in (None, "0")
        return coding is not None and length is not None


class _Tracked:
    """A connection that belongs to the flight of the thread that sends on it."""

    #: `http.client` would print tokens and bodies, where somebody has set it for all connections.
    debuglevel = 0
    response_class: Any = _WholeResponse
    in_flight: RequestInFlight | None = None
    opening: socket.socket | None = None
    sock: Any

    def connect(self) -> None:
        flight = current_request()
        if flight is not None:
            flight.use_connection(self)
        _connections.add(self)
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        flight = current_request()
        if flight is not None:
            if self.sock is None:
                self.connect()
            # After connecting: a flight that was cancelled meanwhile had no socket to shut.
            flight.use_connection(self)
            flight.written = True
        super().request(*args, **kwargs)  # type: ignore[misc]


class _TrackedHTTP(_Tracked, HTTPConnection):
    pass


class _TrackedHTTPS(_Tracked, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with cancellation.connection_owners:
                if self.opening is not None:
                    self.opening.close()
                    self.opening = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # The handshake takes the socket's descriptor into an object of its own: this one can be shut meanwhile.
        self.opening = sock.dup()
        return sock


class _Pool:
    pool: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _pools.add(self)

    def _put_conn(self, conn: Any) -> None:
        # Its next flight must not be ended by a late `cancel` of this one.
        if conn is not None:
            with cancellation.connection_owners:
                conn.in_flight = None
        super()._put_conn(conn)  # type: ignore[misc]


class _PoolHTTP(_Pool, HTTPConnectionPool):
    ConnectionCls = _TrackedHTTP


class _PoolHTTPS(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TrackedHTTPS


_POOLS = {"http": _PoolHTTP, "https": _PoolHTTPS}


class PooledAdapter(HTTPAdapter):
    """An adapter that keeps which pool a server's requests go to, rather than work it out for each of them."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._kept: dict[Any, Any] = {}
        super().init_poolmanager(*args, **kwargs)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        server, _ = _divide(request.url or "")
        key = (server, verify, cert, tuple(proxies.items()) if proxies else None)
        pool = self._kept.get(key)
        if pool is None or pool.pool is None:
            pool = self._kept[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        found: HTTPConnectionPool = pool
        return found

    def close(self) -> None:
        # urllib3 leaves closing to the pools' finalizers, which have run already where this is done as the process ends.
        for pool in list(self._kept.values()):
            pool.close()
        super().close()

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return super().request_url(request, proxies) if proxies else _divide(request.url or "")[1]


def _divide(url: str) -> tuple[str, str]:
    """Return a URL's scheme and host, and the rest."""
    at = url.find("/", len("https://"))
    return url[:at], url[at:]


def send_prepared(
    http: requests.Session, request: requests.PreparedRequest, flight: RequestInFlight, **settings: Any
) -> requests.Response:
    """Send a prepared request on `http`, noting in `flight` what becomes of it; return the answer, which has been read.

    The body of an error is cut where it is large.
    """
    settings["stream"] = True
    cancellation.current.request = flight
    try:
        response = http.send(request, allow_redirects=False, **settings)
        try:
            response._content = _read_body(response, flight)
            return response
        except BaseException:
            if response.raw is not None:
                response.close()
            raise
    finally:
        cancellation.current.request = None


def _read_body(response: requests.Response, flight: RequestInFlight) -> bytes:
    if response.raw is None:  # As an adapter's without sockets may be.
        return response.content or b""
    parts: list[bytes] = []
    size, is_error = 0, response.status_code >= 300
    most = ERROR_SIZE if is_error else flight.max_body_size
    # Decoded here, piece by piece: a small body can be a large one packed.
    for part in response.iter_content(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > most:
            if not is_error:
                raise ResponseTooLargeError(f"its answer has more than {most} bytes")
            response.close()
            break
    return b"".join(parts)


class _HideLockTokens(logging.Filter):
    """Takes lock tokens out of what urllib3 logs of our requests: they stand in the paths, and who has one can settle."""

    _TOKEN = re.compile(r"(?<=/messages/)(?!head\b)[^/?\s'\")]+")

    def filter(self, record: logging.LogRecord) -> bool:
        if current_request() is not None:
            text = record.getMessage()
            shown = self._TOKEN.sub("...", text)
            if shown != text:
                record.msg, record.args = shown, ()
        return True


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_HideLockTokens())


def stay(response: requests.Response, *args: Any, **kwargs: Any) -> None:
    """Keep `requests` from preparing to follow a redirection: it would read all of its body first.

    A hook, which runs before that.
    """
    response.headers.pop("Location", None)


def track(http: requests.Session, url: str, proxies: dict[str, str]) -> None:
    """Have the adapter that `http` uses for `url` make tracked connections, where it is one of requests' own."""
    adapter = http.get_adapter(url)
    if not isinstance(adapter, HTTPAdapter):
        return
    managers: list[Any] = [getattr(adapter, "poolmanager", None)]
    proxy = select_proxy(url, proxies)
    if proxy:
        managers.append(adapter.proxy_manager_for(prepend_scheme_if_needed(proxy, "http")))
    for manager in managers:
        if getattr(manager, "pool_classes_by_scheme", None) is poolmanager.pool_classes_by_scheme:
            manager.pool_classes_by_scheme = _POOLS


def drop_inherited(http: requests.Session) -> None:
    """In a forked child: give `http` new pools, and close the child's copies of the parent's sockets."""
    cancellation.connection_owners = threading.Lock()
    for connection in list(_connections):
        for sock in (connection.opening, socket_of(connection.sock)):
            # Only this process's descriptor: the connection itself stays the parent's, so no TLS or TCP goodbye.
            if sock is not None and sock.fileno() >= 0:
                socket.close(socket.socket.detach(sock))
        connection.sock = connection.opening = None
    for pool in list(_pools):
        if pool.pool is not None:
            # Emptied, with new locks: another thread of the parent may have held them, and urllib3 takes them at its end.
            pool.pool.__init__(pool.pool.maxsize)
    adapter: Any
    for adapter in http.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            tracked = adapter.poolmanager.pool_classes_by_scheme
            adapter.init_poolmanager(adapter._pool_connections, adapter._pool_maxsize, block=adapter._pool_block)
            adapter.poolmanager.pool_classes_by_scheme = tracked
            adapter.proxy_manager = {}
    http.cookies._cookies_lock = threading.RLock()
