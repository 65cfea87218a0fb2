"""A broker, its gateway and its server, started and stopped as one: for `azsession serve`, the demo, the pytest plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from ..broker.base import Broker
from ..config import is_loopback
from ..errors import ConfigurationError
from .authorization import AccessKey
from .dispatch import MAX_BODY_SIZE, MAX_MESSAGE_SIZE, MAX_WAITING, create_app
from .http.presence import Presence
from .http.server import GatewayServer


class GatewayService:
    """The gateway, served on a socket of this process, in threads of its own.

    Args:
        broker: Where the messages are; closed with the service.
        keys: The keys whose tokens are accepted.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        hosts: Host names that tokens may be for, besides the one that a request was sent to.
        tls_cert: A file with the certificate chain, to serve https.
        tls_key: A file with its private key.
        insecure: Allow plain http on an address that is not loopback.
        max_waiting: Receives that may wait at once; each has a thread.
        max_body_size: Bytes of a request's body.
        max_message_size: Bytes of one message's body.
        max_connections: Connections at once; past them the one that has been idle longest is closed, or the new one is
            answered 503. By default as many as the process may open files, less some, and 16,384 at most.

    Raises:
        ConfigurationError: The address needs TLS or `insecure`, or cannot be listened on; the certificate is of no use.
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
    ) -> None:
        if tls_cert is None and not insecure and not is_loopback(host):
            raise ConfigurationError(
                f"{host} is not loopback: serve it with TLS (--tls-cert, --tls-key), or say --insecure where "
                "something before the gateway does TLS"
            )
        self._broker = broker
        self._keys = list(keys)
        self._presence = Presence(max_waiting)
        app = create_app(
            broker,
            keys=self._keys,
            hosts=hosts,
            max_body_size=max_body_size,
            max_message_size=max_message_size,
            presence=self._presence,
        )
        # cheroot's own bound lies above ours, so that the answer is the protocol's.
        self._server = GatewayServer(
            app,
            host,
            port,
            max_waiting=max_waiting,
            max_body_size=max_body_size + 65536,
            max_connections=max_connections,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        self._stopped = False

    @property
    def url(self) -> str:
        """Where the gateway serves, such as ``http://127.0.0.1:8080``."""
        return self._server.url

    @property
    def broker(self) -> Broker:
        """The broker behind the gateway."""
        return self._broker

    def connection_string(self, key: AccessKey | None = None) -> str:
        """Return what clients connect with: for `key`, else for the first of the service's keys. It holds the secret."""
        chosen = key or self._keys[0]
        return f"Endpoint={self.url}/;SharedAccessKeyName={chosen.name};SharedAccessKey={chosen.key}"

    def start(self) -> GatewayService:
        """Begin to serve."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Answer those who wait with 204, finish what is running, stop serving, close the broker. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._broker.stop_waiting()
        self._server.stop()
        self._presence.stop()
        self._broker.close()

    def __enter__(self) -> GatewayService:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
