"""A port of its own for metrics, from which Prometheus reads without a key. The gateway and the consuming commands use it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from ._extras import need
from .errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class MetricsPort:
    """Serves the metrics of a registry over HTTP, in a thread of its own. Use it as a context manager.

    Everyone who can reach the port can read the metrics: they have the names of queues, but no session ids and no contents.

    Args:
        registry: The registry of prometheus-client.
        host: The address to listen on. The default can be reached from this machine only.
        port: The port; 0 uses a free one.

    Raises:
        ConfigurationError: The address cannot be listened on, or prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry, host: str = "127.0.0.1", port: int = 0) -> None:
        need("prometheus_client", "metrics")
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"the metrics cannot listen on {host} port {port}: {reason}") from error
        self._server = server
        self._thread: threading.Thread = thread
        shown = f"[{host}]" if ":" in host else host
        #: The URL of the metrics, for example ``http://127.0.0.1:9464/metrics``.
        self.url: str = f"http://{shown}:{server.server_port}/metrics"

    def close(self) -> None:
        """Stop serving. Blocks until the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MetricsPort:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
