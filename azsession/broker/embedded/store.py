"""The SQL statements of the embedded broker. The broker's jobs call them inside their transaction.

This module knows nothing about locks, waiting or threads.

The keys of messages (see `message_keys`) keep those of every queue in order in one B-tree. The delivery counts are in a table
of their own, so a delivery does not rewrite the message's body.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import starmap
from operator import itemgetter
from typing import Any, TypeVar

from .database_file import ACTIVE, DEAD, DEFERRED, INCREMENTAL, SCHEDULED, is_mostly_free
from .message_keys import SEQUENCE_BITS, SEQUENCE_MASK, message_key
from .query_rows import Rows
from .stored_message import Row

R = TypeVar("R")

#: Pages returned to the file system in one step.
RELEASED_PAGES = 256

#: Messages that one step deletes, expires or dead-letters, and bytes of bodies that one step reads or deletes.
STEP_ROWS = 200
STEP_BYTES = 16 * 1024 * 1024

_COLUMNS = "key, status, enqueued, expires, reason, description, properties, body, encoded, coalesce(count, 0)"
_FROM = f"SELECT {_COLUMNS} FROM messages LEFT JOIN deliveries USING (key)"
#: A message with the id of its session in front.
JOINED = f"name, {_COLUMNS} FROM messages JOIN sessions ON sessions.id = session LEFT JOIN deliveries USING (key)"


def with_name(row: tuple[Any, ...]) -> tuple[str, Row]:
    """Return the session id and the message of a row of a query for `JOINED`."""
    return row[0], Row(*row[1:])


def within_step(rows: Iterable[R], size: Callable[[R], int]) -> list[R]:
    """Return the first rows whose sizes add up to at most `STEP_BYTES`, but at least one."""
    taken: list[R] = []
    total = 0
    for row in rows:
        total += size(row)
        if taken and total > STEP_BYTES:
            break
        taken.append(row)
    return taken


class Store:
    """The statements, grouped by purpose. Each method runs one or a few statements. The caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._run = connection.execute

    def _many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a statement for each row. `executemany` takes longer for one row, and also for none."""
        every = rows if isinstance(rows, list) else list(rows)
        if len(every) == 1:
            self._run(statement, every[0])
        elif every:
            self._connection.executemany(statement, every)

    # Queues

    def queues(self) -> list[tuple[int, str, dict[str, Any], int]]:
        """Return the id, name, settings and next sequence number of every queue."""
        rows = self._run("SELECT id, name, settings, next_sequence FROM queues").fetchall()
        return [(number, name, json.loads(settings), following) for number, name, settings, following in rows]

    def add_queue(self, queue: int, name: str, settings: dict[str, Any]) -> None:
        row = (queue, name, json.dumps(settings))
        self._run("INSERT INTO queues (id, name, settings, next_sequence) VALUES (?, ?, ?, 1)", row)

    def last_queue(self) -> int:
        """Return the highest id that a queue ever had. Deleted queues may still have rows."""
        row = self._run("SELECT seq FROM sqlite_sequence WHERE name = 'queues'").fetchone()
        return 0 if row is None else int(row[0])

    def hide_queue(self, queue: int) -> None:
        """Remove a queue. `delete_part` then deletes what was in it."""
        self._run("DELETE FROM queues WHERE id = ?", (queue,))
        self._run("INSERT INTO deleted_queues VALUES (?)", (queue,))

    def deleted_queues(self) -> list[int]:
        """Return the ids of removed queues that still have rows."""
        return [row[0] for row in self._run("SELECT id FROM deleted_queues")]

    def delete_part(self, queue: int) -> bool:
        """Delete some rows of a removed queue. Return whether nothing is left."""
        keys = (message_key(queue, 0), message_key(queue + 1, 0))
        found = self._run("SELECT key, length(body) FROM messages WHERE key >= ? AND key < ? LIMIT ?", (*keys, STEP_ROWS))
        part = within_step(found, lambda row: int(row[1]))
        if part:
            self.delete_messages([key for key, _ in part])
            return False
        deleted = 0
        for table, key in (("sessions", "id"), ("duplicates", "message_id")):
            deleted += self._run(
                f"DELETE FROM {table} WHERE queue = ? AND {key} IN (SELECT {key} FROM {table} WHERE queue = ? LIMIT ?)",
                (queue, queue, STEP_ROWS),
            ).rowcount
        if deleted == 0:
            self._run("DELETE FROM deleted_queues WHERE id = ?", (queue,))
        return deleted == 0

    def counts(self, queue: int) -> tuple[int, int]:
        """Return the numbers of active and of dead-lettered messages."""
        active, dead = self._run("SELECT active, dead FROM queues WHERE id = ?", (queue,)).fetchone()
        return active, dead

    # Sending

    def set_next_sequence(self, queue: int, following: int) -> None:
        self._run("UPDATE queues SET next_sequence = ? WHERE id = ?", (following, queue))

    def add_messages(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add messages. A row has key, session, status, enqueued, due, expires, properties, body and encoded."""
        self._many(
            "INSERT INTO messages (key, session, status, enqueued, due, expires, properties, body, encoded) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    # Sessions

    def session(self, queue: int, name: str) -> tuple[int, int | None] | None:
        """Return the row id of a session and the key of its first active message."""
        row: tuple[int, int | None] | None = self._run(
            "SELECT id, head FROM sessions WHERE queue = ? AND name = ?", (queue, name)
        ).fetchone()
        return row

    def ensure_session(self, queue: int, name: str, locked: bool) -> tuple[int, int | None]:
        """Return what `session` returns. Create the session if it does not exist."""
        found = self.session(queue, name)
        if found is not None:
            return found
        cursor = self._run("INSERT INTO sessions (queue, name, locked) VALUES (?, ?, ?)", (queue, name, locked))
        assert cursor.lastrowid is not None
        return cursor.lastrowid, None

    def set_head(self, session: int, head: int) -> None:
        """Store the key of the first active message of a session that had none."""
        self._run("UPDATE sessions SET head = ? WHERE id = ?", (head, session))

    def update_session(self, session: int) -> None:
        """Update the key of the session's first active message. Delete a session without messages and state."""
        (head,) = self._run(f"SELECT min(key) FROM messages WHERE session = ? AND status = {ACTIVE}", (session,)).fetchone()
        self._run("UPDATE sessions SET head = ? WHERE id = ? AND head IS NOT ?", (head, session, head))
        if head is None:
            self._run(
                "DELETE FROM sessions WHERE id = ? AND state IS NULL "
                "AND NOT EXISTS (SELECT 1 FROM messages WHERE session = sessions.id)",
                (session,),
            )

    def update_sessions(self, sessions: Iterable[int]) -> None:
        for session in sessions:
            self.update_session(session)

    def set_locked(self, queue: int, name: str, locked: bool) -> None:
        """Note whether a session is locked, for `free_sessions`."""
        self._run("UPDATE sessions SET locked = ? WHERE queue = ? AND name = ?", (locked, queue, name))

    def unlock_all(self) -> None:
        """Note that no session is locked."""
        self._run("UPDATE sessions SET locked = 0 WHERE locked = 1")

    def free_sessions(self, queue: int) -> Rows[str]:
        """Return the unlocked sessions with active messages, ordered by their first message."""
        query = "SELECT name FROM sessions WHERE queue = ? AND head IS NOT NULL AND locked = 0 ORDER BY head"
        return Rows(self._run(query, (queue,)), partial(map, itemgetter(0)))

    def state(self, queue: int, name: str) -> bytes | None:
        row = self._run("SELECT state FROM sessions WHERE queue = ? AND name = ?", (queue, name)).fetchone()
        return None if row is None else row[0]

    def set_state(self, queue: int, name: str, state: bytes | None, locked: bool, now: float) -> None:
        session, _ = self.ensure_session(queue, name, locked)
        self._run("UPDATE sessions SET state = ?, state_set = ? WHERE id = ?", (state, now, session))
        if state is None:
            self.update_session(session)

    # Receiving

    def active_after(self, session: int, key: int) -> Rows[Row]:
        """Return the active messages of a session after `key`, in order. Each step reads one message."""
        return self._rows(f"{_FROM} WHERE session = ? AND status = 0 AND key > ? ORDER BY key", (session, key))

    def of_status(self, session: int, status: int, key: int) -> Rows[Row]:
        """Return the messages of a session with one status, from `key`, in order. Each step reads one message."""
        return self._rows(f"{_FROM} WHERE session = ? AND status = ? AND key >= ? ORDER BY key", (session, status, key))

    def _rows(self, query: str, arguments: Sequence[object]) -> Rows[Row]:
        return Rows(self._run(query, arguments), partial(starmap, Row))

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

    def content(self, key: int) -> tuple[str, bytes | None]:
        """Return the properties and the AMQP parts of a message."""
        properties, encoded = self._run("SELECT properties, encoded FROM messages WHERE key = ?", (key,)).fetchone()
        return properties, encoded

    def set_content(self, key: int, properties: str, encoded: bytes | None) -> None:
        """Replace the properties and the AMQP parts of a message."""
        self._run("UPDATE messages SET properties = ?, encoded = ? WHERE key = ?", (properties, encoded, key))

    def dead_letter(self, rows: Iterable[tuple[str | None, str | None, int]]) -> None:
        """Dead-letter messages. A row has reason, description and key."""
        self._many(f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE key = ?", rows)

    def begin_dead_lettering(self, queue: int, session: int, reason: str, description: str | None) -> int:
        """Decide that all active and deferred messages of a session are dead letters. Return their number.

        `dead_letter_part` then moves them. Until it has finished, nobody may see the session or the queue's dead letters.
        """
        (count,) = self._run("SELECT active + deferred FROM sessions WHERE id = ?", (session,)).fetchone()
        last = max(
            self._run("SELECT max(key) FROM messages WHERE session = ? AND status = ?", (session, status)).fetchone()[0] or 0
            for status in (ACTIVE, DEFERRED)
        )
        if count:
            self._run("INSERT INTO dead_letterings VALUES (?, ?, ?, ?, ?)", (session, queue, last, reason, description))
        return int(count)

    def dead_letterings(self) -> list[tuple[int, int]]:
        """Return the queue id and the session row id of every unfinished dead-lettering of a session."""
        return self._run("SELECT queue, session FROM dead_letterings").fetchall()

    def dead_letter_part(self, session: int) -> bool:
        """Move some messages of a dead-lettered session. Return whether all are moved."""
        last, reason, description = self._run(
            "SELECT last, reason, description FROM dead_letterings WHERE session = ?", (session,)
        ).fetchone()
        moved = 0
        for status in (ACTIVE, DEFERRED):
            moved += self._run(
                f"UPDATE messages SET status = {DEAD}, reason = ?, description = ? WHERE key IN "
                "(SELECT key FROM messages WHERE session = ? AND status = ? AND key <= ? LIMIT ?)",
                (reason, description, session, status, last, STEP_ROWS - moved),
            ).rowcount
        if moved == STEP_ROWS:
            return False
        self._run("DELETE FROM dead_letterings WHERE session = ?", (session,))
        self.update_session(session)
        return True

    # Scheduled and expired messages

    def next_due(self) -> float | None:
        row = self._run(f"SELECT min(due) FROM messages WHERE status = {SCHEDULED}").fetchone()
        due: float | None = row[0]
        return due

    def next_expiry(self, after: float) -> float | None:
        """Return when the next active message expires. Deferred messages do not expire."""
        row = self._run(f"SELECT min(expires) FROM messages WHERE expires > ? AND status = {ACTIVE}", (after,)).fetchone()
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

    def expired(self, now: float, except_queues: Sequence[int] = ()) -> sqlite3.Cursor:
        """Return key, session row id and body size of expired active messages, in order of their expiry."""
        return self._run(
            f"SELECT key, session, length(body) FROM messages WHERE expires <= ? AND status = {ACTIVE} "
            f"AND key >> {SEQUENCE_BITS} NOT IN (SELECT value FROM json_each(?)) ORDER BY expires",
            (now, json.dumps(except_queues)),
        )

    def expired_in(self, session: int, now: float) -> sqlite3.Cursor:
        """Return the keys of a session's expired active messages, in order of their expiry."""
        return self._run(
            f"SELECT key FROM messages WHERE session = ? AND expires <= ? AND status = {ACTIVE} ORDER BY expires",
            (session, now),
        )

    def last_active(self, session: int) -> int:
        """Return the key of a session's last active message, or -1 if the session has no active message."""
        row = self._run(f"SELECT max(key) FROM messages WHERE session = ? AND status = {ACTIVE}", (session,)).fetchone()
        return -1 if row[0] is None else int(row[0])

    # The file

    def check_writable(self) -> None:
        """Write without effect, so that a file that cannot be written fails."""
        self._run("UPDATE turnover SET until = until")
        self._run("INSERT INTO deleted_queues VALUES (0)")
        self._run("DELETE FROM deleted_queues WHERE id = 0")

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

    def dead(self, queue: int, from_sequence: int, session_id: str | None = None) -> Rows[tuple[str, Row]]:
        """Return dead letters of a queue with their session ids, ordered by sequence number. Each step reads one message."""
        found = self._run(
            f"SELECT {JOINED} WHERE status = {DEAD} AND key >= ? AND key < ? AND name = ifnull(?, name) ORDER BY key",
            (message_key(queue, max(0, min(from_sequence, SEQUENCE_MASK))), message_key(queue + 1, 0), session_id),
        )
        return Rows(found, partial(map, with_name))

    def resubmit(self, key: int, new_key: int, now: float, expires: float | None) -> None:
        """Turn a dead letter into a new active message."""
        self._run(
            "UPDATE messages SET key = ?, status = 0, enqueued = ?, expires = ?, reason = NULL, description = NULL "
            "WHERE key = ?",
            (new_key, now, expires, key),
        )
        self._run("DELETE FROM deliveries WHERE key = ?", (key,))
