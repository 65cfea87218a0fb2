"""Accepts the connections of the gateway's server, in the thread of its event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Coroutine

from .connection import Connection
from .connections import Connections

logger: logging.Logger = logging.getLogger(__name__)

#: Connections that are accepted before others get their turn.
MAX_ACCEPTS = 64
#: Seconds without accepting after the system had no room for a connection, and seconds between two warnings about it.
NO_ROOM_PAUSE = 0.2
WARN_PAUSE = 60.0

_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Accepts connections until `stop`.

    Args:
        listener: The listening socket, which does not block.
        connections: Makes the connections.
        open_connection: Makes the transport of a connection.
    """

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        open_connection: Callable[[Connection, socket.socket], Coroutine[None, None, None]],
    ) -> None:
        self._listener = listener
        self._connections = connections
        self._open = open_connection
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._warned_at = float("-inf")
        self._start()

    def stop(self) -> None:
        """Accept no more connections, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _start(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._on_readable)

    def _on_readable(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._on_no_room(error)
                return
            sock.setblocking(False)
            connection = self._connections.new()
            if connection is None:
                sock.close()
            else:
                connection.open(self._loop.create_task(self._open(connection, sock)), sock)

    def _on_no_room(self, error: OSError) -> None:
        """Make room for a connection, or wait: the process or the system can open no more files."""
        now = time.monotonic()
        if now > self._warned_at + WARN_PAUSE:
            self._warned_at = now
            logger.warning("no more connections can be accepted (%s); new ones must wait", error.strerror)
        if not self._connections.make_room():
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(NO_ROOM_PAUSE, self._start)
