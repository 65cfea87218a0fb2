"""Every statement on the messages, sessions and queues in the embedded broker's SQLite file.

Used by `EmbeddedBroker` alone, in its turn; nothing here knows of locks, waiting or threads.

A message's key is ``queue_id << 40 | sequence_number``, so that one B-tree holds every queue in order. What a message is
lies in ``messages``; how often it was delivered in ``deliveries``, so that a delivery does not write the body again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from typing import Any

import attrs

from .database_file import ACTIVE, DEAD, INCREMENTAL, SCHEDULED, is_mostly_free

SEQUENCE_BITS = 40
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1

#: What is remembered is kept in two tables, turned over in this many seconds: each entry lives for one to two of them.
SETTLED_SECONDS = 300.0
REQUESTS_SECONDS = 600.0

#: Pages given back to the system in one turn.
RELEASED_PAGES = 256

_COLUMNS = "key, status, enqueued, expires, reason, description, properties, body, coalesce(count, 0)"
_FROM = f"SELECT {_COLUMNS} FROM messages LEFT JOIN deliveries USING (key)"


@attrs.frozen
class Row:
    """A message as it is stored, with its delivery count."""

    key: int
    status: int
    enqueued: float
    expires: float | None
    reason: str | None
    description: str | None
    properties: str
    body: bytes
    count: int


def message_key(queue_id: int, sequence_number: int) -> int:
    """Return the key of a queue's message."""
    return queue_id << SEQUENCE_BITS | sequence_number


def find_key(queue_id: int, sequence_number: int) -> int:
    """Return the key to look for a message by a number that a caller gave.

    A number beyond all sequence numbers would reach into another queue: it is none of any message instead.
    """
    return message_key(queue_id, sequence_number) if 0 <= sequence_number <= SEQUENCE_MASK else 0


