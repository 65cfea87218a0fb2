"""Fixtures of the processor tests."""

from __future__ import annotations

import pytest

from azsession import ServiceBusProvider
from azsession.processor import backoff
from azsession.testing import AzsessionServer

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
