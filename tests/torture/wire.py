"""A TCP proxy that knows nothing of what it passes on, between the gateway and the stand-in of Azure: it cuts and stalls."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Wire:
    """Listens on a free port of loopback, and passes bytes on to `target`, both ways.

    Args:
        target: The port behind it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()  # Guards _sockets.
        self._sockets: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, stalled: bool) -> None:
        """Let nothing through, or everything again."""
        if stalled:
            self._flows.clear()
        else:
            self._flows.set()

    def cut_all(self) -> None:
        """Cut every connection that is open."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.stall(False)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                return
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()
