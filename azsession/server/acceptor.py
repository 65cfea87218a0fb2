"""Accepts connections on a listening socket, in an event loop. The HTTP server and the AMQP endpoint have one each."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from ..logs import SessionLogger, get_logger

logger: SessionLogger = get_logger(__name__)

#: Connections that are accepted before others get their turn.
MAX_ACCEPTS = 64
#: Seconds without accepting after the system had no room for a connection, and seconds between two warnings about it.
NO_ROOM_PAUSE = 0.2
WARN_PAUSE = 60.0

_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Accepts connections. Only the thread of the event loop may use it.

    Args:
        listener: The listening socket. `stop` closes it.
        on_socket: Takes the socket of a new connection.
        make_room: Closes an idle connection; returns whether there was one. Called if the system can open no more files.
    """

    def __init__(
        self, listener: socket.socket, on_socket: Callable[[socket.socket], None], make_room: Callable[[], bool]
    ) -> None:
        self._listener = listener
        self._on_socket = on_socket
        self._make_room = make_room
        self._is_stopped = False
        self._warned_at = float("-inf")

    def start(self) -> None:
        """Accept connections in the running event loop."""
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Accept no more connections. Idempotent."""
        if not self._is_stopped:
            self._is_stopped = True
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._on_no_room(error)
                return
            sock.setblocking(False)
            self._on_socket(sock)

    def _on_no_room(self, error: OSError) -> None:
        """Make room for a connection, or wait: the process or the system can open no more files."""
        now = time.monotonic()
        if now > self._warned_at + WARN_PAUSE:
            self._warned_at = now
            logger.warning("no more connections can be accepted (%s); new ones must wait", error.strerror)
        if not self._make_room():
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(NO_ROOM_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._is_stopped:
            self.start()
