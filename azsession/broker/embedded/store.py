"""The SQL statements of the embedded broker. The broker's jobs call them inside their transaction.

This module knows nothing about locks, waiting or threads.

The key of a message is ``queue_id << 40 | sequence_number``, so one B-tree keeps the messages of every queue in order. The
delivery counts are in a table of their own, so a delivery does not rewrite the message's body.
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

#: Remembered entries are in two tables that alternate after this number of seconds. An entry lives for one to two periods.
SETTLED_SECONDS = 300.0
REQUESTS_SECONDS = 600.0

#: Pages returned to the file system in one step.
RELEASED_PAGES = 256

_COLUMNS = "key, status, enqueued, expires, reason, description, properties, body, coalesce(count, 0)"
_FROM = f"SELECT {_COLUMNS} FROM messages LEFT JOIN deliveries USING (key)"


@attrs.frozen
class Row:
    """A stored message with its delivery count."""

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
    """Return the key of a message."""
    return queue_id << SEQUENCE_BITS | sequence_number


def find_key(queue_id: int, sequence_number: int) -> int:
    """Return the key for a sequence number from a caller.

    A number out of range would be the key of a message in another queue. It becomes 0, the key of no message.
    """
    return message_key(queue_id, sequence_number) if 0 <= sequence_number <= SEQUENCE_MASK else 0


class Store:
    """The statements, grouped by purpose. Each method runs one or a few statements. The caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._run = connection.execute
        self._many = connection.executemany

    # Queues

    def queues(self) -> list[tuple[int, str, dict[str, Any], int]]:
        """Return the id, name, settings and next sequence number of every queue."""
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
        """Return the numbers of active and of dead-lettered messages."""
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
        """Add messages. A row has key, session, status, enqueued, due, expires, properties and body."""
        self._many(
            "INSERT INTO messages (key, session, status, enqueued, due, expires, properties, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def saw_request(self, queue: int, request: str) -> bool:
        """Return whether this request id is remembered."""
        return any(
            self._run(f"SELECT 1 FROM requests_{table} WHERE queue = ? AND request = ?", (queue, request)).fetchone()
            for table in (0, 1)
        )

    def remember_request(self, queue: int, request: str, now: float) -> None:
        table = self._current_table("requests", REQUESTS_SECONDS, now)
        self._run(f"INSERT INTO requests_{table} VALUES (?, ?)", (queue, request))

    def is_duplicate(self, queue: int, message_id: str, now: float, window: float) -> bool:
        """Return whether this message id was seen within the window. If it was not, remember it."""
        self._run("DELETE FROM duplicates WHERE expires <= ?", (now,))
        cursor = self._run(
            "INSERT INTO duplicates VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (queue, message_id, now + window)
        )
        return cursor.rowcount == 0

    # Sessions

    def session(self, queue: int, name: str) -> tuple[int, int | None] | None:
        """Return the row id of a session and the key of its first active message."""
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

    def update_session(self, session: int) -> None:
        """Update the key of the session's first active message. Delete a session without messages and state."""
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

    def update_sessions(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.update_session(session)

    def ready_sessions(self, queue: int) -> Generator[str, None, None]:
        """Yield the sessions with active messages, ordered by their first message."""
        cursor = self._run("SELECT name FROM sessions WHERE queue = ? AND head IS NOT NULL ORDER BY head", (queue,))
        try:
            for row in cursor:
                yield row[0]
        finally:
            cursor.close()

    def list_sessions(self, queue: int, after: str, limit: int) -> list[tuple[str, int]]:
        """Return ids and active message counts of the sessions that have messages or state, ordered by id."""
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
            self.update_session(session)

    # Receiving

    def active_after(self, session: int, key: int, limit: int) -> list[Row]:
        """Return the active messages of a session after `key`, in order."""
        rows = self._run(f"{_FROM} WHERE session = ? AND status = 0 AND key > ? ORDER BY key LIMIT ?", (session, key, limit))
        return [Row(*row) for row in rows]

    def of_status(self, session: int, status: int, key: int, limit: int) -> list[Row]:
        """Return the messages of a session with one status, from `key`, in order."""
        rows = self._run(
            f"{_FROM} WHERE session = ? AND status = ? AND key >= ? ORDER BY key LIMIT ?", (session, status, key, limit)
        )
        return [Row(*row) for row in rows]

    def message(self, key: int) -> Row | None:
        row = self._run(f"{_FROM} WHERE key = ?", (key,)).fetchone()
        return None if row is None else Row(*row)

    def session_of(self, key: int) -> tuple[int, str] | None:
        """Return the row id and the name of a message's session."""
        row: tuple[int, str] | None = self._run(
            "SELECT sessions.id, name FROM messages JOIN sessions ON sessions.id = session WHERE key = ?", (key,)
        ).fetchone()
        return row

    def set_delivery_counts(self, counts: Iterable[tuple[int, int]]) -> None:
        """Store delivery counts, given as pairs of message key and count."""
        self._many("INSERT INTO deliveries VALUES (?, ?) ON CONFLICT DO UPDATE SET count = excluded.count", counts)

    # Settling

    def delete_messages(self, keys: Sequence[int]) -> None:
        rows = [(key,) for key in keys]
        self._many("DELETE FROM messages WHERE key = ?", rows)
        self._many("DELETE FROM deliveries WHERE key = ?", rows)

    def set_status(self, keys: Iterable[int], status: int) -> None:
        self._many("UPDATE messages SET status = ? WHERE key = ?", [(status, key) for key in keys])

    def dead_letter(self, rows: Iterable[tuple[str | None, str | None, int]]) -> None:
        """Dead-letter messages. A row has reason, description and key."""
        self._many(f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE key = ?", rows)

    def dead_letter_session(self, session: int, reason: str, description: str | None) -> int:
        """Dead-letter the active and deferred messages of a session. Return their number."""
        cursor = self._run(
            f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE session = ? AND status IN (0, 1)",
            (reason, description, session),
        )
        return cursor.rowcount

    def remember_settled(self, rows: Iterable[tuple[int, str, str]], now: float) -> None:
        """Remember settlements. A row has message key, lock token and disposition."""
        table = self._current_table("settled", SETTLED_SECONDS, now)
        self._many(f"INSERT OR REPLACE INTO settled_{table} VALUES (?, ?, ?)", rows)

    def settled_disposition(self, key: int, token: str) -> str | None:
        """Return the remembered disposition of a lock token, or `None`."""
        for table in (0, 1):
            query = f"SELECT disposition FROM settled_{table} WHERE key = ? AND token = ?"
            row = self._run(query, (key, token)).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def _current_table(self, name: str, period: float, now: float) -> int:
        """Return the number of the table for new entries. Clear the older table when its period ends."""
        row = self._run("SELECT current, until FROM turnover WHERE name = ?", (name,)).fetchone()
        current, until = (0, None) if row is None else (int(row[0]), row[1])
        # If the wall clock was set back between two runs, `until` is too far ahead. Then start a new period.
        if until is not None and now < until <= now + period:
            return current
        if until is not None and until <= now:
            current = 1 - current
            self._run(f"DELETE FROM {name}_{current}")
        self._run("INSERT OR REPLACE INTO turnover VALUES (?, ?, ?)", (name, current, now + period))
        return current

    # Scheduled and expired messages

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
        """Return key, session row id and session id of scheduled messages that are due, in order."""
        return self._run(
            "SELECT key, session, name FROM messages JOIN sessions ON sessions.id = session "
            f"WHERE status = {SCHEDULED} AND due <= ? ORDER BY due, key LIMIT ?",
            (now, limit),
        ).fetchall()

    def activate(self, key: int, new_key: int, now: float) -> None:
        """Make a scheduled message active under a new sequence number."""
        self._run("UPDATE messages SET key = ?, status = 0, enqueued = ?, due = NULL WHERE key = ?", (new_key, now, key))

    def expired(self, now: float, limit: int) -> list[tuple[int, int]]:
        """Return key and session row id of expired messages."""
        return self._run(
            f"SELECT key, session FROM messages WHERE expires <= ? AND status < {SCHEDULED} ORDER BY expires LIMIT ?",
            (now, limit),
        ).fetchall()

    # The file's size

    def release_pages(self) -> bool:
        """Return some unused pages to the file system if the file is mostly unused. Return whether it did."""
        if not self._is_incremental() or not is_mostly_free(self._connection):
            return False
        for _ in range(RELEASED_PAGES):
            # One page per statement: the sqlite3 module steps the statement once, whatever its argument.
            self._run("PRAGMA incremental_vacuum(1)")
        return True

    def _is_incremental(self) -> bool:
        (mode,) = self._run("PRAGMA auto_vacuum").fetchone()
        return bool(mode == INCREMENTAL)

    def checkpoint(self) -> None:
        """Copy the log into the file, outside of a transaction. Only then does the file become shorter."""
        with suppress(sqlite3.Error):
            self._run("PRAGMA wal_checkpoint(PASSIVE)")

    # Dead letters

    def dead(self, queue: int, from_sequence: int, limit: int) -> list[tuple[str, Row]]:
        """Return dead letters of a queue with their session ids, ordered by sequence number."""
        rows = self._run(
            f"SELECT name, {_COLUMNS} FROM messages JOIN sessions ON sessions.id = session "
            f"LEFT JOIN deliveries USING (key) WHERE status = {DEAD} AND key >= ? AND key < ? ORDER BY key LIMIT ?",
            (message_key(queue, max(0, min(from_sequence, SEQUENCE_MASK))), message_key(queue + 1, 0), limit),
        )
        return [(row[0], Row(*row[1:])) for row in rows]

    def resubmit(self, key: int, new_key: int, now: float, expires: float | None) -> None:
        """Turn a dead letter into a new active message."""
        self._run(
            "UPDATE messages SET key = ?, status = 0, enqueued = ?, expires = ?, reason = NULL, description = NULL "
            "WHERE key = ?",
            (new_key, now, expires, key),
        )
        self._run("DELETE FROM deliveries WHERE key = ?", (key,))
