"""What the clients of one provider share: the HTTP session, the transport with its tokens, and the renewer."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import requests

from . import forks
from .config import ServiceBusConfig
from .connections import KeptAdapter
from .renewal import Renewer
from .tokens import TokenCache, source_of
from .transport import Call, Transport

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

T = TypeVar("T")


class UnderWay:
    """The calls of one client or provider that are under way, so that closing it can end those that wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _calls.
        self._calls: set[Call[Any]] = set()
        self.stopped = threading.Event()

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
    """

    def __init__(
        self,
        config: ServiceBusConfig,
        credential: TokenCredential | None,
        http: requests.Session | None,
        url: str | None = None,
    ) -> None:
        self._own_http = http is None
        self.http = _make_session(config) if http is None else http
        self.config = config
        self.transport = Transport(self.http, url or config.namespace_url, config, TokenCache(source_of(config, credential)))
        self.renewer = Renewer()
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
