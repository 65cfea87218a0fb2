"""Connections and pools of urllib3 that report to the `RequestInFlight` of the thread that uses them.

requests does not say which connection carries a request. Its adapters use urllib3's pools, whose classes can be replaced.
`http_sockets` does so.
"""

from __future__ import annotations

import http.client
import queue
import re
import socket
import threading
import weakref
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.response import HTTPResponse

from ..futures import Condition
from . import cancellation
from .bounded_response import BoundedResponse
from .cancellation import RequestInFlight, current_request, socket_of
from .http_heads import ResponseHead, ResponseHeaders, host_of, request_head
from .originals import Methods

#: The largest body, in bytes, that is read together with the headers.
WHOLE_SIZE = 65536
#: The methods whose requests need no length if they have no body.
_WITHOUT_BODY = frozenset({"GET", "DELETE"})

#: The connections and pools of this process, for `forget_inherited`.
_connections: weakref.WeakSet[_TrackedConnection] = weakref.WeakSet()
_pools: weakref.WeakSet[_TrackedPool] = weakref.WeakSet()

#: The methods that `_PlainConnection` does not call. In version 1 of urllib3, whose connections return other responses,
#: `getresponse` is that of `http.client`, so that its connections are used as they are.
_PASSED_BY = Methods(
    *((HTTPConnection, name) for name in ("request", "putrequest", "putheader", "getresponse")),
    *((http.client.HTTPConnection, name) for name in ("putrequest", "putheader", "endheaders", "getresponse")),
)
#: The `id` of the connection that this thread has put into a pool last, until it takes one again.
_returned = threading.local()


class _TrackedConnection:
    """A connection that belongs to the request of the thread that uses it.

    Attributes:
        in_flight: That request.
        opening: A duplicate of the socket during the TLS handshake.
        sock: The socket, or a TLS object around it.
    """

    #: 0 even if somebody sets it for all connections: `http.client` would print tokens and bodies.
    debuglevel = 0
    response_class: Any = BoundedResponse
    in_flight: RequestInFlight | None = None
    opening: socket.socket | None = None
    sock: Any = None

    def __del__(self) -> None:
        # An interrupt can come after urllib3 took the connection out of its pool. Nobody else closes it then.
        if self.sock is not None:
            self.sock.close()

    def close(self) -> None:
        # An interrupted thread can have put the connection into the pool already. It is another thread's then.
        if getattr(_returned, "connection", None) != id(self):
            super().close()  # type: ignore[misc]

    def connect(self) -> None:
        request = current_request()
        if request is not None:
            request.use_connection(self)
        _connections.add(self)
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        request = current_request()
        if request is not None:
            self._begin(request)
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _begin(self, request: RequestInFlight) -> None:
        if self.sock is None:
            self.connect()
        # Only after connecting: a request that was cancelled in between had no socket to shut down.
        request.use_connection(self)
        request.written = True


class _PlainConnection(_TrackedConnection):
    """A connection of urllib3's own class. It writes and reads the head of plain requests and responses in one step."""

    host: str
    port: int | None
    default_port: int
    timeout: float | None
    #: The method and the target of the request that was sent in one step, and the options of its response.
    _sent: tuple[str, str, Mapping[str, Any]] | None = None

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self._sent = None
        request = current_request()
        data = None if request is None else self._whole(method, url, body, headers, options)
        if request is None or data is None:
            super().request(method, url, body, headers, **options)
            return
        self._begin(request)
        self.sock.settimeout(self.timeout)
        self._sent = (method, url, options)
        # A server that closes the connection early may have answered: urllib3 reads the response after this error.
        self.send(data)  # type: ignore[attr-defined]

    def _whole(
        self, method: str, url: str, body: Any, headers: Mapping[str, str] | None, options: Mapping[str, Any]
    ) -> bytes | None:
        """Return all bytes of a request. `None` if it is not plain, or another program watches urllib3's own way."""
        host = host_of(self.host, self.port, self.default_port)
        if host is None or headers is None or options.get("chunked") or getattr(self, "proxy", None) is not None:
            return None
        if body is None and method not in _WITHOUT_BODY:
            return None
        if body is not None and not (isinstance(body, bytes) and "Content-Length" in headers):
            return None
        if not _PASSED_BY.are_original():
            return None
        head = request_head(method, url, host, headers)
        return head + body if head is not None and body else head

    def getresponse(self) -> Any:
        sent, self._sent = self._sent, None
        if sent is None:
            return super().getresponse()  # type: ignore[misc]
        self.sock.settimeout(self.timeout)
        response = self.response_class(self.sock, method=sent[0])
        try:
            response.begin()
            if response.will_close:
                self.close()
            request = current_request()
            if request is not None and request.takes_whole and _is_small(response, request.max_body_size):
                return WholeResponse(response, sent, self)
            return _as_urllib3(response, sent)
        except BaseException as error:
            if isinstance(error, ConnectionError):
                self.close()
            response.close()
            raise


def _is_small(response: BoundedResponse, limit: int) -> bool:
    """Return whether the body of a response can be read at once."""
    head = response.head
    return head is not None and head.length <= min(limit, WHOLE_SIZE) and "content-encoding" not in head.headers


