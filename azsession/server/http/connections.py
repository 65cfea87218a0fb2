"""The open connections of the gateway's server: their number, and the checks of their time limits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any

from . import limits
from .asgi import CONNECTION_KEY
from .connection import Connection


class Connections:
    """The connections of one server. Only the thread of its event loop may use them.

    Args:
        make_inner: Makes the protocol object of the HTTP server for a connection. Its argument becomes the ``state`` of the
            connection's requests.
        limit: Connections at most, with those of other servers in this process. An eighth more are kept for as long as it
            takes to refuse them.
        count_others: Returns how many connections the other servers have.
    """

    def __init__(
        self,
        make_inner: Callable[[dict[str, Any]], asyncio.Protocol],
        limit: int,
        count_others: Callable[[], int] = lambda: 0,
    ) -> None:
        self._make_inner = make_inner
        self._limit = limit
        self._count_others = count_others
        self._limit_refused = limit + max(8, limit // 8)
        self._open: set[Connection] = set()
        #: The connections that were idle at the last check, and until when. The one that has been idle longest comes first.
        self._idle: deque[tuple[float, Connection]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        #: Whether the server stops: each connection is closed after the answer to its request.
        self.is_stopping: bool = False

    def __len__(self) -> int:
        return len(self._open)

    def new(self) -> Connection | None:
        """Return a new connection, or `None` if there must be no more."""
        if self.is_stopping or self._count() >= self._limit_refused:
            return None
        is_refused = not self.has_room()
        connection = Connection(self.remove, lambda: self._make_inner({CONNECTION_KEY: connection}), is_refused)
        self._open.add(connection)
        if self._timer is None:
            self._schedule()
        return connection

    def has_room(self) -> bool:
        """Return whether there may be another connection. The one that has been idle longest makes room."""
        return self._count() < self._limit or self.make_room()

    def _count(self) -> int:
        return len(self._open) + self._count_others()

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        if not self._open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def make_room(self) -> bool:
        """Close the connection that has been idle longest, if there is one."""
        newest = time.monotonic() + limits.IDLE_TIMEOUT - limits.IDLE_GRACE
        while self._idle and self._idle[0][0] <= newest:
            idle_until, connection = self._idle.popleft()
            if connection in self._open and connection.idle_until == idle_until:
                self.remove(connection)
                connection.abort()
                return True
        return False

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
        """Close the connections that are over a time limit, and find the idle ones."""
        now = time.monotonic()
        idle = []
        for connection in list(self._open):
            if connection.is_late(now):
                connection.on_late()
            elif connection.idle_until is not None:
                idle.append((connection.idle_until, connection))
        self._idle = deque(sorted(idle, key=itemgetter(0)))
        self._timer = None
        if self._open:
            self._schedule()
