"""TCP proxies for tests. `Relay` is the common base. `Wire` forwards bytes between the gateway and the stand-in for Azure.

`Proxy` in proxy.py is a `Relay` that parses HTTP.
"""

from __future__ import annotations

import abc
import socket
import threading
from contextlib import suppress


class Relay(abc.ABC):
    """Listens on a free port of loopback. For each connection, it connects to the target and starts a thread.

    Args:
        target: The port to connect to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()  # Guards _sockets.
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self.stop_accepting()
        self.cut_all()

    def stop_accepting(self) -> None:
        """Stop listening, so that new connections are refused."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut_all(self) -> None:
        """Cut all open connections."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self._lock:
            self._sockets |= {client, server}
        try:
            with suppress(OSError):
                self._serve(client, server)
        finally:
            with self._lock:
                self._sockets -= {client, server}
            client.close()
            server.close()

    @abc.abstractmethod
    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Forward data until the connection ends."""


class Wire(Relay):
    """Forwards bytes in both directions. It can cut or stall all connections."""

    def __init__(self, target: int) -> None:
        self._flows = threading.Event()
        self._flows.set()
        super().__init__(target)

    def stall(self, stalled: bool) -> None:
        """Stop forwarding, or continue."""
        if stalled:
            self._flows.clear()
        else:
            self._flows.set()

    def close(self) -> None:
        self.stall(False)
        super().close()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
