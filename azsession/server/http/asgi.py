"""The types of ASGI 3 (https://asgi.readthedocs.io), and the parts of a connection that ASGI does not describe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Any], Awaitable[None]]

#: The key in the ``state`` of a scope under which the gateway's own server hands over the connection.
CONNECTION_KEY = "azsession.connection"


class ASGIApplication(Protocol):
    """An application that any ASGI server can serve."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Connection(Protocol):
    """The connection of a request. The application tells it what it does, so that it can apply the right time limits."""

    @property
    def is_closed(self) -> bool:
        """Whether the connection is known to be closed."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Headers that the server leaves to the application."""

    @property
    def is_last(self) -> bool:
        """Whether the connection is closed after the request, because the server stops."""

    def begin(self) -> None:
        """A request begins: its head is complete."""

    def watch(self, on_lost: Callable[[], None] | None) -> bool:
        """Call a function if the client goes away; `None` ends that. Return `False` if only ASGI's events tell it."""

    def body_arrived(self, size: int) -> None:
        """Bytes of the body were read."""

    def body_read(self) -> None:
        """The body of the request is read."""

    def close_slowly(self) -> None:
        """The client may still be sending when the connection is closed. It must get the time to read the answer."""

    async def flushed(self) -> bool:
        """Wait until the system has taken all bytes of the answer. Return `False` if the connection was lost before."""

    def end(self) -> None:
        """The request ends."""


class UnknownConnection:
    """A connection of another server, which has limits of its own."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    is_closed = False
    is_last = False

    def begin(self) -> None: ...

    def watch(self, on_lost: Callable[[], None] | None) -> bool:
        return False

    def body_arrived(self, size: int) -> None: ...

    def body_read(self) -> None: ...

    def close_slowly(self) -> None: ...

    async def flushed(self) -> bool:
        return True

    def end(self) -> None: ...
