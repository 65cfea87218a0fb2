"""The WSGI server that serves the gateway: cheroot, with what long polls and hostile clients need.

cheroot gives TLS, one process, clean starting and stopping inside another program, and the raw request path. What is added
here: a connection takes a thread only once it has sent something; TLS handshakes happen in that thread, so that a silent
client holds up nobody; and a request must arrive within a deadline, however slowly its bytes come.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cheroot import server as cheroot_server
from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.workers.threadpool import ThreadPool

from ..errors import ConfigurationError
from ..protocol import ERROR_CODE_HEADER, JSON_TYPE, PROTOCOL_HEADER, PROTOCOL_VERSION
from ..protocol.status import INTERNAL_ERROR, INVALID_REQUEST, MESSAGE_TOO_LARGE, NOT_SUPPORTED
from .presence import BODY_READ_KEY, SOCKET_KEY

logger = logging.getLogger(__name__)

#: Seconds in which a request's headers must arrive.
HEADER_DEADLINE = 10.0
#: Bytes a second at which a body must arrive, on top of `HEADER_DEADLINE`.
BODY_RATE = 16384
#: Bytes of headers in a request.
MAX_HEADER_SIZE = 65536
#: Seconds for which a connection is kept that asks for nothing.
IDLE_TIMEOUT = 75
#: Threads for requests that do not wait, besides one for each that may wait: as many, up to this.
SPARE_THREADS = 256


#: Headers of which a second one would mean something else to whatever stands before the gateway.
_ONCE = frozenset((b"Authorization", b"Content-Length", b"Host", b"Transfer-Encoding"))


class _Headers(dict[bytes, bytes]):
    def __setitem__(self, name: bytes, value: bytes) -> None:
        if name in self and name in _ONCE:
            raise ValueError(f"a request has one {name.decode()}, in one line")
        super().__setitem__(name, value)


class _Request(cheroot_server.HTTPRequest):  # type: ignore[misc]
    ready: bool

    def parse_request(self) -> None:
        self.conn.set_deadline(HEADER_DEADLINE)
        self.inheaders = _Headers()
        try:
            super().parse_request()
        except ValueError:
            self.simple_response("400 Bad Request", "the request's line is malformed")
        length = self.inheaders.get(b"Content-Length", b"0")
        if self.ready and not length.isdigit():
            self.ready = False
            self.simple_response("400 Bad Request", "Content-Length is a whole number")
        if self.chunked_read:
            # Where such a body ends is read in more than one way: what may be the next request is not looked at.
            self.close_connection = True
        size = int(length) if length.isdigit() else self.server.max_request_body_size
        if self.ready and (size or self.chunked_read):
            self.conn.set_deadline(HEADER_DEADLINE + min(size, self.server.max_request_body_size) / BODY_RATE)
        else:
            self.conn.set_deadline(None)

    def simple_response(self, status: object, msg: str = "") -> None:
        """Answer what the application never saw, in the protocol's form."""
        number = int(str(status)[:3])
        code = {405: NOT_SUPPORTED, 413: MESSAGE_TOO_LARGE}.get(number, INVALID_REQUEST if number < 500 else INTERNAL_ERROR)
        body = json.dumps({"error": {"code": code, "message": msg or str(status)}}).encode()
        fields = {"Content-Type": JSON_TYPE, "Content-Length": len(body), "Connection": "close"}
        fields.update({PROTOCOL_HEADER: PROTOCOL_VERSION, ERROR_CODE_HEADER: code})
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.close_connection = True
        with suppress(OSError):
            self.conn.wfile.write(f"{self.server.protocol} {status}\r\n{head}\r\n".encode("latin-1") + body)


class _Connection(cheroot_server.HTTPConnection):  # type: ignore[misc]
    RequestHandlerClass = _Request

    def set_deadline(self, seconds: float | None) -> None:
        """Cut the connection after `seconds`, unless told otherwise by then."""
        if seconds is None:
            self.server.arriving.pop(self, None)
        else:
            self.server.arriving[self] = time.monotonic() + seconds

    def communicate(self) -> Any:
        try:
            return super().communicate()
        finally:
            self.set_deadline(None)

    def close(self) -> None:
        try:
            super().close()
        finally:
            # What could not be sent to a client that went away would be tried again, and reported, at collection.
            self.wfile._write_buf.clear()


class _Gateway(wsgi.Gateway_10):  # type: ignore[misc]
    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ[SOCKET_KEY] = self.req.conn.socket
        environ[BODY_READ_KEY] = self._body_read
        return environ

    def _body_read(self) -> None:
        if self.req.chunked_read:
            # Left unread, the end of the body would look like something that the client sends while it waits.
            for _ in self.req.rfile.read_trailer_lines():
                pass
        self.req.conn.set_deadline(None)


