"""What the clients of one provider share: the HTTP session, the transport with its tokens, and the renewer."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from .. import forks
from .._extras import need
from ..config import ServiceBusConfig
from ..errors import ConfigurationError
from ..tokens import TokenCache, source_of
from .call import Call
from .http_sockets import KeptAdapter
from .lock_renewer import Renewer
from .transport import Transport

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from requests.adapters import BaseAdapter

    from .inprocess import InProcessAdapter

T = TypeVar("T")

#: The base of an embedded broker's routes, where no request ever goes.
EMBEDDED_URL = "http://embedded.localhost"
#: Bytes of a message, and of a request with some, that go to Azure, which has limits of its own: up to 100 MB.
AZURE_MESSAGE_SIZE, AZURE_BODY_SIZE = 100 * 1024 * 1024, 150 * 1024 * 1024


class UnderWay:
    """The calls of one client or provider that are under way, so that closing it can end those that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _calls.
        self._calls: set[Call[Any]] = set()
        self.stopped: threading.Event = threading.Event()

    def send(self, transport: Transport, call: Call[T], *, waits: bool = False) -> T:
        """Send a call; `waits` says that `stop` shall end it, rather than let it finish."""
        if not waits:
            return transport.send(call)
        call.stopped = self.stopped
        with self._lock:
            self._calls.add(call)
        try:
            return transport.send(call)
        finally:
            with self._lock:
                self._calls.discard(call)

    def stop(self) -> None:
        """End the calls that wait, now and from now on."""
        self.stopped.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()


class Link:
    """A way to one server, shared by any number of clients and threads.

    Args:
        config: How to reach it.
        credential: A `TokenCredential`, instead of the configuration's key.
        http: The `requests.Session` to use; it stays its owner's to close. `None` makes one.
        url: The base of the routes, if not the configuration's.
        adapter: What answers for it in this process; closed with the link.
    """

    def __init__(
        self,
        config: ServiceBusConfig,
        credential: TokenCredential | None,
        http: requests.Session | None,
        url: str | None = None,
        adapter: InProcessAdapter | None = None,
    ) -> None:
        config = config if url is None else config.at(url)
        self.config = config
        tokens = None
        if adapter is None and config.uses_amqp:
            adapter = _azure_adapter(config, credential, http)
        elif adapter is None:
            tokens = TokenCache(source_of(config, credential))
        self._own_http = http is None
        self.http: requests.Session = _make_session(config) if http is None else http
        if adapter is not None:
            _mount(self.http, adapter)
        self.transport: Transport = Transport(
            self.http, config.namespace_url, config, tokens, adapter if http is None else None
        )
        self.renewer: Renewer = Renewer()
        self._lock = threading.Lock()  # Guards _clients.
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        forks.register(self)
        # The renewer's thread would outlive a provider that was forgotten rather than closed.
        weakref.finalize(self, Renewer.dismiss, self.renewer).atexit = False

    def add_client(self, client: Any) -> None:
        """Note a client, as long as it lives."""
        with self._lock:
            self._clients.add(client)

    def clients(self) -> list[Any]:
        """Return the clients that live."""
        with self._lock:
            return list(self._clients)

    def after_fork(self) -> None:
        """In a forked child: new connections, no threads, and every session stays the parent's."""
        self._lock = threading.Lock()
        self.transport.after_fork()
        self.renewer.after_fork()
        for client in self.clients():
            client.after_fork()

    def close(self) -> None:
        """End the renewer, and close the HTTP session if it was made here."""
        self.renewer.stop()
        if self._own_http:
            self.http.close()


def _make_session(config: ServiceBusConfig) -> requests.Session:
    http = requests.Session()
    adapter = KeptAdapter(pool_connections=4, pool_maxsize=config.pool_connections)
    http.mount("https://", adapter)
    http.mount("http://", adapter)
    return http


def _mount(http: requests.Session, adapter: InProcessAdapter) -> None:
    """Have `adapter` answer for its URL. Other threads may be using the session: its adapters are exchanged at once."""
    # With the slash, so that it does not answer for a longer host name.
    prefix = f"{adapter.url}/"
    if http.adapters.get(prefix) is not adapter:
        others: list[tuple[str, BaseAdapter]] = [item for item in http.adapters.items() if item[0] != prefix]
        # requests takes the first that fits: the longest come first.
        http.adapters = OrderedDict(sorted([*others, (prefix, adapter)], key=lambda item: -len(item[0])))


def _azure_adapter(
    config: ServiceBusConfig, credential: TokenCredential | None, http: requests.Session | None
) -> InProcessAdapter:
    """Return the gateway in this process with Azure behind it: the one that `http` has already, if it has one.

    Raises:
        ConfigurationError: The extra is missing, there is nothing to authenticate with, or `http` has one for others.
    """
    need("azure.servicebus", "servicebus")
    need("falcon", "servicebus")
    if config.uses_websockets:
        need("websocket", "servicebus")
    from ..broker.azure import ServiceBusBroker
    from .inprocess import InProcessAdapter

    place = (config.host, config.port, config.tls, config.uses_websockets, config.ca_bundle)
    identity = (*place, config.credentials, credential)
    known = None if http is None else http.adapters.get(f"{config.namespace_url}/")
    if isinstance(known, InProcessAdapter) and not known.closed:
        if known.identity != identity:
            raise ConfigurationError(
                f"this requests.Session speaks with {config.host} under other credentials already: use another one"
            )
        return known
    return InProcessAdapter(
        ServiceBusBroker(config, credential),
        config.namespace_url,
        identity=identity,
        max_body_size=AZURE_BODY_SIZE,
        max_message_size=AZURE_MESSAGE_SIZE,
    )


def embedded_link(path: str | Path | None, *, queues: Iterable[str], auto_create: bool) -> Link:
    """Return a link to a new embedded broker in this process.

    Raises:
        ConfigurationError: The extra is missing, or the file cannot be opened.
    """
    need("falcon", "server")
    from ..broker.embedded import EmbeddedBroker
    from .inprocess import InProcessAdapter

    config = ServiceBusConfig(gateway_url=EMBEDDED_URL)
    broker = EmbeddedBroker(path, queues=queues, auto_create=auto_create)
    where = "in memory" if path is None else f"on {path}"
    in_child = (
        f"the embedded broker {where} belongs to the process that opened it, not to one forked from it: open it after the "
        "fork, or have all processes connect to one `azsession serve`"
    )
    return Link(config, None, None, adapter=InProcessAdapter(broker, EMBEDDED_URL, in_child=in_child))
