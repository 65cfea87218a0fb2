"""Pools of urllib3 whose connections report to the `RequestInFlight` of the thread that uses them.

requests does not say which connection carries a request. Its adapters use urllib3's pools, whose classes can be replaced.
`http_sockets` does so.
"""

from __future__ import annotations

import errno
import http.client
import logging
import queue
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ProtocolError

from ..futures import Condition
from . import cancellation
from .cancellation import socket_of
from .http_connections import PlainConnection, TrackedConnection, TrackedTLSConnection, connections, returned
from .originals import Methods

#: The pools of this process, for `forget_inherited`.
pools: weakref.WeakSet[TrackedPool] = weakref.WeakSet()
#: The methods of a pool that `TrackedPool.ask` does not call.
_OF_POOLS = Methods((HTTPConnectionPool, "urlopen"), (HTTPConnectionPool, "_make_request"))
#: urllib3 logs each request here.
_urllib3_log = logging.getLogger("urllib3.connectionpool")
#: Errors of a write to a server that has closed the connection, perhaps after an answer. A Mac can report the last one.
_CLOSED_EARLY = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE})


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
        returned.connection = None
        try:
            return super()._get()
        except IndexError:  # A signal handler took the last connection.
            raise queue.Empty from None


class TrackedPool:
    """A pool of tracked connections: a base class that comes before urllib3's own."""

    pool: Any
    num_requests: int
    _validate_conn: Callable[[Any], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pools.add(self)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeouts: tuple[float, float],
        **options: Any,
    ) -> Any:
        """Send a request on an idle connection, and return the response. `urlopen` does the same in more steps.

        Args:
            method: The HTTP method.
            target: The path and query.
            body: The body.
            headers: All headers.
            timeouts: Seconds for writing, and for each read.
            options: How urllib3 gives the body of the response.

        Returns:
            The response. `None` if nothing was sent: no connection is idle, or another program watches urllib3.

        Raises:
            urllib3.exceptions.ProtocolError: There was no response, or a malformed one.
        """
        if not _OF_POOLS.are_original() or _urllib3_log.isEnabledFor(logging.DEBUG):
            return None
        connection = self._get_conn()
        try:
            if connection.sock is None or not isinstance(connection, PlainConnection):
                self._put_conn(connection)
                return None
            self.num_requests += 1
            self._validate_conn(connection)
            connection.timeout = timeouts[0]
            try:
                connection.request(method, target, body, headers, **options)
            except OSError as error:
                if error.errno not in _CLOSED_EARLY:
                    raise
            connection.timeout = timeouts[1]
            response = connection.getresponse()
            # Reading the body to its end returns the connection to the pool.
            response._connection, response._pool = connection, self
            return response
        except BaseException as error:
            connection.close()
            self._put_conn(None)
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise ProtocolError("Connection aborted.", error) from error
            raise

    def _get_conn(self, timeout: float | None = None) -> Any:
        returned.connection = None
        return super()._get_conn(timeout)  # type: ignore[misc]

    def _put_conn(self, conn: Any) -> None:
        latest = getattr(returned, "connection", None)
        if latest is not None and (conn is None or id(conn) == latest):
            return  # An interrupt came after this thread had put it back.
        # A late `cancel` of this request must not shut down the next request on the connection.
        if conn is not None:
            with cancellation.connection_owners:
                conn.in_flight = None
            returned.connection = id(conn)
        super()._put_conn(conn)  # type: ignore[misc]


@cache
def tracked(pool_class: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    """Return a subclass of a class of pools that opens tracked connections, or the class itself if it does so."""
    if issubclass(pool_class, TrackedPool):
        return pool_class
    connection_class: type[Any] = pool_class.ConnectionCls
    bases: tuple[type[Any], ...] = (
        TrackedTLSConnection if issubclass(connection_class, HTTPSConnection) else TrackedConnection,
        connection_class,
    )
    if connection_class in (HTTPConnection, HTTPSConnection):
        bases = (PlainConnection, *bases)
    tracked_class = type(f"_Tracked{connection_class.__name__}", bases, {})
    classes: dict[str, Any] = {"ConnectionCls": tracked_class}
    if pool_class.QueueCls is queue.LifoQueue:
        classes["QueueCls"] = ConnectionQueue
    return type(f"_Tracked{pool_class.__name__}", (TrackedPool, pool_class), classes)


def forget_inherited() -> None:
    """In a forked child: close the child's copies of the parent's sockets, and empty the pools."""
    cancellation.connection_owners = threading.RLock()
    for connection in list(connections):
        for sock in (connection.opening, socket_of(connection.sock)):
            # This closes the descriptor of this process only. The connection stays the parent's: no TLS or TCP shutdown.
            if sock is not None and sock.fileno() >= 0:
                socket.close(socket.socket.detach(sock))
        connection.sock = connection.opening = None
    for pool in list(pools):
        if pool.pool is not None:
            # This empties the queue and replaces its locks. Another thread of the parent may have held them at the fork, and
            # urllib3 takes them when the pool is closed.
            pool.pool.__init__(pool.pool.maxsize)
