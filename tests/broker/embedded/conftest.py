"""Fixtures of the embedded broker's tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker, group_commit
from azsession.broker.embedded.group_commit import GroupCommit
from azsession.queues import QueueSettings

from .commit_helpers import Connection
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


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=Connection)
    made.execute("CREATE TABLE t (x UNIQUE)")
    yield made
    made.close()


@pytest.fixture
def group(connection: Connection) -> GroupCommit:
    return GroupCommit(connection, Clock(), lambda: None)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give transactions so much time that only the number of jobs bounds them, also on a busy machine."""
    monkeypatch.setattr(group_commit, "MAX_SECONDS", 60.0)


@pytest.fixture
def commits(connection: Connection) -> list[str]:
    """Return the list to which each COMMIT is added."""
    seen: list[str] = []
    connection.set_trace_callback(lambda sql: seen.append(sql) if sql == "COMMIT" else None)
    return seen
