"""The SQL statements of a purge. `Purging` calls them inside its transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

import attrs

from .database_file import ACTIVE, DEAD, DEFERRED, SCHEDULED
from .message_keys import message_key
from .store import STEP_ROWS, within_step


@attrs.frozen
class PurgeRow:
    """A message that a purge looks at.

    Attributes:
        key: Its key.
        session: The row id of its session.
        name: The id of its session.
        is_purgeable: Whether it is not a dead letter.
    """

    key: int
    session: int
    name: str
    is_purgeable: bool


class PurgeRows:
    """Finds the messages of one step, whose bodies are bounded by `STEP_BYTES`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def of_queue(self, queue: int, after: int, last: int) -> list[PurgeRow]:
        """Return messages of a queue with keys after `after`, up to the sequence number `last`, dead letters included."""
        found = self._run(
            "SELECT key, session, name, status, length(body) FROM messages JOIN sessions ON sessions.id = session "
            "WHERE key > ? AND key <= ? ORDER BY key LIMIT ?",
            (max(after, message_key(queue, 0)), message_key(queue, last), STEP_ROWS),
        )
        return _rows(found)

    def of_session(self, queue: int, session: int, name: str, last: int) -> list[PurgeRow]:
        """Return active, deferred and scheduled messages of a session up to the sequence number `last`."""
        found = self._run(
            "SELECT key, session, ?, status, length(body) FROM messages "  # noqa: S608 - constants
            f"WHERE session = ? AND status IN ({ACTIVE}, {DEFERRED}, {SCHEDULED}) AND key <= ? LIMIT ?",
            (name, session, message_key(queue, last), STEP_ROWS),
        )
        return _rows(found)


def _rows(found: Iterable[tuple[Any, ...]]) -> list[PurgeRow]:
    part = within_step(found, lambda row: int(row[4]))
    return [PurgeRow(key, session, name, status != DEAD) for key, session, name, status, _ in part]
