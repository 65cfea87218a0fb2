"""The numbers of a queue, and the list of its sessions. `EmbeddedBroker` forwards its methods to `Overview`."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from concurrent.futures import Future

from ...messages import UNKNOWN_CLIENT, SessionInfo
from ...queues import QueueStatistics
from ..calls import CallContext
from .core import Core
from .jobs import Transaction, Unfinished
from .rows import to_datetime


class Overview:
    """Counts messages and sessions. The work does not grow with the number of messages: triggers keep the counters."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rows = _Rows(core.connection)

    def statistics(self, entity: str, context: CallContext) -> Future[QueueStatistics]:
        """Return the numbers of a queue."""
        core, rows = self._core, self._rows

        def job(tx: Transaction) -> QueueStatistics | Unfinished:
            queue = core.creation.existing(entity)
            if core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            active, dead, scheduled, deferred, with_messages = rows.counts(queue.id)
            locked = core.locks.names(queue.id)
            taken = rows.first_taken(queue.id, locked)
            free = rows.first_free(queue.id)
            heads = taken if free is None else [*taken, free]
            return QueueStatistics(
                name=queue.name,
                active_count=active,
                scheduled_count=scheduled,
                deferred_count=deferred,
                dead_letter_count=dead,
                session_count=with_messages,
                waiting_session_count=max(0, with_messages - len(taken)),
                locked_session_count=len(locked),
                oldest_enqueued_at=to_datetime(rows.enqueued(min(heads))) if heads else None,
            )

        return core.submit(job, context)

    def list_sessions(
        self, entity: str, after: str | None, max_count: int, updated_since: float | None, context: CallContext
    ) -> Future[list[SessionInfo]]:
        """Return the sessions that have messages or state, by id, or those whose state was set after `updated_since`."""

        def job(tx: Transaction) -> list[SessionInfo] | Unfinished:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            return [self._info(tx, queue.id, *row) for row in self._rows.sessions(queue.id, after, max_count, updated_since)]

        return self._core.submit(job, context)

    def _info(
        self, tx: Transaction, queue: int, name: str, active: int, deferred: int, has_state: bool, enqueued: float | None
    ) -> SessionInfo:
        core = self._core
        lock = core.current_lock(tx, (queue, name))
        until = None if lock is None else core.lock_expiry(lock)
        left = core.delays.left((queue, name))
        if lock is None and left > 0:
            until = to_datetime(core.clock.now() + left)
        return SessionInfo(
            name,
            active,
            until,
            holder=None if lock is None else lock.client or UNKNOWN_CLIENT,
            deferred_count=deferred,
            has_state=bool(has_state),
            oldest_enqueued_at=None if enqueued is None else to_datetime(enqueued),
        )


class _Rows:
    """The statements. The caller has begun a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def counts(self, queue: int) -> tuple[int, int, int, int, int]:
        """Return the numbers of active, dead, scheduled and deferred messages, and of sessions with active messages."""
        row: tuple[int, int, int, int, int] = self._run(
            "SELECT active, dead, scheduled, deferred, with_messages FROM queues WHERE id = ?", (queue,)
        ).fetchone()
        return row

    def first_free(self, queue: int) -> int | None:
        """Return the key of the first active message in sessions that are neither locked nor delayed."""
        row = self._run(
            "SELECT head FROM sessions WHERE queue = ? AND head IS NOT NULL AND locked = 0 ORDER BY head LIMIT 1", (queue,)
        ).fetchone()
        return None if row is None else int(row[0])

    def first_taken(self, queue: int, locked: Collection[str]) -> list[int]:
        """Return the key of the first active message of each locked or delayed session that has one.

        No index is sorted by these messages: settling would have to update it.

        Args:
            queue: The queue's id.
            locked: The locked sessions.
        """
        # CROSS JOIN: SQLite does not know that few sessions are delayed, and would read all sessions.
        delayed = self._run("SELECT name, head FROM delays CROSS JOIN sessions USING (queue, name) WHERE queue = ?", (queue,))
        heads = [head for name, head in delayed if name not in locked]
        for name in locked:
            heads += self._run("SELECT head FROM sessions WHERE queue = ? AND name = ?", (queue, name)).fetchone() or ()
        return [head for head in heads if head is not None]

    def enqueued(self, key: int) -> float:
        """Return when a message was enqueued."""
        enqueued: float = self._run("SELECT enqueued FROM messages WHERE key = ?", (key,)).fetchone()[0]
        return enqueued

    def sessions(
        self, queue: int, after: str | None, limit: int, updated_since: float | None
    ) -> list[tuple[str, int, int, bool, float | None]]:
        """Return the sessions that have messages or state, ordered by id, or those whose state was set after a time.

        A row has the id, the numbers of active and deferred messages, whether there is a state, and when the first active
        message was enqueued.
        """
        return self._run(
            "SELECT name, active, deferred, state IS NOT NULL, enqueued FROM sessions INDEXED BY sessions_listed "
            "LEFT JOIN messages ON key = head "
            f"WHERE queue = ? AND name {'>=' if after is None else '>'} ? "
            "AND (head IS NOT NULL OR state IS NOT NULL OR deferred > 0) "
            "AND (? IS NULL OR state IS NOT NULL AND state_set > ?) ORDER BY name LIMIT ?",
            (queue, after or "", updated_since, updated_since, limit),
        ).fetchall()
