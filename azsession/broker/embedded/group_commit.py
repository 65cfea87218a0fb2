"""Who may touch the broker's state, one at a time, and how the commits of those who come together are grouped.

The embedded broker runs every operation as a job of `Turns`. The thread that finds nobody at work leads: it runs its own
job and all that are queued in one transaction, commits, and hands the lead to the first that came meanwhile. Without
competition a job runs in its caller's thread, with no hand-over at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ...errors import ProviderError, QueueError
from ...protocol.error_codes import SERVER_BUSY

T = TypeVar("T")

#: Jobs that share one transaction at most, so that nobody waits for an endless one.
MAX_JOBS = 256


class Turn:
    """What a job may do besides its work: say how to take its changes back, and what follows the commit.

    Memory is changed at once, so that the next job of the same transaction sees it, and restored if the commit fails.
    """

    __slots__ = ("_after", "_protected", "_undo")

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._after: list[Callable[[], object]] = []
        self._protected: set[int] = set()

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Call `undo` if the transaction fails; the last one given is called first."""
        self._undo.append(undo)

    def after_commit(self, action: Callable[[], object]) -> None:
        """Call `action` once the transaction is on disk; it must neither block nor fail."""
        self._after.append(action)

    def first_touch(self, thing: object) -> bool:
        """Tell whether `thing` was not touched in this transaction before."""
        if id(thing) in self._protected:
            return False
        self._protected.add(id(thing))
        self._undo.append(lambda: thing)  # Keeps it alive, so that its id stays its own.
        return True

    def roll_back(self) -> None:
        """Take the changes of memory back."""
        for undo in reversed(self._undo):
            undo()

    def finish(self) -> None:
        """Do what follows the commit."""
        for action in self._after:
            action()


class _Job(Generic[T]):
    __slots__ = ("committed", "done", "durable", "error", "result", "turn", "work")

    def __init__(self, work: Callable[[Turn], T], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.result: T | None = None
        self.error: BaseException | None = None
        self.committed = False
        self.done = False
        self.turn = threading.Lock()
        self.turn.acquire()


class Turns:
    """Runs jobs one at a time on one SQLite connection, in grouped transactions.

    A job raises a `QueueError` only while its changes are whole: they are kept then. Any other exception takes back the
    transaction; its jobs are run again, each in its own, so that only the guilty one fails.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()  # Guards _queue and _leader; never held while a job runs.
        self._queue: list[_Job[Any]] = []
        self._leader: _Job[Any] | None = None
        self._full_sync = True

    def run(self, work: Callable[[Turn], T], *, durable: bool) -> T:
        """Run `work` in its turn and return what it returns, after the commit.

        Args:
            work: Gets a `Turn`; must not block.
            durable: The commit must have reached the disk. Otherwise it survives the end of this process, but not
                necessarily of the machine.
        """
        job: _Job[T] = _Job(work, durable)
        try:
            with self._lock:
                self._queue.append(job)
                if self._leader is None:
                    self._leader = job
            if self._leader is not job:
                job.turn.acquire()
            if not job.done:
                self._lead(job)
        except BaseException:
            # Ctrl-C while it waited: a job that has not begun never does, and nobody may wait for its lead.
            self._leave(job)
            raise
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def close(self) -> None:
        """Close the connection, after the jobs before it; later ones fail."""
        self.run(lambda turn: turn.after_commit(self._connection.close), durable=True)

    def _leave(self, job: _Job[Any]) -> None:
        with self._lock:
            if job in self._queue:
                self._queue.remove(job)
            if self._leader is job:
                self._appoint()

    def _appoint(self) -> None:
        """Hand the lead to the first in the queue; with `_lock` held."""
        self._leader = self._queue[0] if self._queue else None
        if self._leader is not None:
            self._leader.turn.release()

    def _lead(self, own: _Job[Any]) -> None:
        batch: list[_Job[Any]] = []
        try:
            with self._lock:
                batch, self._queue = self._queue[:MAX_JOBS], self._queue[MAX_JOBS:]
            self._run_batch(batch)
        except BaseException as error:
            # Ctrl-C in the leading thread: the others must not take it for their success.
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
                    job.turn.release()

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
        """Run jobs in one transaction; return why it was taken back, if it was."""
        turn = Turn()
        committing = False
        try:
            self._set_sync(any(job.durable for job in batch))
            self._connection.execute("BEGIN")
            for job in batch:
                job.error = None
                try:
                    job.result = job.work(turn)
                except QueueError as error:
                    job.error = error
            committing = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            if committing and not isinstance(error, sqlite3.Error) and not self._connection.in_transaction:
                # Ctrl-C came while the commit ran, which it did to its end.
                self._finish(turn, batch)
                raise
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            turn.roll_back()
            if isinstance(error, sqlite3.Error):
                return storage_error(error)
            if isinstance(error, Exception):
                return error
            raise
        self._finish(turn, batch)
        return None

    def _finish(self, turn: Turn, batch: list[_Job[Any]]) -> None:
        for job in batch:
            job.committed = True
        turn.finish()

    def _set_sync(self, full: bool) -> None:
        if full != self._full_sync:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full_sync = full


def storage_error(error: sqlite3.Error) -> ProviderError:
    """Return what a failure of SQLite means to a caller: nothing was changed."""
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
