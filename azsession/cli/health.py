"""`HealthServer`: answers the probes of `azsession consume --health-port` for a service manager such as Kubernetes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from ..errors import ConfigurationError

#: Returns the status and the text of an answer. It must not block.
Page = Callable[[], tuple[int, str]]
#: Seconds that a client gets to send its request and to read the answer.
CLIENT_TIMEOUT = 5.0


class HealthServer:
    """An HTTP server in threads of its own that answers GET and HEAD with the text of a page. Use it as a context manager.

    Args:
        port: The port, on all addresses. 0 takes a free one; `port` says which.
        pages: The pages by path, for example ``"/healthz"``. Other paths get 404.

    Raises:
        ConfigurationError: The port is in use or cannot be used.
    """

    def __init__(self, port: int, pages: Mapping[str, Page]) -> None:
        handler = type("_PagesHandler", (_Handler,), {"pages": dict(pages)})
        try:
            self._server = _Server(("", port), handler)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on port {port} for --health-port: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="azsession-health", daemon=True)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> HealthServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client that is slow to end must not hold up the end of the process.
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Page]
    timeout = CLIENT_TIMEOUT

    def do_GET(self) -> None:
        """Answer with the page of the path."""
        page = self.pages.get(self.path.partition("?")[0])
        status, text = (404, "there is no such page") if page is None else page()
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def version_string(self) -> str:
        """Name no versions."""
        return "azsession"

    def log_message(self, *_: object) -> None:
        """Log nothing: a probe comes every few seconds."""
