"""Fixtures of the tests of the broker on Azure: a namespace, brokers on it, and a gateway in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from azsession import ServiceBusConfig, ServiceBusProvider
from azsession.broker.azure import AzureBroker
from azsession.server import AccessKey, GatewayService

from ...namespaces import Namespace
from ...namespaces.choice import SERVERS, namespace_on
from ...server.raw import KEYS, Gateway, SteppedClock
from .holders import QUEUE, Holder, broker_on


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """The name of the server for `namespace`."""
    name: str = request.param
    return name


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    """A namespace with one queue, whose locks last a minute."""
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture(params=["in-process", "over-HTTP"])
def provider(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[ServiceBusProvider]:
    """A provider of the namespace, directly and through a gateway."""
    with ExitStack() as stack:
        where = namespace.connection_string
        if request.param == "over-HTTP":
            broker = AzureBroker(ServiceBusConfig(connection_string=where))
            where = stack.enter_context(GatewayService(broker, [AccessKey.generate()])).connection_string()
        yield stack.enter_context(ServiceBusProvider.from_connection_string(where, retry_attempts=2))


@pytest.fixture
def broker(namespace: Namespace) -> Iterator[AzureBroker]:
    """A broker on the namespace."""
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def other(namespace: Namespace) -> Iterator[AzureBroker]:
    """The broker of another process."""
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def gateway(namespace: Namespace) -> Iterator[Gateway]:
    """A gateway in front of the namespace, for requests that a test writes itself."""
    azure = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), None)
    with GatewayService(azure, KEYS, max_waiting=16) as service:
        yield Gateway(service, SteppedClock())


def holder_behind(gateway: Gateway) -> Holder:
    """Return a holder on the gateway's broker, to look at the sessions there."""
    azure = gateway.service.broker
    assert isinstance(azure, AzureBroker)
    return Holder(azure)
