"""The sockets under `requests`: which one a request uses, so that another thread can end its wait, and how a forked child
lets go of all of them. Used by `transport`.

`requests` does not say which connection a request runs on. Its adapters keep urllib3 pools whose classes can be exchanged
per pool manager; the ones here note the connection in the `Flight` of the thread that uses it. An adapter without sockets,
such as the gateway's in-process one, asks `current_flight` for it.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3 import poolmanager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class CancelledError(OSError):
    """The request was cancelled before it was sent."""


class Flight:
    """One request under way: whether it was written yet, and how to end its wait.

    Attributes:
        tracked: Whatever carries it knows of it, so that `written` means something.
        written: Part of it may have reached the server.
        cancelled: Its wait was ended.
    """

    __slots__ = ("_connection", "_end", "cancelled", "tracked", "written")

    def __init__(self) -> None:
        self.tracked = False
        self.written = False
        self.cancelled = False
        self._connection: Any = None
        self._end: Callable[[], object] | None = None

    def cancel(self) -> None:
        """End the wait: the thread that waits gets a connection error at once."""
        with _owners:
            self.cancelled = True
            connection = self._connection
            # With the lock held, so that no other flight can take the connection in between.
            if connection is not None and connection.flight is self:
                for sock in (connection.opening, _socket_of(connection.sock)):
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

    def _take_off(self, connection: Any) -> None:
        with _owners:
            if self.cancelled:
                raise CancelledError("the request was cancelled")
            self._connection, connection.flight = connection, self
        self.tracked = True


_owners = threading.Lock()  # Guards which flight a connection belongs to, and `cancelled`.
_current = threading.local()
_connections: weakref.WeakSet[Any] = weakref.WeakSet()
_pools: weakref.WeakSet[Any] = weakref.WeakSet()


def _socket_of(sock: Any) -> socket.socket | None:
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


class _WholeResponse(HTTPResponse):
    """An answer whose headers must end: `http.client` takes those of a cut connection for all, and the body for empty."""

    fp: Any

    def begin(self) -> None:
        file = self.fp
        self.fp = _HeaderLines(file)
        try:
            super().begin()
        finally:
            # `None` where it was closed, over a status line that is none.
            self.fp = self.fp and file


class _Tracked:
    """A connection that belongs to the flight of the thread that sends on it."""

    response_class: Any = _WholeResponse
    flight: Flight | None = None
    opening: socket.socket | None = None
    sock: Any

    def connect(self) -> None:
        flight: Flight | None = getattr(_current, "flight", None)
        if flight is not None:
            flight._take_off(self)
        _connections.add(self)
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        flight: Flight | None = getattr(_current, "flight", None)
        if flight is not None:
            if self.sock is None:
                self.connect()
            # After connecting: a flight that was cancelled meanwhile had no socket to shut.
            flight._take_off(self)
            flight.written = True
        super().request(*args, **kwargs)  # type: ignore[misc]


class _TrackedHTTP(_Tracked, HTTPConnection):
    pass


class _TrackedHTTPS(_Tracked, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with _owners:
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
            with _owners:
                conn.flight = None
        super()._put_conn(conn)  # type: ignore[misc]


class _PoolHTTP(_Pool, HTTPConnectionPool):
    ConnectionCls = _TrackedHTTP


class _PoolHTTPS(_Pool, HTTPSConnectionPool):
    ConnectionCls = _TrackedHTTPS


_POOLS = {"http": _PoolHTTP, "https": _PoolHTTPS}


class KeptAdapter(HTTPAdapter):
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

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return super().request_url(request, proxies) if proxies else _divide(request.url or "")[1]


def _divide(url: str) -> tuple[str, str]:
    """Return a URL's scheme and host, and the rest."""
    at = url.find("/", len("https://"))
    return url[:at], url[at:]


def fly(http: requests.Session, request: requests.PreparedRequest, flight: Flight, **settings: Any) -> requests.Response:
    """Send a prepared request on `http`, noting in `flight` what becomes of it."""
    _current.flight = flight
    try:
        return http.send(request, allow_redirects=False, **settings)
    finally:
        _current.flight = None


def current_flight() -> Flight | None:
    """Return the flight of the request that this thread sends, where `fly` sends it."""
    flight: Flight | None = getattr(_current, "flight", None)
    return flight


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
    global _owners
    _owners = threading.Lock()
    for connection in list(_connections):
        for sock in (connection.opening, _socket_of(connection.sock)):
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
