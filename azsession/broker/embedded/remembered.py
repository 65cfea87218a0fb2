"""The embedded broker's memory of some minutes: request ids, settlements, and message ids for duplicate detection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

#: Remembered entries are in two tables that alternate after this number of seconds. An entry lives for one to two periods.
SETTLED_SECONDS = 300.0
REQUESTS_SECONDS = 600.0


class Remembered:
    """The statements on remembered entries. The caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute
        self._many = connection.executemany
        #: The present tables by name, and until when they are; see `_current_table`.
        self._current: dict[str, tuple[int, float]] = {}

    def forget(self) -> None:
        """Read the numbers of the present tables again. Called when a transaction was rolled back."""
        self._current = {}

    def is_repeated(self, queue: int, request: str, now: float) -> bool:
        """Return whether this request id is remembered. If it is not, remember it."""
        table = self._current_table("requests", REQUESTS_SECONDS, now)
        # One statement, because each statement of each send counts.
        cursor = self._run(
            f"INSERT OR IGNORE INTO requests_{table} SELECT ?, ? "
            f"WHERE NOT EXISTS (SELECT 1 FROM requests_{1 - table} WHERE queue = ? AND request = ?)",
            (queue, request, queue, request),
        )
        return cursor.rowcount == 0

    def result_of(self, queue: int, request: str) -> int | None:
        """Return the remembered result of a request, or `None`."""
        for table in (0, 1):
            query = f"SELECT request FROM requests_{table} WHERE queue = ? AND request > ? AND request < ?"
            row = self._run(query, (queue, f"{request} ", f"{request}!")).fetchone()
            if row is not None:
                return int(row[0].removeprefix(f"{request} "))
        return None

    def remember_result(self, queue: int, request: str, result: int, now: float) -> None:
        """Remember a request with its result, a number."""
        # One entry: the id, a space, and the result. No request id has a space.
        self.is_repeated(queue, f"{request} {result}", now)

    def is_duplicate(self, queue: int, message_id: str, now: float, window: float) -> bool:
        """Return whether this message id was seen within the window. If it was not, remember it."""
        # A few more than one send adds, so that the table does not grow, and no send deletes many.
        self._run(
            "DELETE FROM duplicates WHERE (queue, message_id) IN "
            "(SELECT queue, message_id FROM duplicates WHERE expires <= ? LIMIT 4)",
            (now,),
        )
        cursor = self._run(
            "INSERT INTO duplicates VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET expires = excluded.expires WHERE duplicates.expires <= ? OR duplicates.expires > ?",
            # A later expiry than possible was stored before the wall clock was set back between two runs.
            (queue, message_id, now + window, now, now + window),
        )
        return cursor.rowcount == 0

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
        known = self._current.get(name)
        if known is not None and now < known[1] <= now + period:
            return int(known[0])  # Only numbers and constants may become a part of a statement.
        row = self._run("SELECT current, until FROM turnover WHERE name = ?", (name,)).fetchone()
        current, until = (0, None) if row is None else (int(row[0]), row[1])
        # If the wall clock was set back between two runs, `until` is too far ahead. Then start a new period.
        if until is not None and now < until <= now + period:
            self._current[name] = (current, until)
            return current
        if until is not None and until <= now:
            current = 1 - current
            self._run(f"DELETE FROM {name}_{current}")
        self._run("INSERT OR REPLACE INTO turnover VALUES (?, ?, ?)", (name, current, now + period))
        return current
