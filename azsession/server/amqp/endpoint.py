"""The AMQP endpoint: accepts connections in an event loop, bounds their number, and ends them. `GatewayService` runs it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ...broker.base import Broker
from ..acceptor import Acceptor
from ..authorization import Guard
from . import limits
from .conditions import FORCED, ConnectionFaultError
from .connection import Connection
from .reporter import OperationMetrics, Reporter
from .services import Services

#: Seconds between the close frames and the end of the connections, when the server stops.
STOP_PATIENCE = 2.0


class Endpoint:
    """Serves a broker over AMQP.

    Args:
        broker: The broker. The caller closes it.
        guard: Checks tokens and keys.
        max_message_size: Bytes of a message, of a batch, and of a session state, at most.
        has_room: Returns whether the server may have another connection. Without room, a new one is closed at once. Called in
            the event loop.
        make_room: Closes an idle connection of another server of this process; returns whether there was one.
        tls: The context of TLS connections; `None` without TLS.
        metrics: Count the operations, if they are there.
    """

    def __init__(
        self,
        broker: Broker,
        guard: Guard,
        *,
        max_message_size: int,
        has_room: Callable[[], bool],
        make_room: Callable[[], bool],
        tls: ssl.SSLContext | None = None,
        metrics: OperationMetrics | None = None,
    ) -> None:
        self._services = Services(broker, guard, max_message_size, Reporter(metrics))
        self._has_room = has_room
        self._make_room = make_room
        self._sock: socket.socket | None = None
        self._tls = tls
        self._is_stopping = False
        self._acceptor: Acceptor | None = None
        #: The accepted connections that are not open yet, and the tasks that open them: over TLS, with the handshake.
        self._opening: dict[Connection, asyncio.Task[object]] = {}
        self._emptied: asyncio.Future[None] | None = None
        self._connections: set[Connection] = set()

    @property
    def connection_count(self) -> int:
        """How many connections there are, with those whose TLS handshake is not over."""
        return len(self._connections) + len(self._opening)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for clients to read them."""
        return sum(connection.unsent_bytes for connection in list(self._connections))

    def bind(self, sock: socket.socket) -> None:
        """Let `start` serve on a listening socket, which the endpoint closes."""
        self._sock = sock

    def new_connection(self) -> Connection:
        """Return the protocol for a new connection. Called in the event loop."""
        return Connection(self, self._services)

    def new_websocket(self) -> asyncio.Protocol:
        """Return the protocol for a connection of the HTTP server that asks for a WebSocket. Called in the event loop."""
        # Not at the top: a gateway without AMQP does not need the package websockets.
        from .websocket import WebSocket

        return WebSocket(self.new_connection, self.has_room)

    async def start(self) -> None:
        """Serve on the socket, in the running event loop."""
        assert self._sock is not None
        self._acceptor = Acceptor(self._sock, self._on_socket, self._make_room)
        self._acceptor.start()

    def _on_socket(self, sock: socket.socket) -> None:
        if not self.has_room():
            sock.close()
            return
        connection, loop = self.new_connection(), asyncio.get_running_loop()
        seconds = None if self._tls is None else limits.HANDSHAKE_TIMEOUT
        task = self._opening[connection] = loop.create_task(
            loop.connect_accepted_socket(lambda: connection, sock, ssl=self._tls, ssl_handshake_timeout=seconds)
        )
        task.add_done_callback(partial(self._on_opened, sock, connection))

    def _on_opened(self, sock: socket.socket, connection: Connection, task: asyncio.Task[object]) -> None:
        self._opening.pop(connection, None)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return
        sock.close()
        # `OSError`: the client went away, sent something else than TLS, or was too slow.
        if not isinstance(error, (OSError, asyncio.CancelledError)):
            raise error  # The event loop logs it.

    async def stop(self) -> None:
        """Close the connections, and wait until they are gone."""
        self._is_stopping = True
        if self._acceptor is not None:
            self._acceptor.stop()
        for task in list(self._opening.values()):
            task.cancel()
        fault = ConnectionFaultError(FORCED, "The server is stopping.")
        for connection in list(self._connections):
            connection.close(fault)
        if self._connections:
            self._emptied = asyncio.get_running_loop().create_future()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._emptied, STOP_PATIENCE)
        for connection in list(self._connections):
            connection.abort()

    def has_room(self) -> bool:
        """Return whether there may be another connection."""
        return not self._is_stopping and self._has_room()

    def add(self, connection: Connection) -> bool:
        """Count a new connection; return whether there is room for it."""
        # An accepted connection has its place already, and one of a WebSocket gets it now.
        if self._is_stopping or not (connection in self._opening or self.has_room()):
            return False
        self._opening.pop(connection, None)
        self._connections.add(connection)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
