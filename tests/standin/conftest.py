"""Fixtures of the tests that check the stand-in with the official SDK. Imports wait for the check that proton is there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.standin.require import require_standin

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient

    from tests.standin import StandIn

_queue_names = (f"orders-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def _sdk_sockets() -> Iterator[None]:
    """Close the sockets that the SDK leaks."""
    from tests.support.sdk import sockets_closed

    with sockets_closed():
        yield


@pytest.fixture(scope="module")
def namespace(_sdk_sockets: None) -> Iterator[StandIn]:
    """A stand-in for all tests of a module, with the SDK's leaks closed behind them."""
    with require_standin()() as standin:
        yield standin


@pytest.fixture(scope="module")
def client(namespace: StandIn) -> Iterator[ServiceBusClient]:
    """A client of the SDK for all tests of a module."""
    from azure.servicebus import ServiceBusClient

    from tests.support.sdk import wait_for_closings

    # With keep_alive, each sender has a thread that sleeps, and close waits for it.
    with ServiceBusClient.from_connection_string(namespace.connection_string, retry_total=0, keep_alive=None) as client:
        yield client
        wait_for_closings()


@pytest.fixture
def queue(namespace: StandIn) -> str:
    """A queue that only one test uses."""
    name = next(_queue_names)
    namespace.create_queue(name)
    return name
