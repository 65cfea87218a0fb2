"""A gateway, a hostile way to it, and providers that take that way and do not wait long."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayService

from .operations import Stage, stage
from .servers import HostileWay

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def gateway() -> Iterator[GatewayService]:
    with GatewayService(EmbeddedBroker(auto_create=True), [AccessKey("root", "bWFuYWdl")], max_waiting=16) as service:
        # The threads that begin with the first wait begin now, so that no test seems to leave them behind.
        with (
            ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
            provider.create_session_client("first", "s") as session,
        ):
            session.receive_message(timeout=0.01)
        yield service


@pytest.fixture
def way(gateway: GatewayService) -> Iterator[HostileWay]:
    with HostileWay(int(gateway.url.rpartition(":")[2]), gateway.connection_string()) as way:
        yield way


@pytest.fixture
def connect(way: HostileWay) -> Iterator[Callable[..., ServiceBusProvider]]:
    """What makes providers on the hostile way; they know already that version 1 is spoken there."""
    made: list[ServiceBusProvider] = []

    def make(**fields: Any) -> ServiceBusProvider:
        config = {"request_timeout": 5, "retry_attempts": 0, "retry_deadline": 5, **fields}
        made.append(ServiceBusProvider.from_connection_string(way.connection_string, **config))
        made[-1].list_sessions("known")
        return made[-1]

    yield make
    way.always = None
    for provider in made:
        provider.close()


@pytest.fixture
def provider(connect: Callable[..., ServiceBusProvider]) -> ServiceBusProvider:
    """A provider that tries nothing again."""
    return connect()


@pytest.fixture
def set_stage(connect: Callable[..., ServiceBusProvider], way: HostileWay, queue: str) -> Iterator[Callable[..., Stage]]:
    """What makes stages for operations, with providers of these settings."""
    made: list[Stage] = []

    def make(**fields: Any) -> Stage:
        made.append(stage(connect(**fields), queue))
        return made[-1]

    yield make
    way.always = None
    for each in made:
        each.close()


@pytest.fixture
def queue(gateway: GatewayService) -> str:
    """A queue of the test's own."""
    name = f"queue-{next(_numbers)}"
    gateway.broker.create_queue(name, QueueSettings(max_delivery_count=1000))
    return name


def put(provider: ServiceBusProvider, queue: str, *bodies: str, session_id: str = "s") -> None:
    """Send messages."""
    provider.send_messages(queue, [Message(body, session_id=session_id) for body in bodies])
