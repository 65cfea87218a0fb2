"""`ServerConnection`: the objects that the clients of one provider share."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import requests

from .. import forks, telemetry
from ..config import ServiceBusConfig, check_ca_bundle
from ..telemetry import Telemetry
from ..token_cache import TokenCache
from ..tokens import source_of
from . import backends
from .http_sockets import PooledAdapter
from .lock_renewer import Renewer
from .transport import Transport

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

    from .inprocess import InProcessAdapter


class SharingClient(Protocol):
    """A session client as its `ServerConnection` sees it."""

    def after_fork(self) -> None:
        """Leave the session to the parent process."""

    def shut(self) -> bool:
        """Refuse further calls, and return whether there is a lock to release. Can be repeated after an interrupt."""

    def release(self) -> bool:
        """Release the lock, and return whether the server answered."""


class ServerConnection:
    """A way to one server: the HTTP session, the transport with its tokens, and the lock renewer. Thread-safe.

    Args:
        config: How to reach the server.
        credential: A `TokenCredential`, instead of the configuration's key.
        http: The caller's `requests.Session`, which stays open. `None` creates one.
        url: The base URL of the routes, if not the configuration's.
        adapter: The adapter of a backend in this process. It is closed with the connection.

    Raises:
        ConfigurationError: The configuration has no credentials, its `ca_bundle` cannot be read, or an extra is missing.
    """

    def __init__(
        self,
        config: ServiceBusConfig,
        credential: TokenCredential | None = None,
        http: requests.Session | None = None,
        url: str | None = None,
        *,
        adapter: InProcessAdapter | None = None,
    ) -> None:
        if url is not None:
            config = config.at(url)
        check_ca_bundle(config.ca_bundle)
        self.config: ServiceBusConfig = config
        if adapter is None and config.uses_amqp:
            adapter = backends.azure_backend(config, credential, http)
        # A backend in this process trusts its callers.
        tokens = None if adapter is not None else TokenCache(source_of(config, credential))
        self._own_http = http is None
        self.http: requests.Session = _new_session(config) if http is None else http
        if adapter is not None:
            backends.mount(self.http, adapter)
        is_embedded = adapter is not None and not config.uses_amqp
        host, port = (None, None) if is_embedded else (config.host, config.port)
        self.telemetry: Telemetry = telemetry.create(host, port, enabled=config.telemetry)
        own_adapter = adapter if http is None else None
        self.transport: Transport = Transport(self.http, config.namespace_url, config, tokens, own_adapter, self.telemetry)
        self.renewer: Renewer = Renewer()
        # `add`, `discard` and `copy` of a set are atomic, so it has no lock: a signal handler could deadlock on one.
        self._clients: set[weakref.ref[SharingClient]] = set()
        forks.register(self)
        # The renewer's thread would otherwise outlive a provider that is garbage-collected without a call of `close`.
        weakref.finalize(self, Renewer.dismiss, self.renewer).atexit = False

    @classmethod
    def embedded(cls, path: str | Path | None, *, queues: Iterable[str], auto_create: bool) -> ServerConnection:
        """Return a connection to a new embedded broker in this process.

        Args:
            path: The data file. `None` keeps everything in memory.
            queues: Names of queues to create if they do not exist.
            auto_create: Create a queue when the first message is sent to it. Reading creates none.

        Raises:
            ConfigurationError: An extra is not installed, or the file cannot be opened.
        """
        adapter = backends.embedded_backend(path, queues=queues, auto_create=auto_create)
        return cls(ServiceBusConfig(gateway_url=backends.EMBEDDED_URL), adapter=adapter)

    def add_client(self, client: SharingClient) -> None:
        """Note a client until it is garbage-collected."""
        self._clients.add(weakref.ref(client, self._clients.discard))

    def clients(self) -> list[SharingClient]:
        """Return the clients that exist."""
        known = (reference() for reference in self._clients.copy())
        return [client for client in known if client is not None]

    def after_fork(self) -> None:
        """In a forked child: make new connections, and leave every session to the parent."""
        self.transport.after_fork()
        self.renewer.after_fork()
        for client in self.clients():
            client.after_fork()

    def close(self) -> None:
        """Stop the renewer, and close the HTTP session unless it is the caller's."""
        self.renewer.stop()
        if self._own_http:
            self.http.close()


def _new_session(config: ServiceBusConfig) -> requests.Session:
    http = requests.Session()
    adapter = PooledAdapter(pool_connections=4, pool_maxsize=config.pool_connections)
    http.mount("https://", adapter)
    http.mount("http://", adapter)
    return http
