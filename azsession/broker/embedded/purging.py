"""Deletes the messages of a session, or of all sessions of a queue. `EmbeddedBroker` forwards its method to `Purging`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from ..calls import CallContext
from .core import Core
from .jobs import Transaction, Unfinished
from .purge_rows import PurgeRow, PurgeRows
from .queue_state import Queue

#: Requests that another attempt can continue.
MAX_REMEMBERED = 1_000


class Purging:
    """Purges sessions that nobody holds, in steps of bounded size."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._rows = PurgeRows(core.connection)
        self._lock = threading.RLock()  # Guards _progress. A signal handler may purge while its thread holds the lock.
        self._progress: OrderedDict[str, _Progress] = OrderedDict()

    def purge(self, entity: str, session_id: str | None, request_id: str, context: CallContext) -> Future[int]:
        """Delete the messages that are there now; see `Broker.purge`."""
        progress = self._progress_of(request_id)

        def job(tx: Transaction) -> int | Unfinished:
            core = self._core
            queue = core.queue(entity)
            if core.due.continue_dead_lettering(tx, queue, session_id):
                return Unfinished.CONTINUE
            if progress.is_finished:
                return progress.count
            before = (progress.last, progress.after, progress.count, progress.is_finished)
            tx.on_rollback(lambda: progress.reset(*before))
            if progress.last is None:
                progress.last = queue.next_sequence - 1
            if session_id is None:
                progress.is_finished = self._purge_queue(tx, queue, progress)
            else:
                progress.is_finished = self._purge_session(tx, queue, session_id, progress)
            return progress.count if progress.is_finished else Unfinished.CONTINUE

        return self._core.submit(job, context, durable=True)

    def _progress_of(self, request_id: str) -> _Progress:
        """Return the progress of a request. Another attempt of the same request continues it."""
        with self._lock:
            progress = self._progress.get(request_id)
            if progress is None:
                progress = _Progress()
                if request_id:
                    self._progress[request_id] = progress
            if len(self._progress) > MAX_REMEMBERED:
                self._progress.popitem(last=False)
            return progress

    def _purge_queue(self, tx: Transaction, queue: Queue, progress: _Progress) -> bool:
        """Delete some messages of the sessions that nobody holds. Return whether it is finished."""
        rows = self._rows.of_queue(queue.id, progress.after, progress.last or 0)
        free = [row for row in rows if row.is_purgeable and self._core.current_lock(tx, (queue.id, row.name)) is None]
        self._delete(free, progress)
        for name in {row.name for row in free}:
            self._core.end_delay(tx, (queue.id, name))
        if rows:
            progress.after = rows[-1].key
        return not rows

    def _purge_session(self, tx: Transaction, queue: Queue, session_id: str, progress: _Progress) -> bool:
        """Delete some messages of a session. Return whether it is finished."""
        lock = self._core.current_lock(tx, (queue.id, session_id))
        if lock is not None:
            raise self._core.locked_error(lock)
        found = self._core.store.session(queue.id, session_id)
        rows = [] if found is None else self._rows.of_session(queue.id, found[0], session_id, progress.last or 0)
        self._delete(rows, progress)
        self._core.end_delay(tx, (queue.id, session_id))
        return not rows

    def _delete(self, rows: list[PurgeRow], progress: _Progress) -> None:
        self._core.store.delete_messages([row.key for row in rows])
        self._core.store.update_sessions({row.session for row in rows})
        progress.count += len(rows)


class _Progress:
    """How far a purge has come.

    Attributes:
        last: The last sequence number when the purge began; `None` before.
        after: The key of the last message that was looked at.
        count: How many messages were deleted.
        is_finished: Whether nothing is left to delete.
    """

    def __init__(self) -> None:
        self.last: int | None = None
        self.after = -1
        self.count = 0
        self.is_finished = False

    def reset(self, last: int | None, after: int, count: int, is_finished: bool) -> None:
        """Go back to where the purge was before a step."""
        self.last, self.after, self.count, self.is_finished = last, after, count, is_finished
