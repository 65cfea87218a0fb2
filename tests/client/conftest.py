"""Fixtures: one session of a gateway, a gateway whose answers can be lost, and a server that answers as a test says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from azsession import ServiceBusProvider, SessionClient
from azsession.testing import AzsessionServer

from ..hostile.servers import FaultyProxy
from ..support.plain_server import PlainServer


@pytest.fixture
def session(azsession_provider: ServiceBusProvider) -> Iterator[SessionClient]:
    with azsession_provider.create_session_client("orders", "s1") as session:
        yield session


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as http:
        yield http


@pytest.fixture
def proxy(azsession_server: AzsessionServer) -> Iterator[FaultyProxy]:
    """A proxy in front of the gateway of `azsession_provider`."""
    port = int(azsession_server.url.rpartition(":")[2])
    with FaultyProxy(port, azsession_server.connection_string) as proxy:
        yield proxy
