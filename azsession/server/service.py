"""`GatewayService`: a broker, its gateway and its HTTP server, started and stopped together.

`azsession serve`, the demo and the pytest plugin use it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .._extras import need
from ..broker.base import Broker
from ..config import is_loopback
from ..errors import ConfigurationError
from ..logs import SessionLogger, get_logger
from ..metrics_port import MetricsPort
from .access_keys import AccessKey
from .amqp.endpoint import Endpoint
from .authorization import Guard
from .dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, MAX_WAITING
from .http.app import create_app
from .http.listener import THREAD_NAME, Listener, listen, tls_context

if TYPE_CHECKING:
    from .metrics import GatewayMetrics

logger: SessionLogger = get_logger(__name__)


class GatewayService:
    """Serves a broker over HTTP or HTTPS, in a thread of this process.

    Use it as a context manager, or call `start` and `stop`.

    Example::

        key = AccessKey.generate()
        with GatewayService(EmbeddedBroker(queues=["orders"]), [key]) as service:
            provider = ServiceBusProvider(ServiceBusConfig(connection_string=service.connection_string()))

    Args:
        broker: The broker. The service closes it when it stops.
        keys: The keys whose tokens are accepted.
        host: The address to listen on.
        port: The port to listen on; 0 uses a free port.
        hosts: Host names that tokens may be for, besides the host name in the request.
        tls_cert: A file with the certificate chain in PEM format, to serve HTTPS. Needs `tls_key`.
        tls_key: A file with the private key of the certificate.
        insecure: Allow HTTP without TLS on an address that is not loopback, for example behind a proxy that does TLS.
        max_waiting: Receives and accepts that may wait at once, from 1. Others get status 429.
        max_body_size: Bytes of a request's body at most.
        max_message_size: Bytes of a message's body, or of a session state, at most.
        max_connections: Connections that may be open at once, over HTTP and AMQP together. Beyond the limit, the service
            closes the HTTP connection that has been idle longest, or answers a new one with status 503, and closes a new one
            over AMQP. By default, the limit follows from the number of files that the process may open, and is at most
            16,384.
        explorer: Serve the Explorer, a web interface, at ``/explorer``.
        amqp_port: The port of the AMQP endpoint, for the SDKs of Azure Service Bus; 0 uses a free port. AMQP over WebSockets
            is on `port`. `None`: the service has no such endpoint.
        metrics: Serve these metrics at ``/metrics``. Each service needs metrics of its own.
        metrics_host: The address of `metrics_port`. Everyone who can reach it can read the metrics.
        metrics_port: A port on which the metrics are served without a key; 0 uses a free port. `None`: there is no such port.

    Attributes:
        broker: The broker behind the gateway.

    Raises:
        ConfigurationError: The address is not loopback and has neither TLS nor `insecure`, the certificate or its key
            cannot be used, two keys have the same name, a host name is malformed, there is a port for metrics but there are
            no metrics, or there is a port for AMQP but the package websockets, a part of the extra ``server``, is not
            installed.
    """

    def __init__(
        self,
        broker: Broker,
        keys: Iterable[AccessKey],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        hosts: Sequence[str] = (),
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        insecure: bool = False,
        max_waiting: int = MAX_WAITING,
        max_body_size: int = MAX_BODY_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
        max_connections: int | None = None,
        explorer: bool = True,
        amqp_port: int | None = None,
        metrics: GatewayMetrics | None = None,
        metrics_host: str = "127.0.0.1",
        metrics_port: int | None = None,
    ) -> None:
        if tls_cert is None and not insecure and not is_loopback(host):
            raise ConfigurationError(
                f"{host} is not a loopback address: give a certificate (--tls-cert, --tls-key), or --insecure if a proxy "
                "in front of the gateway does TLS"
            )
        if metrics is None and metrics_port is not None:
            raise ConfigurationError("metrics_port needs metrics: give metrics=GatewayMetrics(), too")
        self.broker: Broker = broker
        self._guard = Guard(keys, hosts)
        self._app = create_app(
            broker,
            keys=self._guard,
            max_body_size=max_body_size,
            max_message_size=max_message_size,
            max_waiting=max_waiting,
            explorer=explorer,
            metrics=metrics,
        )
        tls = tls_context(tls_cert, tls_key)
        self._scheme = "http" if tls is None else "https"
        self._address = (host, port)
        self._amqp_tls = tls_context(tls_cert, tls_key, alpn=None)
        self._amqp_port = amqp_port
        self._endpoint: Endpoint | None = None
        if amqp_port is not None:
            need("websockets", "server")
            measured = broker if metrics is None else metrics.measured(broker)
            self._endpoint = Endpoint(
                measured,
                self._guard,
                max_message_size=max_message_size,
                has_room=lambda: self._listener.connections.has_room(),
                make_room=lambda: self._listener.connections.make_room(),
                tls=self._amqp_tls,
                metrics=metrics,
            )
        self._listener = Listener(self._app, tls, max_connections, self._endpoint)
        self._metrics = metrics
        self._metrics_address = (metrics_host, metrics_port)
        self._metrics_port: MetricsPort | None = None
        if metrics is not None:
            metrics.watch_connections(self._connection_count)
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    @property
    def url(self) -> str:
        """The URL of the gateway, for example ``http://127.0.0.1:8080``. With port 0, the port is known after `start`."""
        host, port = self._address
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def amqp_port(self) -> int | None:
        """The port of the AMQP endpoint; `None` without one. With port 0, the port is known after `start`."""
        return self._amqp_port

    def amqp_connection_string(self, key: AccessKey | None = None, host: str | None = None) -> str:
        """Return a connection string for the SDKs of Azure Service Bus. It contains the secret of the key.

        Args:
            key: The key to use; by default, the first key of the service.
            host: The name of the service for its clients; by default, the address that it listens on.

        Raises:
            ConfigurationError: The service has no AMQP endpoint.
            IndexError: The service has no keys, and none is given.
        """
        if self._amqp_port is None:
            raise ConfigurationError("the service has no AMQP endpoint: give amqp_port")
        chosen, host = key or self._guard.keys[0], host or self._address[0]
        name = f"[{host}]" if ":" in host else host
        emulator = ";UseDevelopmentEmulator=true" if self._amqp_tls is None else ""
        fields = f"SharedAccessKeyName={chosen.name};SharedAccessKey={chosen.key}"
        return f"Endpoint=sb://{name}:{self._amqp_port};{fields}{emulator}"

    def connection_string(self, key: AccessKey | None = None) -> str:
        """Return a connection string for clients. It contains the secret of the key.

        Args:
            key: The key to use; by default, the first key of the service.

        Raises:
            IndexError: The service has no keys, and none is given.
        """
        chosen = key or self._guard.keys[0]
        return f"Endpoint={self.url}/;SharedAccessKeyName={chosen.name};SharedAccessKey={chosen.key}"

    @property
    def metrics_url(self) -> str | None:
        """The URL of the metrics on their own port, without a key. `None` without such a port, and before `start`."""
        return None if self._metrics_port is None else self._metrics_port.url

    def replace_keys(self, keys: Iterable[AccessKey]) -> None:
        """Accept the tokens of other keys from now on; see `Guard.replace_keys`. Can be called from any thread.

        Args:
            keys: All keys, also those that stay.

        Raises:
            ConfigurationError: Two keys have the same name. The former keys stay.
        """
        self._guard.replace_keys(keys)

    def _connection_count(self) -> int:
        """Return how many connections are open, over HTTP and AMQP."""
        return len(self._listener.connections) + (0 if self._endpoint is None else self._endpoint.connection_count)

    def start(self) -> GatewayService:
        """Start to serve, in another thread. Returns when the service listens.

        Raises:
            ConfigurationError: The service cannot listen on the address.
        """
        with ExitStack() as opened:  # It closes the sockets if one of the addresses cannot be listened on.
            host, port = self._address
            sock = opened.enter_context(listen(host, port))
            self._address = (host, sock.getsockname()[1])
            if self._endpoint is not None and self._amqp_port is not None:
                amqp_sock = opened.enter_context(listen(host, self._amqp_port))
                self._amqp_port = amqp_sock.getsockname()[1]
                self._endpoint.bind(amqp_sock)
            metrics_host, metrics_port = self._metrics_address
            if self._metrics is not None and metrics_port is not None:
                self._metrics_port = MetricsPort(self._metrics.registry, metrics_host, metrics_port)
            opened.pop_all()
        self._loop = self._listener.new_loop()
        self._thread = threading.Thread(target=self._serve, args=(self._loop, sock), name=THREAD_NAME, daemon=True)
        self._thread.start()
        return self

    def _serve(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        try:
            loop.run_until_complete(self._listener.serve(sock, self._stopping))
        except Exception:
            logger.exception("the gateway's server failed")
        finally:
            sock.close()
            loop.close()

    def stop(self) -> None:
        """Stop serving, and close the broker. Idempotent.

        Waiting receives and accepts end with status 204. Blocks until running requests are answered, for about five seconds
        at most.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        self.broker.stop_waiting()
        if self._loop is not None and self._thread is not None:
            with suppress(RuntimeError):  # The loop is closed already.
                self._loop.call_soon_threadsafe(self._stopping.set)
            if self._thread is not threading.current_thread():
                self._thread.join()
        if self._metrics_port is not None:
            self._metrics_port.close()
        self.broker.close()

    def __enter__(self) -> GatewayService:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
