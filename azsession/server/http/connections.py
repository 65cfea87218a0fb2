"""The open connections of the gateway's server: their number, and the checks of their time limits."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, Protocol

from . import limits
from .asgi import CONNECTION_KEY
from .connection import Connection


class InnerFactory(Protocol):
    """Makes the protocol object of the HTTP server for one connection.

    Its argument becomes the ``state`` of the connection's requests.
    """

    def __call__(self, state: dict[str, Any]) -> asyncio.Protocol: ...


class Connections:
    """The connections of one server. Only the thread of its event loop may use them.

    Args:
        make_inner: Makes the protocol objects of the HTTP server.
        limit: Connections at most. An eighth more are kept for as long as it takes to refuse them.
    """

    def __init__(self, make_inner: InnerFactory, limit: int) -> None:
        self._make_inner = make_inner
        self._limit = limit
        self._limit_refused = limit + max(8, limit // 8)
        self._open: set[Connection] = set()
        #: Idle connections, and since when they are. The one that has been idle longest comes first.
        self._idle: dict[Connection, float] = {}
        #: Connections with a time limit.
        self._watched: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        #: Whether the server stops: each connection is closed after the answer to its request.
        self.is_stopping: bool = False

    def __len__(self) -> int:
        return len(self._open)

    def new(self) -> Connection | None:
        """Return a new connection, or `None` if there must be no more."""
        if self.is_stopping or len(self._open) >= self._limit_refused:
            return None
        is_refused = len(self._open) >= self._limit and not self.make_room()
        connection = Connection(self, lambda: self._make_inner({CONNECTION_KEY: connection}), is_refused)
        self._open.add(connection)
        if self._timer is None:
            self._schedule()
        return connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._watched.discard(connection)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def update(self, connection: Connection) -> None:
        """Notice a change of `Connection.is_idle` or `Connection.is_watched`."""
        if connection not in self._open:
            return
        self._idle.pop(connection, None)
        if connection.is_watched:
            self._watched.add(connection)
            return
        self._watched.discard(connection)
        if connection.is_idle:
            self._idle[connection] = time.monotonic()

    def make_room(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        connection, since = next(iter(self._idle.items()), (None, 0.0))
        if connection is None or since > time.monotonic() - limits.IDLE_GRACE:
            return False
        self.remove(connection)
        connection.abort()
        return True

    async def drain(self, patience: float) -> None:
        """Answer the running requests, and close all connections.

        Args:
            patience: Seconds after which connections are closed although their requests are not answered.
        """
        self.is_stopping = True
        for connection in list(self._open):
            connection.stop()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wait_until_empty(), patience)
        for connection in list(self._open):
            connection.abort()
        await self._wait_until_empty()
        if self._timer is not None:
            self._timer.cancel()

    async def _wait_until_empty(self) -> None:
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(limits.CHECK_PAUSE, self._check)

    def _check(self) -> None:
        """Close the connections that are over a time limit."""
        now = time.monotonic()
        for connection in [found for found in self._watched if found.is_late(now)]:
            connection.on_late()
        for connection, since in list(self._idle.items()):
            if since > now - limits.IDLE_TIMEOUT:
                break
            connection.close()
        self._timer = None
        if self._open:
            self._schedule()
