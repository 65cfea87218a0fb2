"""The types of ASGI 3 (https://asgi.readthedocs.io), and the parts of a connection that ASGI does not describe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from .framing import HeadReader

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Any], Awaitable[None]]

#: The key in the ``state`` of a scope under which the gateway's own server hands over the connection.
CONNECTION_KEY = "azsession.connection"
#: Seconds of a wait after which the events of another server are watched. Most waits are shorter.
WATCH_AFTER = 0.02


class ASGIApplication(Protocol):
    """An application that any ASGI server can serve."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class ClientGoneError(Exception):
    """The client closed the connection."""


class RequestConnection:
    """The connection of a request. The application tells it what it does, so that it can apply the right time limits.

    The connection of the gateway's own server overrides everything. Other servers have limits of their own.

    Attributes:
        headers: Headers that the server leaves to the application.
        is_last: Whether the connection is closed after the request, because the server stops.
        heads: Reads the heads of its requests.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()
    is_last: bool = False
    _watcher: asyncio.Task[None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.heads: HeadReader = HeadReader()

    def begin(self) -> None:
        """A request begins: its head is complete."""

    def body_arrived(self, size: int) -> None:
        """Bytes of the body were read."""

    def body_read(self) -> None:
        """The body of the request is read."""

    def watch(self, receive: Receive, on_lost: Callable[[], None] | None) -> None:
        """Call a function if the client goes away; `None` ends that. `receive` returns the next event of the request."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = None if on_lost is None else asyncio.ensure_future(self._watch(receive, on_lost))

    async def _watch(self, receive: Receive, on_lost: Callable[[], None]) -> None:
        await asyncio.sleep(WATCH_AFTER)
        await _disconnect(receive)
        on_lost()

    async def has_left(self, receive: Receive) -> bool:
        """Return whether the server has noticed by now that the client went away. For a request whose body is read."""
        watcher = asyncio.ensure_future(_disconnect(receive))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not watcher.done():
            watcher.cancel()
            return False
        return watcher.exception() is None

    def join_writes(self) -> None:
        """Keep the following parts of an answer until `flush`, so that they are sent together."""

    def flush(self) -> None:
        """Send the parts that are kept."""

    def close_slowly(self) -> None:
        """The client may still be sending when the connection is closed. It must get the time to read the answer."""

    def abort(self) -> None:
        """Close the connection at once. Other servers close it when the application ends before the answer does."""

    async def flushed(self) -> bool:
        """Wait until the system has taken all bytes of the answer. Return `False` if the connection was lost before."""
        return True

    def end(self) -> None:
        """The request ends."""


async def _disconnect(receive: Receive) -> None:
    """Return when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
