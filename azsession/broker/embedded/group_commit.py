"""Runs the embedded broker's operations one at a time, and groups operations that arrive together into one commit.

`Core` runs every operation as a job of `GroupCommit`. If no thread leads, the caller's thread becomes the leader: it runs
its own job and all queued jobs in one transaction, commits, and passes the lead to the first job that arrived in the
meantime. Without concurrent callers a job runs in its caller's thread, without any thread switch.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ...errors import ProviderError, QueueError
from ...protocol.error_codes import SERVER_BUSY

T = TypeVar("T")

#: The largest number of jobs in one transaction. It bounds how long a transaction lasts.
MAX_JOBS = 256


class Transaction:
    """The transaction of a job. A job registers here how to undo its changes in memory, and actions that follow the commit.

    Jobs change memory at once, so that the next job of the same transaction sees the changes. If the commit fails, the
    registered functions restore memory.
    """

    __slots__ = ("_after", "_protected", "_undo")

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._after: list[Callable[[], object]] = []
        self._protected: set[int] = set()

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Call `undo` if the transaction fails. The functions run in reverse order."""
        self._undo.append(undo)

    def after_commit(self, action: Callable[[], object]) -> None:
        """Call `action` after the commit. It must not block or raise."""
        self._after.append(action)

    def first_touch(self, thing: object) -> bool:
        """Return whether this is the first call with `thing` in this transaction."""
        if id(thing) in self._protected:
            return False
        self._protected.add(id(thing))
        self._undo.append(lambda: thing)  # Keeps `thing` alive, so that no other object gets its id.
        return True

    def roll_back(self) -> None:
        """Undo the changes in memory."""
        for undo in reversed(self._undo):
            undo()

    def finish(self) -> None:
        """Run the actions that follow the commit."""
        for action in self._after:
            action()


class _Job(Generic[T]):
    __slots__ = ("committed", "done", "durable", "error", "result", "tx", "work")

    def __init__(self, work: Callable[[Transaction], T], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.result: T | None = None
        self.error: BaseException | None = None
        self.committed = False
        self.done = False
        self.tx = threading.Lock()
        self.tx.acquire()


class GroupCommit:
    """Runs jobs one at a time on one SQLite connection, in grouped transactions.

    If a job raises a `QueueError`, its changes up to then are kept: jobs raise it only in a consistent state. Any other
    exception rolls the transaction back. Then each job runs again in its own transaction, so that only the failing job fails.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # Guards _queue and _leader. Not held while a job runs.
        self._queue: list[_Job[Any]] = []
        self._leader: _Job[Any] | None = None
        self._full_sync = True

    def run(self, work: Callable[[Transaction], T], *, durable: bool) -> T:
        """Run `work`, and return its result after the commit. Blocks until then.

        Args:
            work: The job. It must not block.
            durable: Whether the commit must be on disk. Without it, the commit survives the death of the process, but perhaps
                not a failure of the machine.
        """
        job: _Job[T] = _Job(work, durable)
        try:
            with self._lock:
                self._queue.append(job)
                if self._leader is None:
                    self._leader = job
            if self._leader is not job:
                job.tx.acquire()
            if not job.done:
                self._lead(job)
        except BaseException:
            # For example, KeyboardInterrupt during the wait. A job that has not begun never runs, and must not keep the lead.
            self._leave(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connection after all queued jobs. Later jobs fail."""
        self.run(lambda tx: tx.after_commit(self._connection.close), durable=True)

    def _leave(self, job: _Job[Any]) -> None:
        with self._lock:
            if job in self._queue:
                self._queue.remove(job)
            if self._leader is job:
                self._appoint()

    def _appoint(self) -> None:
        """Pass the lead to the first job in the queue. The caller holds `_lock`."""
        self._leader = self._queue[0] if self._queue else None
        if self._leader is not None:
            self._leader.tx.release()

    def _lead(self, own: _Job[Any]) -> None:
        batch: list[_Job[Any]] = []
        try:
            with self._lock:
                batch, self._queue = self._queue[:MAX_JOBS], self._queue[MAX_JOBS:]
            self._run_batch(batch)
        except BaseException as error:
            # For example, KeyboardInterrupt in the leading thread. The other jobs must not return as if they had succeeded.
            for job in batch:
                if job.error is None and not job.committed:
                    job.error = ProviderError("the operation was interrupted", code=SERVER_BUSY, is_transient=True)
            own.error = error
        finally:
            with self._lock:
                self._appoint()
            for job in batch:
                job.done = True
                if job is not own:
                    job.tx.release()

    def _run_batch(self, batch: list[_Job[Any]]) -> None:
        error = self._transact(batch)
        if error is None:
            return
        if len(batch) == 1:
            batch[0].error = error
            return
        for job in batch:
            error = self._transact([job])
            if error is not None:
                job.error = error

    def _transact(self, batch: list[_Job[Any]]) -> BaseException | None:
        """Run jobs in one transaction. Return the error that rolled it back, or `None`."""
        tx = Transaction()
        committing = False
        try:
            self._set_sync(any(job.durable for job in batch))
            self._connection.execute("BEGIN")
            for job in batch:
                job.error = None
                try:
                    job.result = job.work(tx)
                except QueueError as error:
                    job.error = error
            committing = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            if committing and not isinstance(error, sqlite3.Error) and not self._connection.in_transaction:
                # The exception arrived during the commit, which completed.
                self._finish(tx, batch)
                raise
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            tx.roll_back()
            if isinstance(error, sqlite3.Error):
                return storage_error(error)
            if isinstance(error, Exception):
                return error
            raise
        self._finish(tx, batch)
        return None

    def _finish(self, tx: Transaction, batch: list[_Job[Any]]) -> None:
        for job in batch:
            job.committed = True
        tx.finish()

    def _set_sync(self, full: bool) -> None:
        if full != self._full_sync:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full_sync = full


def storage_error(error: sqlite3.Error) -> ProviderError:
    """Return the error for a failure of SQLite. The transaction was rolled back."""
    text = str(error).lower()
    if "full" in text:
        meaning = "the disk is full; nothing was changed"
    elif "readonly" in text or "read-only" in text:
        meaning = "the data file cannot be written; nothing was changed"
    elif "malformed" in text or "not a database" in text:
        meaning = "the data file is damaged; nothing was changed"
    elif "closed" in text:
        meaning = "the broker is closed"
    else:
        meaning = "the data file could not be read or written; nothing was changed"
    wrapped = ProviderError(f"{meaning} ({type(error).__name__}: {error})", code=SERVER_BUSY, is_transient=True)
    wrapped.__cause__ = error
    return wrapped
