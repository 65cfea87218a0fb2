"""The WSGI server that serves the gateway: cheroot, with what long polls and hostile clients need.

cheroot gives TLS, one process, clean starting and stopping inside another program, and the raw request path. What is added
here: connections wait without a thread until a whole request head lies there (`front`); threads come and go with the load
(`threads`); a body must arrive, and an answer be taken, at a rate that is worth a thread; past each bound there is an answer.
"""

from __future__ import annotations

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

from ...errors import ConfigurationError
from ...protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST, MESSAGE_TOO_LARGE, NOT_SUPPORTED
from .front import Front, refusal
from .presence import BODY_READ_KEY, SOCKET_KEY
from .streams import Reader, Writer
from .threads import Threads

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds in which a request's head must arrive, and for which a body or an answer may stand still.
HEADER_DEADLINE = 10.0
#: Bytes a second at which a body must arrive, and an answer be taken, on average.
BODY_RATE = 16384
#: Bytes of headers in a request.
MAX_HEADER_SIZE = 65536
#: Bytes of a body that are read past, where it is not wanted, to keep its connection; for a larger one it is closed.
MAX_SKIPPED = 65536
#: Seconds for which a connection is kept that asks for nothing.
IDLE_TIMEOUT = 75
#: Threads for requests that do not wait, besides one for each that may wait: as many, up to this.
SPARE_THREADS = 256
#: Connections at most, where the process may open so many files.
MAX_CONNECTIONS = 16384
#: Files that the process needs for other things than connections.
OTHER_FILES = 64

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
        self.conn.expect(self.conn.rfile)
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
            self.conn.lingers = True
        if not self.ready or not (int(length) or self.chunked_read):
            self.conn.expect(None)

    def simple_response(self, status: object, msg: str = "") -> None:
        """Answer what the application never saw, in the protocol's form."""
        text = str(status)
        if text.startswith("414"):
            # Whatever is too large is answered alike.
            text = "413 Content Too Large"
        number = int(text[:3])
        code = {405: NOT_SUPPORTED, 413: MESSAGE_TOO_LARGE}.get(number, INVALID_REQUEST if number < 500 else INTERNAL_ERROR)
        self.close_connection = True
        self.conn.lingers = True
        self.conn.expect(self.conn.wfile)
        with suppress(OSError):
            self.conn.wfile.write(refusal(text, code, msg or text))

    def send_headers(self) -> None:
        self._leave_unread()
        self.conn.expect(self.conn.wfile)
        super().send_headers()

    def _leave_unread(self) -> None:
        """See to what is left of the body, without waiting for it here: it may never come."""
        left = 0 if self.chunked_read else getattr(self.rfile, "remaining", 0)
        if not left:
            return
        self.rfile.remaining = 0
        if left <= MAX_SKIPPED:
            self.conn.rfile.skip(left)
        else:
            self.close_connection = True
        # Where it is closed, for this or another reason, something may still be on its way.
        self.conn.lingers = True


class Connection(cheroot_server.HTTPConnection):  # type: ignore[misc]
    """A connection.

    Attributes:
        parked: How it is held by the front; `None` while a thread has it.
        refused: It came past the bound.
        lingers: Its peer may be sending when it is closed.
    """

    RequestHandlerClass = _Request

    def __init__(self, server: GatewayServer, sock: socket.socket) -> None:
        # Not the base class's, which makes a ring of references for each.
        self.server = server
        self.socket = sock
        self.rfile: Reader = Reader(sock, MAX_HEADER_SIZE)
        self.wfile: Writer = Writer(sock)
        self.requests_seen = 0
        self.parked: int | None = None
        self.refused = False
        self.lingers: bool = False
        self._closed = False

    def expect(self, stream: Reader | Writer | None) -> None:
        """Cut the connection where the bytes of `stream` do not keep their rate, until told otherwise."""
        if stream is None:
            self.server.moving.pop(self, None)
        else:
            self.server.moving[self] = _Movement(stream, self.server.header_deadline)

    def communicate(self) -> Any:
        self.lingers = False
        try:
            return super().communicate()
        finally:
            self.expect(None)

    def close(self, lingering: bool = True) -> None:
        """Close it; where its peer may still be sending, once that has had time to read its answer."""
        if lingering and self.lingers and self.server.ready:
            self.lingers = False
            self.server.leave(self)
        elif not self._closed:
            self._closed = True
            try:
                super().close()
            finally:
                self.server.gone()


class _Movement:
    """Bytes that are to come or go, and by when more of them must."""

    def __init__(self, stream: Reader | Writer, patience: float) -> None:
        self._stream = stream
        self._patience = patience
        self._count = stream.count
        self._due = time.monotonic() + patience

    def is_late(self, now: float, rate: float) -> bool:
        """Tell whether it stands still, or goes too slowly. What came faster than it had to gives no credit for later."""
        moved, self._count = self._stream.count - self._count, self._stream.count
        self._due = min(self._due + moved / rate, now + self._patience)
        return self._due < now


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
        self.req.conn.expect(None)


