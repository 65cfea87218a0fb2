"""Fixtures of the tests of the AMQP endpoint: a gateway with it, and the official SDK as its client."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient

from azsession import QueueSettings, ServiceBusProvider
from azsession.broker.calls import CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService, Right

from ...support.sdk import sockets_closed, wait_for_closings

_names = (f"orders-{number}" for number in itertools.count())

#: The keys of the gateway.
ROOT = AccessKey("root", "cm9vdA==")
SENDER = AccessKey("sender", "c2VuZA==", frozenset({Right.SEND}))


def sdk_client(connection_string: str, **options: Any) -> ServiceBusClient:
    """Return a client of the SDK that does not try again."""
    # With keep_alive, each sender has a thread that sleeps, and close waits for it.
    return ServiceBusClient.from_connection_string(connection_string, retry_total=0, keep_alive=None, **options)


@pytest.fixture(scope="module")
def service() -> Iterator[GatewayService]:
    """A gateway with an AMQP endpoint, for all tests of a module."""
    with sockets_closed(), GatewayService(EmbeddedBroker(), [ROOT, SENDER], amqp_port=0) as service:
        # The broker's thread starts now, and not in the first test.
        service.broker.list_queues(context=CallContext(blocking=False)).result()
        yield service


@pytest.fixture(scope="module")
def client(service: GatewayService) -> Iterator[ServiceBusClient]:
    """A client of the SDK for all tests of a module."""
    with sdk_client(service.amqp_connection_string()) as client:
        yield client
        wait_for_closings()


@pytest.fixture
def provider(service: GatewayService) -> Iterator[ServiceBusProvider]:
    """A provider that uses the same broker over HTTP."""
    with ServiceBusProvider.from_connection_string(service.connection_string()) as provider:
        yield provider


@pytest.fixture
def new_queue(service: GatewayService) -> Callable[..., str]:
    """Create a queue with the given settings, and return its name."""

    def create(**settings: Any) -> str:
        name = next(_names)
        service.broker.create_queue(name, QueueSettings(**settings)).result()
        return name

    return create


@pytest.fixture
def queue(new_queue: Callable[..., str]) -> str:
    """A queue that only one test uses."""
    return new_queue()


@pytest.fixture
def sid() -> str:
    """The id of a session that only one test uses."""
    return str(uuid.uuid4())
