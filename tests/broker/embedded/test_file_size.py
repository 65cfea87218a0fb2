"""The size of the data file of the embedded broker: free pages are reused or returned to the file system."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker, database_file, due_work
from tests.conftest import eventually

from .helpers import COMPLETE, messages, peek, receive, send, settle

BODY = "x" * 4000


@pytest.fixture(autouse=True)
def _check_small_files_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check files after a short time, and shrink small files too."""
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
    """Create a file without incremental vacuum, which SQLite cannot shrink step by step."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN; {database_file.SCHEMA} COMMIT;")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)


def test_a_mostly_free_file_shrinks_while_it_is_used(path: Path) -> None:
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


def test_free_pages_are_reused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_idle_broker_checks_its_file_once(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "x")
        eventually(lambda: broker._core.due._release_at is None)
        assert broker._core.due.next_event() is None


def test_a_mostly_free_file_without_incremental_vacuum_is_rewritten_when_it_is_opened(path: Path) -> None:
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
        # The rewritten file has incremental vacuum.
        eventually(lambda: size(path) < 1_500_000, lambda: f"{size(path)} bytes")
        assert peek(broker, "t") == ["kept"]


def test_a_well_filled_file_without_incremental_vacuum_is_not_rewritten(path: Path) -> None:
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


def test_a_file_that_cannot_be_rewritten_is_used_unchanged(path: Path) -> None:
    make_old(path)
    with EmbeddedBroker(path, queues=["q"]) as broker:
        fill(broker, 400, session="t")
        fill(broker, 1000)
        drain(broker)
    # The log may not become as large as the copy.
    command = [sys.executable, "-c", NO_ROOM, str(path), "1000000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0 400\n"), ended.stderr
    assert "could not be shrunk" in ended.stderr
    with EmbeddedBroker(path) as broker:
        assert len(peek(broker, "t")) == 400


def test_a_database_in_memory_shrinks_too() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        fill(broker, 1000)
        drain(broker)

        def pages() -> int:
            return int(broker._core.perform(lambda tx: broker._core.connection.execute("PRAGMA page_count").fetchone()[0]))

        eventually(lambda: pages() < 400, lambda: f"{pages()} pages")