class Store:
    """The statements, by what they are for. Every method is one or a few statements; the caller is in a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._run = connection.execute
        self._many = connection.executemany

    # Queues

    def queues(self) -> list[tuple[int, str, dict[str, Any], int]]:
        """Return id, name, settings and next sequence number of every queue."""
        rows = self._run("SELECT id, name, settings, next_sequence FROM queues").fetchall()
        return [(number, name, json.loads(settings), following) for number, name, settings, following in rows]

    def add_queue(self, name: str, settings: dict[str, Any]) -> int:
        cursor = self._run(
            "INSERT INTO queues (name, settings, next_sequence) VALUES (?, ?, 1)", (name, json.dumps(settings))
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def delete_queue(self, queue: int) -> None:
        keys = (message_key(queue, 0), message_key(queue + 1, 0))
        self._run("DELETE FROM messages WHERE key >= ? AND key < ?", keys)
        self._run("DELETE FROM deliveries WHERE key >= ? AND key < ?", keys)
        for table in ("sessions", "duplicates"):
            self._run(f"DELETE FROM {table} WHERE queue = ?", (queue,))
        self._run("DELETE FROM queues WHERE id = ?", (queue,))

    def counts(self, queue: int) -> tuple[int, int]:
        """Return how many messages are active, and how many dead."""
        found = dict(
            self._run(
                "SELECT messages.status, count(*) FROM sessions JOIN messages ON messages.session = sessions.id "
                "WHERE sessions.queue = ? GROUP BY messages.status",
                (queue,),
            ).fetchall()
        )
        return found.get(ACTIVE, 0), found.get(DEAD, 0)

    # Sending

    def set_next_sequence(self, queue: int, following: int) -> None:
        self._run("UPDATE queues SET next_sequence = ? WHERE id = ?", (following, queue))

    def add_messages(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of key, session, status, enqueued, due, expires, properties, body."""
        self._many(
            "INSERT INTO messages (key, session, status, enqueued, due, expires, properties, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def saw_request(self, queue: int, request: str) -> bool:
        """Tell whether this request was remembered."""
        return any(
            self._run(f"SELECT 1 FROM requests_{table} WHERE queue = ? AND request = ?", (queue, request)).fetchone()
            for table in (0, 1)
        )

    def remember_request(self, queue: int, request: str, now: float) -> None:
        table = self._turn_over("requests", REQUESTS_SECONDS, now)
        self._run(f"INSERT INTO requests_{table} VALUES (?, ?)", (queue, request))

    def is_duplicate(self, queue: int, message_id: str, now: float, window: float) -> bool:
        """Tell whether this message id was seen within the window, and remember it if not."""
        self._run("DELETE FROM duplicates WHERE expires <= ?", (now,))
        cursor = self._run(
            "INSERT INTO duplicates VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (queue, message_id, now + window)
        )
        return cursor.rowcount == 0

    # Sessions

    def session(self, queue: int, name: str) -> tuple[int, int | None] | None:
        """Return a session's row id, and the key of its first active message."""
        row: tuple[int, int | None] | None = self._run(
            "SELECT id, head FROM sessions WHERE queue = ? AND name = ?", (queue, name)
        ).fetchone()
        return row

    def ensure_session(self, queue: int, name: str) -> int:
        found = self.session(queue, name)
        if found is not None:
            return found[0]
        cursor = self._run("INSERT INTO sessions (queue, name) VALUES (?, ?)", (queue, name))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def refresh_session(self, session: int) -> None:
        """Find the session's first active message anew; forget a session that has nothing left."""
        self._run(
            "UPDATE sessions SET head = (SELECT min(key) FROM messages WHERE session = sessions.id AND status = 0) "
            "WHERE id = ?",
            (session,),
        )
        self._run(
            "DELETE FROM sessions WHERE id = ? AND head IS NULL AND state IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM messages WHERE session = sessions.id)",
            (session,),
        )

    def refresh_sessions(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.refresh_session(session)

    def ready_sessions(self, queue: int) -> Generator[str, None, None]:
        """Yield the sessions with active messages, the one whose first message is oldest first."""
        cursor = self._run("SELECT name FROM sessions WHERE queue = ? AND head IS NOT NULL ORDER BY head", (queue,))
        try:
            for row in cursor:
                yield row[0]
        finally:
            cursor.close()

    def list_sessions(self, queue: int, after: str, limit: int) -> list[tuple[str, int]]:
        """Return ids and active counts of sessions that have messages or state, by id."""
        return self._run(
            "SELECT name, (SELECT count(*) FROM messages WHERE session = sessions.id AND status = 0) FROM sessions "
            "WHERE queue = ? AND name > ? AND (head IS NOT NULL OR state IS NOT NULL "
            "OR EXISTS (SELECT 1 FROM messages WHERE session = sessions.id AND status = 1)) ORDER BY name LIMIT ?",
            (queue, after, limit),
        ).fetchall()

    def state(self, queue: int, name: str) -> bytes | None:
        row = self._run("SELECT state FROM sessions WHERE queue = ? AND name = ?", (queue, name)).fetchone()
        return None if row is None else row[0]

    def set_state(self, queue: int, name: str, state: bytes | None) -> None:
        session = self.ensure_session(queue, name)
        self._run("UPDATE sessions SET state = ? WHERE id = ?", (state, session))
        if state is None:
            self.refresh_session(session)

    # Receiving

    def active_after(self, session: int, key: int, limit: int) -> list[Row]:
        """Return a session's active messages behind `key`, in order."""
        rows = self._run(f"{_FROM} WHERE session = ? AND status = 0 AND key > ? ORDER BY key LIMIT ?", (session, key, limit))
        return [Row(*row) for row in rows]

    def of_status(self, session: int, status: int, key: int, limit: int) -> list[Row]:
        """Return a session's messages of one status from `key` on, in order."""
        rows = self._run(
            f"{_FROM} WHERE session = ? AND status = ? AND key >= ? ORDER BY key LIMIT ?", (session, status, key, limit)
        )
        return [Row(*row) for row in rows]

    def message(self, key: int) -> Row | None:
        row = self._run(f"{_FROM} WHERE key = ?", (key,)).fetchone()
        return None if row is None else Row(*row)

    def session_of(self, key: int) -> tuple[int, str] | None:
        """Return row id and name of the session of a message."""
        row: tuple[int, str] | None = self._run(
            "SELECT sessions.id, name FROM messages JOIN sessions ON sessions.id = session WHERE key = ?", (key,)
        ).fetchone()
        return row

    def set_delivery_counts(self, counts: Iterable[tuple[int, int]]) -> None:
        """Keep pairs of message key and delivery count."""
        self._many("INSERT INTO deliveries VALUES (?, ?) ON CONFLICT DO UPDATE SET count = excluded.count", counts)

    # Settling

    def delete_messages(self, keys: Sequence[int]) -> None:
        rows = [(key,) for key in keys]
        self._many("DELETE FROM messages WHERE key = ?", rows)
        self._many("DELETE FROM deliveries WHERE key = ?", rows)

    def set_status(self, keys: Iterable[int], status: int) -> None:
        self._many("UPDATE messages SET status = ? WHERE key = ?", [(status, key) for key in keys])

    def dead_letter(self, rows: Iterable[tuple[str | None, str | None, int]]) -> None:
        """Dead-letter messages given as reason, description and key."""
        self._many(f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE key = ?", rows)

    def dead_letter_session(self, session: int, reason: str, description: str | None) -> int:
        """Dead-letter a session's active and deferred messages; return how many."""
        cursor = self._run(
            f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE session = ? AND status IN (0, 1)",
            (reason, description, session),
        )
        return cursor.rowcount

    def remember_settled(self, rows: Iterable[tuple[int, str, str]], now: float) -> None:
        """Remember how tokens were settled, given as message key, token and disposition."""
        table = self._turn_over("settled", SETTLED_SECONDS, now)
        self._many(f"INSERT OR REPLACE INTO settled_{table} VALUES (?, ?, ?)", rows)

    def how_settled(self, key: int, token: str) -> str | None:
        """Return how this token was settled, where that is remembered."""
        for table in (0, 1):
            query = f"SELECT disposition FROM settled_{table} WHERE key = ? AND token = ?"
            row = self._run(query, (key, token)).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def _turn_over(self, name: str, period: float, now: float) -> int:
        """Return which of the two tables takes new entries, emptying the older one when its time has come."""
        row = self._run("SELECT current, until FROM turnover WHERE name = ?", (name,)).fetchone()
        current, until = (0, None) if row is None else (int(row[0]), row[1])
        # A wall clock that was set back between two runs must not make entries live for ever.
        if until is not None and now < until <= now + period:
            return current
        if until is not None and until <= now:
            current = 1 - current
            self._run(f"DELETE FROM {name}_{current}")
        self._run("INSERT OR REPLACE INTO turnover VALUES (?, ?, ?)", (name, current, now + period))
        return current

    # What time brings

    def next_due(self) -> float | None:
        row = self._run(f"SELECT min(due) FROM messages WHERE status = {SCHEDULED}").fetchone()
        due: float | None = row[0]
        return due

    def next_expiry(self, after: float) -> float | None:
        row = self._run(
            f"SELECT min(expires) FROM messages WHERE expires > ? AND status < {SCHEDULED}",
            (after,),
        ).fetchone()
        expires: float | None = row[0]
        return expires

    def due(self, now: float, limit: int) -> list[tuple[int, int, str]]:
        """Return key, session row id and session of scheduled messages whose time has come, in order."""
        return self._run(
            "SELECT key, session, name FROM messages JOIN sessions ON sessions.id = session "
            f"WHERE status = {SCHEDULED} AND due <= ? ORDER BY due, key LIMIT ?",
            (now, limit),
        ).fetchall()

    def activate(self, key: int, new_key: int, now: float) -> None:
        """Make a scheduled message visible under its new sequence number."""
        self._run("UPDATE messages SET key = ?, status = 0, enqueued = ?, due = NULL WHERE key = ?", (new_key, now, key))

    def expired(self, now: float, limit: int) -> list[tuple[int, int]]:
        """Return key and session row id of messages whose time to live ended."""
        return self._run(
            f"SELECT key, session FROM messages WHERE expires <= ? AND status < {SCHEDULED} ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()

    # The file's size

    def release_pages(self) -> bool:
        """Give some of the pages back that hold nothing, if that is most of them; tell whether it did."""
        if not self._is_incremental() or not is_mostly_free(self._connection):
            return False
        for _ in range(RELEASED_PAGES):
            # One page a statement: sqlite3 steps it once, whatever number is given.
            self._run("PRAGMA incremental_vacuum(1)")
        return True

    def _is_incremental(self) -> bool:
        (mode,) = self._run("PRAGMA auto_vacuum").fetchone()
        return bool(mode == INCREMENTAL)

    def checkpoint(self) -> None:
        """Bring the log into the file, outside of a transaction: after the one that gave pages back, it becomes shorter."""
        with suppress(sqlite3.Error):
            self._run("PRAGMA wal_checkpoint(PASSIVE)")

    # Dead letters

    def dead(self, queue: int, from_sequence: int, limit: int) -> list[tuple[str, Row]]:
        """Return dead letters of a queue with their sessions, by sequence number."""
        rows = self._run(
            f"SELECT name, {_COLUMNS} FROM messages JOIN sessions ON sessions.id = session "
            f"LEFT JOIN deliveries USING (key) WHERE status = {DEAD} AND key >= ? AND key < ? ORDER BY key LIMIT ?",
            (message_key(queue, max(0, min(from_sequence, SEQUENCE_MASK))), message_key(queue + 1, 0), limit),
        )
        return [(row[0], Row(*row[1:])) for row in rows]

    def revive(self, key: int, new_key: int, now: float, expires: float | None) -> None:
        """Make a dead letter a new active message."""
        self._run(
            "UPDATE messages SET key = ?, status = 0, enqueued = ?, expires = ?, reason = NULL, description = NULL "
            "WHERE key = ?",
            (new_key, now, expires, key),
        )
        self._run("DELETE FROM deliveries WHERE key = ?", (key,))
