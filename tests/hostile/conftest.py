"""Fixtures: a gateway, a hostile proxy in front of it, and providers with short timeouts that use the proxy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayService

from .operations import Context, Prepare, new_context
from .servers import FaultyProxy

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def gateway() -> Iterator[GatewayService]:
    with GatewayService(EmbeddedBroker(auto_create=True), [AccessKey("root", "bWFuYWdl")], max_waiting=16) as service:
        # The first wait starts threads of the gateway. They start here, so that no test seems to leak them.
        with (
            ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
            provider.create_session_client("first", "s") as session,
        ):
            session.receive_message(timeout=0.01)
        yield service


@pytest.fixture
def proxy(gateway: GatewayService) -> Iterator[FaultyProxy]:
    with FaultyProxy(int(gateway.url.rpartition(":")[2]), gateway.connection_string()) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultyProxy) -> Iterator[Callable[..., ServiceBusProvider]]:
    """A factory of providers on the hostile proxy. They already know that the server speaks version 1."""
    made: list[ServiceBusProvider] = []

    def make(**fields: Any) -> ServiceBusProvider:
        config = {"request_timeout": 30, "retry_attempts": 0, "retry_deadline": 30, **fields}
        made.append(ServiceBusProvider.from_connection_string(proxy.connection_string, **config))
        made[-1].list_sessions("known")
        return made[-1]

    yield make
    proxy.always = None
    for provider in made:
        provider.close()


@pytest.fixture
def provider(connect: Callable[..., ServiceBusProvider]) -> ServiceBusProvider:
    """A provider that retries nothing."""
    return connect()


@pytest.fixture
def prepare(connect: Callable[..., ServiceBusProvider], proxy: FaultyProxy, queue: str) -> Iterator[Prepare]:
    """A function that prepares contexts. Its arguments configure the provider."""
    made: list[Context] = []

    def make(**fields: Any) -> Context:
        made.append(new_context(connect(**fields), queue))
        return made[-1]

    yield make
    proxy.always = None
    for each in made:
        each.close()


@pytest.fixture
def queue(gateway: GatewayService) -> str:
    """A new queue."""
    name = f"queue-{next(_numbers)}"
    gateway.broker.create_queue(name, QueueSettings(max_delivery_count=1000))
    return name


def put(provider: ServiceBusProvider, queue: str, *bodies: str, session_id: str = "s") -> None:
    """Send messages."""
    provider.send_messages(queue, [Message(body, session_id=session_id) for body in bodies])
