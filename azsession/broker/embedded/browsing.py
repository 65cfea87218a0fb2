"""Looks at messages without receiving them. `EmbeddedBroker` forwards its methods to `Browsing`."""

from __future__ import annotations

import heapq
from concurrent.futures import Future
from contextlib import ExitStack, closing
from itertools import islice

from ...messages import PeekedMessage
from ..calls import CallContext
from .core import Core
from .database_file import ACTIVE, DEFERRED, SCHEDULED
from .jobs import Transaction, Unfinished
from .message_keys import SEQUENCE_MASK, message_key
from .queue_rows import QueueRows
from .rows import peeked
from .store import within_step


class Browsing:
    """Peeks at messages and dead letters. The bodies of one result are bounded by `STEP_BYTES`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rows = QueueRows(core.connection)

    def peek_queue(
        self, entity: str, from_sequence_number: int, max_count: int, context: CallContext
    ) -> Future[list[PeekedMessage]]:
        """Return the active, deferred and scheduled messages of all sessions of a queue, by sequence number."""
        number = max(0, min(from_sequence_number, SEQUENCE_MASK))

        def job(tx: Transaction) -> list[PeekedMessage] | Unfinished:
            nonlocal number
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            keys, following = self._rows.scan(message_key(queue.id, number), message_key(queue.id + 1, 0))
            if not keys and following is not None:
                number = following & SEQUENCE_MASK
                return Unfinished.CONTINUE
            with closing(self._rows.messages(keys[:max_count])) as rows:
                found = within_step(rows, lambda row: row[1].size)
            return [peeked(row, name, context) for name, row in found]

        return self._core.submit(job, context)

    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, context: CallContext
    ) -> Future[list[PeekedMessage]]:
        """Return the active, deferred and scheduled messages of a session, by sequence number."""

        def job(tx: Transaction) -> list[PeekedMessage] | Unfinished:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue, session_id):
                return Unfinished.CONTINUE
            found = self._core.store.session(queue.id, session_id)
            if found is None:
                return []
            start = message_key(queue.id, max(0, min(from_sequence_number, SEQUENCE_MASK)))
            with ExitStack() as stack:
                parts = [
                    stack.enter_context(closing(self._core.store.of_status(found[0], status, start)))
                    for status in (ACTIVE, DEFERRED, SCHEDULED)
                ]
                rows = islice(heapq.merge(*parts, key=lambda row: row.key), max_count)
                return [peeked(row, session_id, context) for row in within_step(rows, lambda row: row.size)]

        return self._core.submit(job, context)

    def dead_letters(
        self, entity: str, from_sequence_number: int, max_count: int, session_id: str | None, context: CallContext
    ) -> Future[list[PeekedMessage]]:
        """Return the dead letters of a queue, or of one session, by sequence number."""

        def job(tx: Transaction) -> list[PeekedMessage] | Unfinished:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            with closing(self._core.store.dead(queue.id, from_sequence_number, session_id)) as rows:
                found = within_step(islice(rows, max_count), lambda row: row[1].size)
            return [peeked(row, name, context) for name, row in found]

        return self._core.submit(job, context)
