"""Fixtures of the tests with the official SDK: each runs on azsession's own AMQP endpoint, and on the stand-in."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusSender

from azsession import amqp
from azsession.amqp import AmqpMessage

from ..namespaces import Namespace
from ..namespaces.choice import SERVERS, namespace_on
from ..support.sdk import sockets_closed, wait_for_closings

_names = (f"orders-{number}" for number in itertools.count())


def put(namespace: Namespace, queue: str, *messages: tuple[str, str | None]) -> None:
    """Add messages to a queue without the SDK: pairs of a body, which is also the message id, and a session id or `None`."""
    made = [AmqpMessage(data=body.encode(), message_id=body, group_id=session_id) for body, session_id in messages]
    namespace.put(queue, [amqp.encode_message(each) for each in made])


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """The name of the server for `namespace`."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def namespace(server: str) -> Iterator[Namespace]:
    """A namespace for all tests of a module, with the SDK's leaks closed behind them."""
    with sockets_closed(), namespace_on(server) as namespace:
        yield namespace


@pytest.fixture(scope="module")
def client(namespace: Namespace) -> Iterator[ServiceBusClient]:
    """A client of the SDK for all tests of a module."""
    # With keep_alive, each sender has a thread that sleeps, and close waits for it.
    with ServiceBusClient.from_connection_string(namespace.connection_string, retry_total=0, keep_alive=None) as client:
        yield client
        wait_for_closings()


@pytest.fixture(scope="module")
def shared(client: ServiceBusClient, namespace: Namespace) -> Iterator[ServiceBusSender]:
    """The sender of the queue "shared": the SDK takes a second to open and close one."""
    namespace.create_queue("shared")
    with client.get_queue_sender("shared") as sender:
        yield sender


@pytest.fixture
def sid() -> str:
    """The id of a session that only one test uses."""
    return str(uuid.uuid4())


@pytest.fixture
def queue(namespace: Namespace) -> str:
    """A queue that only one test uses."""
    name = next(_names)
    namespace.create_queue(name)
    return name
