"""The transport that the HTTP server writes to. Every call goes through the connection."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class InnerSide(Protocol):
    """The side of a connection that the HTTP server uses."""

    @property
    def is_closed(self) -> bool: ...

    def write(self, data: bytes) -> None: ...

    def close_from_inside(self) -> None: ...

    def pause_from_inside(self, paused: bool) -> None: ...

    def abort(self) -> None: ...


class WatchedTransport(asyncio.Transport):
    """The transport that the HTTP server sees.

    Args:
        connection: The connection.
        transport: The transport of the event loop.
    """

    def __init__(self, connection: InnerSide, transport: asyncio.Transport) -> None:
        super().__init__()
        self._connection = connection
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.write(bytes(data))

    def close(self) -> None:
        self._connection.close_from_inside()

    def abort(self) -> None:
        self._connection.abort()

    def is_closing(self) -> bool:
        return self._connection.is_closed

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._connection.pause_from_inside(True)

    def resume_reading(self) -> None:
        self._connection.pause_from_inside(False)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()
