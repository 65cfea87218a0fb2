"""Small servers that behave as the gateway does not: silent, slow, unreachable for a while, or a proxy."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from ..support.ports import free_port

KEY = "SharedAccessKeyName=k;SharedAccessKey=bm90IGEgc2VjcmV0"


def hang_up(sock: socket.socket) -> None:
    shut(sock)
    sock.close()


def shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Acceptor:
    """Accepts connections on a loopback port until its `with` block ends. A thread serves each connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards all that follows.
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def connection_string(self) -> str:
        return f"Endpoint={self.url}/;{KEY}"

    def listen(self) -> None:
        if not self._port:
            # While the port is closed, nobody else takes it.
            self._port = free_port()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(256)
        self._listener = listener
        self._spawn(self._accept, listener)

    def refuse(self) -> None:
        """Close the port and all connections."""
        if self._listener is not None:
            hang_up(self._listener)
        self.drop()

    def drop(self) -> None:
        """Close all connections."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            hang_up(sock)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._keep(sock)
            if listener.fileno() < 0:  # `close` ran in between, and did not see this connection.
                hang_up(sock)
            self._spawn(self._serve, sock)

    def _keep(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.add(sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            self.serve(sock)
        except OSError:
            pass
        finally:
            hang_up(sock)
            with self._lock:
                self._sockets.discard(sock)

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def __enter__(self: Any) -> Any:
        self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.refuse()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)


class SilentServer(Acceptor):
    """Reads requests, and never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)

    def serve(self, sock: socket.socket) -> None:
        while sock.recv(65536):
            self.asked.release()


class Relay(Acceptor):
    """Passes connections on to another port. After `cut` it closes each connection when a request comes, until `mend`."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target
        self._cutting = False
        self.accepted = 0

    def cut(self) -> None:
        self._cutting = True
        self.drop()

    def mend(self) -> None:
        self._cutting = False

    def serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.accepted += 1
        if self._cutting:
            sock.recv(65536)
            return
        other = socket.create_connection(("127.0.0.1", self._target))
        self._keep(other)
        self._spawn(pump, other, sock)
        pump(sock, other)
        hang_up(other)


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    shut(source)
    shut(target)


class QuietHTTPServer(ThreadingHTTPServer):
    """An HTTP server with one handler class, for a `with` block. It prints nothing about broken connections."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def connection_string(self) -> str:
        return f"Endpoint={self.url}/;{KEY}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def __enter__(self: Any) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        for sock in list(self.open):
            hang_up(sock)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Reads the body, and calls `answer` for every method."""

    protocol_version = "HTTP/1.1"
    server: Any
    disable_nagle_algorithm = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._do
        raise AttributeError(name)

    def _do(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    def give(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ProxyHandler(Handler):
    """A proxy that forwards http requests and opens tunnels for https. `server.used` lists the requests."""

    def _do(self) -> None:
        if self.command != "CONNECT":
            super()._do()
            return
        self.server.used.append("CONNECT")
        host, _, port = self.path.partition(":")
        other = socket.create_connection((host, int(port)))
        self.server.open.add(other)
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=pump, args=(other, self.connection), daemon=True)
        back.start()
        pump(self.connection, other)
        back.join()
        other.close()
        self.close_connection = True

    def answer(self) -> None:
        self.server.used.append(self.command)
        url = urlsplit(self.path)
        way = http.client.HTTPConnection(url.hostname or "", url.port)
        try:
            target = url.path + (f"?{url.query}" if url.query else "")
            way.request(self.command, target, self.body, dict(self.headers))
            self.server.open.add(way.sock)
            found = way.getresponse()
            headers = {
                name: value for name, value in found.getheaders() if name not in ("Content-Length", "Transfer-Encoding")
            }
            self.give(found.status, headers, found.read())
        finally:
            way.close()


class Proxy(QuietHTTPServer):
    def __init__(self) -> None:
        super().__init__(ProxyHandler)
        self.used: list[str] = []


class RenewalHandler(Handler):
    """The plain dialect without messages. A renewal takes `server.takes` seconds."""

    def answer(self) -> None:
        session = re.findall("/sessions/([^/?]+)", self.path)[0]
        server: RenewalServer = self.server
        if self.command == "DELETE":
            server.stopping.wait(float(re.findall("timeout=([0-9.]+)", self.path)[0]))
            server.renewed[session] = time.monotonic()
            self.give(204)
            return
        server.asked(session)
        if session in server.silent:
            server.stopping.wait()
            return
        time.sleep(server.takes)
        if server.fails(session):
            self.give(503)
            return
        now = time.monotonic()
        if now - server.renewed[session] > server.lasts:
            server.late.append(session)
        server.renewed[session] = now
        server.count[session] = server.count.get(session, 0) + 1
        self.give(204)


class RenewalServer(QuietHTTPServer):
    """Has every session, with a lock of `lasts` seconds, and records renewals that came too late."""

    def __init__(self, *, lasts: float, takes: float = 0.0) -> None:
        super().__init__(RenewalHandler)
        self.lasts, self.takes = lasts, takes
        self.renewed: dict[str, float] = {}
        self.count: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.late: list[str] = []
        self.silent: set[str] = set()
        self.failing: set[str] = set()

    def asked(self, session: str) -> None:
        self.requests[session] = self.requests.get(session, 0) + 1

    def fails(self, session: str) -> bool:
        return session in self.failing
