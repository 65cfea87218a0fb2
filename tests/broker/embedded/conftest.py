"""Fixtures of the embedded broker's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings

from .helpers import HandClock


@pytest.fixture
def clock() -> Clock:
    """Return the clock of `broker`. It stands still until a test changes it."""
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a data file that does not exist yet."""
    return tmp_path / "data.db"


@pytest.fixture
def broker(clock: Clock) -> Iterator[EmbeddedBroker]:
    """Return a broker in memory, with the queue ``q``."""
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=30, max_delivery_count=3)).result()
        yield broker
