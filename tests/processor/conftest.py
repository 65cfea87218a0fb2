"""Fixtures of the processor tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import ServiceBusProvider
from azsession.processor import backoff
from azsession.testing import AzsessionServer

from .front import Front, fronted
from .helpers import QUEUE


@pytest.fixture
def provider(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> ServiceBusProvider:
    """A provider of a gateway that has the queue."""
    azsession_server.create_queue(QUEUE)
    return azsession_provider


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pause after a failure short."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.02)


@pytest.fixture
def front(azsession_server: AzsessionServer, provider: ServiceBusProvider) -> Iterator[Front]:
    """A front of the gateway. `provider` is not behind it."""
    with fronted(azsession_server) as front:
        yield front
