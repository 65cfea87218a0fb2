"""How large the data file and the broker's memory get: space is used again or given back, and what is remembered expires."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker, database_file, due_work, remembered
from azsession.queues import QueueSettings

from ...conftest import eventually
from . import COMPLETE, HandClock, accept, bodies, messages, peek, receive, send, settle

BODY = "x" * 4000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files looked at soon, and small ones too."""
    monkeypatch.setattr(due_work, "RELEASE_AFTER", 0.05)
    monkeypatch.setattr(due_work, "RELEASE_PAUSE", 0.001)
    monkeypatch.setattr(database_file, "MIN_FREE_PAGES", 64)


def fill(broker: EmbeddedBroker, count: int, session: str = "s") -> None:
    for start in range(0, count, 500):
        broker.send("q", messages(*[BODY] * min(500, count - start), session=session)).result()


def drain(broker: EmbeddedBroker, session: str = "s") -> None:
    while received := receive(broker, "A", 500, session=session):
        settle(broker, COMPLETE, *received, session=session)


def size(path: Path) -> int:
    return path.stat().st_size


def make_old(path: Path) -> None:
    """Make a file as azsession did before files could become smaller."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN; {database_file.SCHEMA} COMMIT;")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)


# The file


def test_a_file_becomes_smaller_after_its_peak_while_it_is_used(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "first", session="kept")
        fill(broker, 2000)
        send(broker, "last", session="kept")
        assert size(path) > 6_000_000
        drain(broker)
        eventually(lambda: size(path) < 1_500_000, lambda: f"{size(path)} bytes")
        assert peek(broker, "kept") == ["first", "last"]
        fill(broker, 10)
        assert len(receive(broker, "A", 100)) == 10
    with EmbeddedBroker(path) as broker:
        assert peek(broker, "kept") == ["first", "last"]


def test_a_file_that_is_not_mostly_free_keeps_its_space_for_what_comes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_file, "MIN_FREE_PAGES", 10**9)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, 500)
        drain(broker)
        fill(broker, 500)
        drain(broker)
        top = size(path)
        for _ in range(5):
            fill(broker, 500)
            drain(broker)
        assert size(path) < top * 1.1


def test_an_idle_broker_looks_at_its_file_once(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "x")
        eventually(lambda: broker._core.due._release_at is None)
        assert broker._core.due.next_event() is None


def test_an_old_file_that_is_mostly_free_is_made_smaller_when_it_is_opened(path: Path) -> None:
    make_old(path)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, 1000)
        send(broker, "kept", session="t")
        drain(broker)
        top = size(path)
    assert size(path) >= top > 3_500_000
    with EmbeddedBroker(path) as broker:
        assert peek(broker, "t") == ["kept"]
        fill(broker, 1000)
        drain(broker)
        # From now on it becomes smaller like a new one.
        eventually(lambda: size(path) < 1_500_000, lambda: f"{size(path)} bytes")
        assert peek(broker, "t") == ["kept"]


def test_an_old_file_that_is_well_filled_is_used_as_it_is(path: Path) -> None:
    make_old(path)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, 400)
        fill(broker, 100, session="t")
        drain(broker, session="t")
    with EmbeddedBroker(path) as broker:
        assert broker._core.connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        assert len(receive(broker, "B", 1000)) == 400


NO_ROOM = """
import logging, resource, signal, sys
from azsession.broker.embedded import EmbeddedBroker, database_file
logging.basicConfig(format="%(message)s")
database_file.MIN_FREE_PAGES = 64
most = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
with EmbeddedBroker(sys.argv[1]) as broker:
    print(broker._core.connection.execute("PRAGMA auto_vacuum").fetchone()[0], len(broker.peek("q", "t", 0, 1000).result()))
"""


def test_an_old_file_that_cannot_be_made_smaller_is_used_as_it_is(path: Path) -> None:
    make_old(path)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, 400, session="t")
        fill(broker, 1000)
        drain(broker)
    # A log of this size does not hold the copy.
    command = [sys.executable, "-c", NO_ROOM, str(path), "1000000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0 400\n"), ended.stderr
    assert "could not be shrunk" in ended.stderr
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker, "t")) == 400


def test_space_is_given_back_in_memory_too() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        fill(broker, 1000)
        drain(broker)

        def pages() -> int:
            return int(broker._core.perform(lambda tx: broker._core.connection.execute("PRAGMA page_count").fetchone()[0]))

        eventually(lambda: pages() < 400, lambda: f"{pages()} pages")


# What is remembered


def rows(broker: EmbeddedBroker, *tables: str) -> int:
    run = broker._core.connection.execute
    return sum(run(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def test_what_is_remembered_of_settlements_and_requests_expires() -> None:
    clock = HandClock()
    with EmbeddedBroker(queues=["q"], clock=clock) as broker:
        counts = []
        for number in range(12):
            for request in range(20):
                broker.send("q", messages("x"), f"r-{number}-{request}").result()
            settle(broker, COMPLETE, *receive(broker, f"holder-{number}", 20))
            broker.release("q", "s", f"holder-{number}").result()
            counts.append(rows(broker, "settled_0", "settled_1") + rows(broker, "requests_0", "requests_1"))
            clock.advance(remembered.REQUESTS_SECONDS / 2)
        # A settlement lives for one to two of its periods, a request too.
        assert max(counts[6:]) <= max(counts[:6]) <= 20 * 2 * 2 + 20 * 4


def test_ids_of_messages_are_forgotten_after_their_window() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        settings = QueueSettings(requires_duplicate_detection=True, duplicate_detection_window=20)
        broker.create_queue("q", settings).result()
        for number in range(50):
            send(broker, "x", message_id=f"m-{number}")
            clock.advance(5)
        assert rows(broker, "duplicates") <= 4


def test_locks_that_ended_are_not_kept_until_they_would_have_expired() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=300)).result()
        send(broker, "kept", session="kept")
        assert receive(broker, "keeper", session="kept")
        for number in range(1000):
            receive(broker, f"holder-{number}", session=f"s-{number}")
            broker.release("q", f"s-{number}", f"holder-{number}").result()
        assert len(broker._core.locks._expiries) < 100
        # The one that is left ends in its time.
        clock.advance(299)
        assert broker.renew("q", "kept", "keeper").result() == 300
        clock.advance(301)
        assert bodies(receive(broker, "next", session="kept")) == ["kept"]


def test_accepts_are_remembered_no_longer_than_their_locks() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        send(broker, "x")
        for number in range(300):
            assert accept(broker, f"holder-{number}", request_id=f"r-{number}") == "s"
            broker.release("q", "s", f"holder-{number}").result()
        assert len(broker._core.queues["q"].accepts) < 100
        for number in range(100):
            send(broker, "x", session=f"held-{number}")
            assert accept(broker, f"h-{number}", request_id=f"a-{number}")
        # Those whose locks last are given again.
        assert accept(broker, "h-1", request_id="a-1") == accept(broker, "h-1", request_id="a-1")


def test_accepts_and_renewals_leave_nothing_behind() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=10)).result()
        send(broker, "x")
        for number in range(300):
            assert accept(broker, f"holder-{number}") == "s"
            for _ in range(3):
                clock.advance(9)
                broker.renew("q", "s", f"holder-{number}").result()
            clock.advance(11)
        assert len(broker._core.locks._expiries) < 100
        assert len(list(broker._core.locks)) <= 1