class WholeResponse:
    """A plain response whose body is read. For all but the attributes below it makes the response of urllib3.

    `HTTPConnectionPool.urlopen` reads and sets some of them.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The body.
    """

    version_string: str = "HTTP/1.1"
    length_remaining: int = 0

    def __init__(
        self, response: BoundedResponse, sent: tuple[str, str, Mapping[str, Any]], connection: _PlainConnection
    ) -> None:
        self._original_response = response
        self._sent = sent
        self._own_connection = connection
        self.status: int = response.status
        self.headers: ResponseHeaders = cast("ResponseHead", response.head).headers
        self.body: bytes = response.read()

    def release_to(self, pool: Any) -> None:
        """Put the connection back into its pool."""
        pool._put_conn(self._own_connection)

    def close(self) -> None:
        """Close the connection."""
        self._own_connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(_as_urllib3(self._original_response, self._sent, self.body), name)


def _as_urllib3(
    response: BoundedResponse, sent: tuple[str, str, Mapping[str, Any]], body: bytes | None = None
) -> HTTPResponse:
    """Return a response as urllib3 gives it to its callers. `body`: its body, if it is read."""
    method, url, options = sent
    if response.head is not None:
        fields = response.head.headers.fields
    else:
        # A value can span several lines (RFC 9112, section 5.2).
        fields = [(name, re.sub(r"\r?\n[ \t]+", " ", value)) for name, value in response.headers.items()]
    found = HTTPResponse(
        body=response if body is None else body,
        headers=fields,  # type: ignore[arg-type]
        status=response.status,
        version=response.version,
        reason=response.reason,
        original_response=response,
        request_method=method,
        request_url=url,
        preload_content=options.get("preload_content", True),
        decode_content=options.get("decode_content", True),
        enforce_content_length=options.get("enforce_content_length", True),
    )
    found.version_string = "HTTP/1.1" if response.version == 11 else "HTTP/1.0"
    return found


class _TrackedTLSConnection(_TrackedConnection):
    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with cancellation.connection_owners:
                if self.opening is not None:
                    self.opening.close()
                    self.opening = None

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        # The handshake detaches the socket from its descriptor. `cancel` can shut down the duplicate in the meantime.
        self.opening = sock.dup()
        return sock


class ConnectionQueue(queue.LifoQueue[Any]):
    """A queue of connections that has no connection twice.

    An interrupt does not leave its lock taken. A signal handler can use the queue while its thread is in a method.
    """

    mutex: threading.Lock
    not_empty: threading.Condition
    not_full: threading.Condition
    all_tasks_done: threading.Condition

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        if hasattr(self, "mutex"):  # The queues of gevent have none.
            self.mutex = cast("threading.Lock", threading.RLock())
            self.not_empty, self.not_full, self.all_tasks_done = (Condition(self.mutex) for _ in range(3))

    def _get(self) -> Any:
        _returned.connection = None
        try:
            return super()._get()
        except IndexError:  # A signal handler took the last connection.
            raise queue.Empty from None


class _TrackedPool:
    pool: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _pools.add(self)

    def _get_conn(self, timeout: float | None = None) -> Any:
        _returned.connection = None
        return super()._get_conn(timeout)  # type: ignore[misc]

    def _put_conn(self, conn: Any) -> None:
        returned = getattr(_returned, "connection", None)
        if returned is not None and (conn is None or id(conn) == returned):
            return  # An interrupt came after this thread had put it back.
        # A late `cancel` of this request must not shut down the next request on the connection.
        if conn is not None:
            with cancellation.connection_owners:
                conn.in_flight = None
            _returned.connection = id(conn)
        super()._put_conn(conn)  # type: ignore[misc]


@cache
def tracked(pool_class: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """Return a subclass of a class of pools that opens tracked connections, or the class itself if it does so."""
    if issubclass(pool_class, _TrackedPool):
        return pool_class
    connection_class: type[Any] = pool_class.ConnectionCls
    bases: tuple[type[Any], ...] = (
        _TrackedTLSConnection if issubclass(connection_class, HTTPSConnection) else _TrackedConnection,
        connection_class,
    )
    if connection_class in (HTTPConnection, HTTPSConnection):
        bases = (_PlainConnection, *bases)
    tracked_class = type(f"_Tracked{connection_class.__name__}", bases, {})
    classes: dict[str, Any] = {"ConnectionCls": tracked_class}
    if pool_class.QueueCls is queue.LifoQueue:
        classes["QueueCls"] = ConnectionQueue
    return type(f"_Tracked{pool_class.__name__}", (_TrackedPool, pool_class), classes)


def forget_inherited() -> None:
    """In a forked child: close the child's copies of the parent's sockets, and empty the pools."""
    cancellation.connection_owners = threading.RLock()
    for connection in list(_connections):
        for sock in (connection.opening, socket_of(connection.sock)):
            # This closes the descriptor of this process only. The connection stays the parent's: no TLS or TCP shutdown.
            if sock is not None and sock.fileno() >= 0:
                socket.close(socket.socket.detach(sock))
        connection.sock = connection.opening = None
    for pool in list(_pools):
        if pool.pool is not None:
            # This empties the queue and replaces its locks. Another thread of the parent may have held them at the fork, and
            # urllib3 takes them when the pool is closed.
            pool.pool.__init__(pool.pool.maxsize)
