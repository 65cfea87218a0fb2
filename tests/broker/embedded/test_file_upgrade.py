"""Data files of schema version 1: the broker adds the counters and keeps all messages."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from azsession import ConfigurationError
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.jobs import Transaction
from tests.conftest import eventually

from .helpers import accept, bodies, count_rows, dead, peek, receive, send
from .model import check_counters

#: The tables and indexes of version 1.
VERSION_1 = """
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, next_sequence INTEGER NOT NULL
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, name TEXT NOT NULL, head INTEGER, state BLOB, UNIQUE (queue, name)
);
CREATE INDEX sessions_ready ON sessions (queue, head) WHERE head IS NOT NULL;
CREATE TABLE messages (
    key INTEGER PRIMARY KEY, session INTEGER NOT NULL, status INTEGER NOT NULL, enqueued REAL NOT NULL, due REAL,
    expires REAL, reason TEXT, description TEXT, properties TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX messages_of_session ON messages (session, status, key);
CREATE INDEX messages_expiring ON messages (expires) WHERE expires IS NOT NULL AND status < 2;
CREATE INDEX messages_scheduled ON messages (due) WHERE status = 2;
CREATE INDEX messages_dead ON messages (key) WHERE status = 3;
CREATE TABLE deliveries (key INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE duplicates (
    queue INTEGER NOT NULL, message_id TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (queue, message_id)
) WITHOUT ROWID;
CREATE INDEX duplicates_expiring ON duplicates (expires);
CREATE TABLE settled_0 (key INTEGER, token TEXT, disposition TEXT NOT NULL, PRIMARY KEY (key, token)) WITHOUT ROWID;
CREATE TABLE settled_1 (key INTEGER, token TEXT, disposition TEXT NOT NULL, PRIMARY KEY (key, token)) WITHOUT ROWID;
CREATE TABLE requests_0 (queue INTEGER, request TEXT, PRIMARY KEY (queue, request)) WITHOUT ROWID;
CREATE TABLE requests_1 (queue INTEGER, request TEXT, PRIMARY KEY (queue, request)) WITHOUT ROWID;
CREATE TABLE turnover (name TEXT PRIMARY KEY, current INTEGER NOT NULL, until REAL NOT NULL);
PRAGMA application_id = 1635414885;
PRAGMA user_version = 1;
"""
Q1, Q2 = 1 << 40, 2 << 40


@pytest.fixture
def old(path: Path) -> Path:
    """Return a file of version 1 with two queues, and messages of all states."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; BEGIN; {VERSION_1} COMMIT;")
        connection.execute("""INSERT INTO queues VALUES (1, 'q', '{"lock_duration": 30}', 7), (2, 'other', '{}', 2)""")
        connection.execute(f"INSERT INTO sessions VALUES (1, 1, 's', {Q1 + 1}, NULL), (2, 1, 't', {Q1 + 3}, x'01')")
        connection.execute(f"INSERT INTO sessions VALUES (3, 2, 's', {Q2 + 1}, NULL)")
        connection.executemany(
            """INSERT INTO messages VALUES (?, ?, ?, 1.7e9, ?, NULL, ?, NULL, '{"message_id": "m"}', ?)""",
            [
                (Q1 + 1, 1, 0, None, None, b"active"),
                (Q1 + 2, 1, 1, None, None, b"deferred"),
                (Q1 + 3, 2, 0, None, None, b"of t"),
                (Q1 + 4, 1, 2, 9e9, None, b"scheduled"),
                (Q1 + 5, 1, 3, None, "why", b"dead"),
                (Q1 + 6, 1, 0, None, None, b"second"),
                (Q2 + 1, 3, 0, None, None, b"of other"),
            ],
        )
        connection.execute(f"INSERT INTO deliveries VALUES ({Q1 + 1}, 2)")
        connection.execute("INSERT INTO requests_0 VALUES (1, 'r1')")
    return path


def test_a_file_of_version_1_is_upgraded_with_all_its_messages(old: Path) -> None:
    for _ in range(2):
        with EmbeddedBroker(old) as broker:
            assert peek(broker) == ["active", "deferred", "scheduled", "second"]
            assert dead(broker) == [("dead", "why")]
            assert broker.get_queue("q").result().active_count == 3
            assert broker.get_queue("other").result().active_count == 1
            assert [(one.session_id, one.message_count) for one in broker.list_sessions("q", "", 10).result()] == [
                ("s", 2),
                ("t", 1),
            ]
            check(broker)


def test_a_file_of_version_1_is_used_after_its_upgrade(old: Path) -> None:
    with EmbeddedBroker(old) as broker:
        send(broker, "new")
        assert [accept(broker, lock) for lock in "ABC"] == ["s", "t", None]
        received = receive(broker, "A", 10)
        assert bodies(received) == ["active", "second", "new"]
        assert [one.delivery_count for one in received] == [3, 1, 1]
        broker.dead_letter_session("q", "s", "A", "why", None).result()
        broker.delete_queue("other").result()
        check(broker, "s", "t")


def test_an_upgrade_that_is_interrupted_leaves_the_file_at_version_1(old: Path) -> None:
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        # The upgrade fails after its first statements, because this index exists already.
        connection.execute("CREATE INDEX sessions_listed ON sessions (name)")
    with pytest.raises(ConfigurationError):
        EmbeddedBroker(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("DROP INDEX sessions_listed")
    with EmbeddedBroker(old) as broker:
        check(broker)


def check(broker: EmbeddedBroker, *locked: str) -> None:
    eventually(lambda: count_rows(broker, "deleted_queues") == 0)

    def job(tx: Transaction) -> None:
        check_counters(broker._core.connection.execute, locked)

    broker._core.perform(job)
