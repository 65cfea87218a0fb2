"""A server that has only the reference's six operations, and clients for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import ServiceBusProvider, SessionClient

from ..support.plain_server import PlainServer


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.fixture
def provider(server: PlainServer) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        yield provider


@pytest.fixture
def session(provider: ServiceBusProvider) -> Iterator[SessionClient]:
    with provider.create_session_client("orders", "s1", auto_renew=False) as session:
        yield session