class _LazyTLS(BuiltinSSLAdapter):  # type: ignore[misc]
    """Leaves the handshake to the first read, which is in a worker thread."""

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


class _Threads(ThreadPool):  # type: ignore[misc]
    """Worker threads, started as they are needed: when a connection has something to read and no thread is free."""

    def __init__(self, server: GatewayServer, most: int) -> None:
        super().__init__(server, min=1, max=most)
        self._counting = threading.Lock()  # Guards _free, _stopping and the making of threads.
        self._free = 0  # Threads that wait for a connection; below 0, connections that wait for a thread.
        self._stopping = False
        self.get = self._next

    def start(self) -> None:
        """Start none yet."""

    def _next(self) -> Any:
        with self._counting:
            self._free += 1
        return self._queue.get()

    def put(self, obj: Any) -> None:
        with self._counting:
            self._free -= 1
            if self._free < 0 and len(self._threads) < self.max and not self._stopping:
                try:
                    self._threads.append(self._spawn_worker())
                except RuntimeError:
                    logger.warning("this machine gives no more threads: requests wait for one of the %d", len(self._threads))
        super().put(obj)

    def stop(self, timeout: float = 5) -> None:
        with self._counting:
            self._stopping = True
        super().stop(timeout)


class GatewayServer(wsgi.Server):  # type: ignore[misc]
    """Serves a WSGI application on one address, in as many threads as requests may be under way.

    Args:
        application: The WSGI application.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        max_waiting: Requests that may wait at once.
        max_body_size: Bytes of a request's body.
        tls_cert: A file with the certificate chain, to serve https.
        tls_key: A file with its private key.

    Raises:
        ConfigurationError: The certificate or key cannot be used.
    """

    ConnectionClass = _Connection
    keep_alive_conn_limit = None
    expiration_interval = 0.1

    def __init__(
        self,
        application: Any,
        host: str,
        port: int,
        *,
        max_waiting: int,
        max_body_size: int,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
    ) -> None:
        super().__init__(
            (host, port),
            application,
            request_queue_size=1024,
            timeout=IDLE_TIMEOUT,
            shutdown_timeout=5,
        )
        self.requests = _Threads(self, max_waiting + min(max_waiting, SPARE_THREADS))
        self.gateway = _Gateway
        self.max_request_header_size = MAX_HEADER_SIZE
        self.max_request_body_size = max_body_size
        self.arriving: dict[_Connection, float] = {}
        self._scheme = "http"
        if tls_cert is not None or tls_key is not None:
            if tls_cert is None or tls_key is None:
                raise ConfigurationError("TLS needs both a certificate and its key")
            try:
                self.ssl_adapter = _LazyTLS(str(tls_cert), str(tls_key))
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(f"the TLS certificate or key cannot be used: {error}") from error
            self.ssl_adapter.context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._scheme = "https"
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """Where it serves."""
        host, port = self.bind_addr[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Begin to serve, in threads of its own.

        Raises:
            ConfigurationError: The address cannot be listened on.
        """
        try:
            self.prepare()
        except OSError as error:
            host, port = self.bind_addr[:2]
            raise ConfigurationError(f"cannot listen on {host}:{port}: {error}") from error
        for target, name in ((self.serve, "azsession-server"), (self._cut_late, "azsession-server-deadlines")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop accepting, finish what is running, and end all threads."""
        self._ended.set()
        if self.ready:
            self._wake()
        super().stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _wake(self) -> None:
        """End the accepting thread's wait now, rather than at its next round: it is about to be stopped."""
        self._connections._stop_requested = True
        try:
            socket.create_connection(self.socket.getsockname()[:2], timeout=1.0).close()
        except OSError:
            return

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: Any) -> Any:
        """Bind, and leave nothing open where that fails."""
        try:
            return wsgi.Server.bind_socket(socket_, bind_addr)
        except OSError:
            socket_.close()
            raise

    def process_conn(self, conn: _Connection) -> None:
        """Hand a connection to a worker; one that has not sent anything yet waits without."""
        if conn.last_used is None:
            self._connections.put(conn)
        else:
            super().process_conn(conn)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Pass cheroot's messages to this module's logger."""
        logger.log(level, "%s", msg, exc_info=traceback)

    def _cut_late(self) -> None:
        while not self._ended.wait(1.0):
            now = time.monotonic()
            for connection, deadline in list(self.arriving.items()):
                if deadline < now:
                    try:
                        # The base class's: a TLS socket's own would need the thread that uses it.
                        socket.socket.shutdown(connection.socket, socket.SHUT_RD)
                    except OSError:
                        self.arriving.pop(connection, None)