class _LazyTLS(BuiltinSSLAdapter):  # type: ignore[misc]
    """Leaves the handshake to the first reads, which do not block."""

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}


def default_max_connections() -> int:
    """Return how many connections there may be: as many as the process may open files, with some left for other things."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:
        limit = 512  # What select() takes on Windows.
    else:
        if limit == resource.RLIM_INFINITY:
            return MAX_CONNECTIONS
    # The front holds an eighth more, to refuse them.
    return max(8, min(MAX_CONNECTIONS, (limit - OTHER_FILES) * 8 // 9))


class GatewayServer(wsgi.Server):  # type: ignore[misc]
    """Serves a WSGI application on one address, in as many threads as requests may be under way.

    Args:
        application: The WSGI application.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        max_waiting: Requests that may wait at once.
        max_body_size: Bytes of a request's body.
        max_connections: Connections at once. By default as many as the process may open files, less some.
        tls_cert: A file with the certificate chain, to serve https.
        tls_key: A file with its private key.

    Raises:
        ConfigurationError: The certificate or key cannot be used.
    """

    def __init__(
        self,
        application: Any,
        host: str,
        port: int,
        *,
        max_waiting: int,
        max_body_size: int,
        max_connections: int | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
    ) -> None:
        super().__init__(
            (host, port),
            application,
            request_queue_size=4096,
            timeout=IDLE_TIMEOUT,
            shutdown_timeout=5,
        )
        self.requests: Threads = Threads(self, max_waiting + min(max_waiting, SPARE_THREADS))
        self.gateway = _Gateway
        self.max_request_header_size = MAX_HEADER_SIZE
        self.max_request_body_size = max_body_size
        self.max_connections: int = default_max_connections() if max_connections is None else max_connections
        self.header_deadline = HEADER_DEADLINE
        #: Bodies that arrive, and answers that are sent.
        self.moving: dict[Connection, _Movement] = {}
        self._scheme = "http"
        if tls_cert is not None or tls_key is not None:
            if tls_cert is None or tls_key is None:
                raise ConfigurationError("TLS needs both a certificate and its key")
            try:
                self.ssl_adapter: _LazyTLS = _LazyTLS(str(tls_cert), str(tls_key))
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(f"the TLS certificate or key cannot be used: {error}") from error
            self.ssl_adapter.context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._scheme = "https"
        self._thread: threading.Thread | None = None

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
        self._thread = threading.Thread(target=self.serve, name="azsession-server", daemon=True)
        self._thread.start()

    def prepare(self) -> None:
        """Listen."""
        super().prepare()
        self._connections.close()
        self._connections: Front = Front(self, self.socket, self.max_connections)

    def serve(self) -> None:
        """Accept and serve, until `stop`."""
        while self.ready:
            self._serve()

    def _serve(self) -> None:
        try:
            self._connections.run()
        except Exception:
            logger.exception("the gateway's accepting thread failed; it goes on in a second")
            time.sleep(1.0)

    def stop(self) -> None:
        """Stop accepting, finish what is running, and end all threads."""
        super().stop()
        # cheroot keeps the figures of every server that there ever was, and with them the server.
        getattr(logging, "statistics", {}).pop(f"Cheroot HTTPServer {id(self)}", None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @staticmethod
    def bind_socket(socket_: socket.socket, bind_addr: Any) -> Any:
        """Bind, and leave nothing open where that fails."""
        try:
            return wsgi.Server.bind_socket(socket_, bind_addr)
        except OSError:
            socket_.close()
            raise

    def connection(self, sock: socket.socket, address: Any) -> Connection:
        """Return the connection on a socket that was accepted.

        Raises:
            OSError: It cannot be used any more.
        """
        env: dict[str, str] = {}
        if self.ssl_adapter is not None:
            sock, env = self.ssl_adapter.wrap(sock)
        conn = Connection(self, sock)
        conn.ssl_env = env
        conn.remote_addr, conn.remote_port = address[:2]
        return conn

    def leave(self, conn: Connection) -> None:
        """Close a connection once its peer has had time to read the last answer."""
        self._connections.leave(conn)

    def gone(self) -> None:
        """Count a connection that was closed."""
        self._connections.gone()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return int(self._connections.connections)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Pass cheroot's messages to this module's logger."""
        logger.log(level, "%s", msg, exc_info=traceback)

    def cut_late(self, now: float) -> None:
        """Cut the connections whose bodies or answers do not keep their rate, so that their threads go on."""
        # A copy, which is made at once: worker threads add and remove meanwhile.
        for conn, movement in self.moving.copy().items():
            if movement.is_late(now, BODY_RATE):
                # The base class's: a TLS socket's own would need the thread that uses it.
                with suppress(OSError):
                    socket.socket.shutdown(conn.socket, socket.SHUT_RDWR)
