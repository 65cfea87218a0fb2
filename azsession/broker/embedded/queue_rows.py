"""The SQL statements that look at all messages of a queue. `Browsing` calls them inside its transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import partial

from .database_file import DEAD
from .query_rows import Rows
from .store import JOINED, with_name
from .stored_message import Row

#: Messages of which one step looks at the status, without their bodies. Many dead letters in a row need several steps.
SCANNED = 2000


class QueueRows:
    """Finds the active, deferred and scheduled messages of a queue, by sequence number."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def scan(self, start: int, end: int) -> tuple[list[int], int | None]:
        """Return the keys of the next `SCANNED` messages, without dead letters, and where to go on if there may be more."""
        found = self._run(
            "SELECT key, status FROM messages WHERE key >= ? AND key < ? ORDER BY key LIMIT ?", (start, end, SCANNED)
        ).fetchall()
        keys = [key for key, status in found if status != DEAD]
        return keys, found[-1][0] + 1 if len(found) == SCANNED else None

    def messages(self, keys: Sequence[int]) -> Rows[tuple[str, Row]]:
        """Return messages with their session ids, in order. Each step reads one message."""
        query = f"SELECT {JOINED} WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key"  # noqa: S608 - constants
        return Rows(self._run(query, (json.dumps(keys),)), partial(map, with_name))
