"""Sessions of requests for tests: one for each way in which `HttpExchange` sends a request. And transports with them.

The fixtures are for the modules that import them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from azsession import ServiceBusConfig
from azsession.client.call import Call, ServerResponse
from azsession.client.http_sockets import PooledAdapter
from azsession.client.transport import Transport
from azsession.token_cache import TokenCache
from azsession.tokens import SasKey

from ..support.plain_server import PlainServer, answer


class OwnSession(requests.Session):
    """A subclass, which `HttpExchange` lets send each request itself."""

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        return super().send(request, **settings)


def new_session(way: str) -> requests.Session:
    """Return a new session of requests. `way` is one of `WAYS`."""
    if way == "session":
        return OwnSession()
    http = requests.Session()
    if way == "pool":
        for prefix in ("http://", "https://"):
            http.mount(prefix, PooledAdapter())
    return http


#: Through the session, through an adapter, and with the pool of the provider's own adapter.
WAYS = ("session", "adapter", "pool")


@pytest.fixture(params=WAYS)
def http(request: pytest.FixtureRequest) -> Iterator[requests.Session]:
    """A session of each way."""
    with new_session(request.param) as http:
        yield http


def made(url: str, http: requests.Session, **fields: Any) -> Transport:
    """Return a transport to a server."""
    text = f"Endpoint={url}/;SharedAccessKeyName=n;SharedAccessKey=k"
    config = ServiceBusConfig(connection_string=text, retry_attempts=0, allow_insecure_http=True, **fields)
    return Transport(http, url, config, TokenCache(SasKey("n", "k")))


def call(path: str = "/q/x", **fields: Any) -> Call[ServerResponse]:
    return Call(
        **{
            "method": "GET",
            "path": path,
            "entity": "q",
            "read": lambda response: response,
            **fields,
        }
    )


def headers_of(server: PlainServer, transport: Transport, **fields: Any) -> dict[str, str]:
    """Send a call, and return the headers that the server saw."""
    server.next(answer(200))
    transport.send(call(**fields))
    return server.seen[-1].headers


@pytest.fixture
def transport(server: PlainServer, http: requests.Session) -> Transport:
    """A transport that has sent a request."""
    transport = made(server.url, http)
    server.next(answer(200))
    transport.send(call())
    server.seen.clear()
    return transport
