"""Fixtures of the tests of the broker on Azure: a stand-in for a namespace, brokers on it, and a gateway in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from azsession import ServiceBusConfig
from azsession.broker.azure import AzureBroker
from azsession.server import GatewayService

from ...server.raw import KEYS, Gateway, SteppedClock
from ...standin.require import require_standin
from .holders import QUEUE, Holder, broker_on

if TYPE_CHECKING:
    from tests.standin import StandIn


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    """A namespace with one queue, whose locks last a minute."""
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture
def broker(namespace: StandIn) -> Iterator[AzureBroker]:
    """A broker on the namespace."""
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def other(namespace: StandIn) -> Iterator[AzureBroker]:
    """The broker of another process."""
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def gateway(namespace: StandIn) -> Iterator[Gateway]:
    """A gateway in front of the namespace, for requests that a test writes itself."""
    azure = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), None)
    with GatewayService(azure, KEYS, max_waiting=16) as service:
        yield Gateway(service, SteppedClock())


def holder_behind(gateway: Gateway) -> Holder:
    """Return a holder on the gateway's broker, to look at the sessions there."""
    azure = gateway.service.broker
    assert isinstance(azure, AzureBroker)
    return Holder(azure)
