"""Runs the embedded broker's operations one at a time, and groups operations that arrive together into one commit.

`Core` runs every operation as a job of `GroupCommit`. One thread at a time leads: it runs all queued jobs in one transaction,
commits, resolves their futures, and passes the lead on. A caller that blocks leads itself if no other thread does, so without
concurrent callers a job runs in its caller's thread, without any thread switch. The broker's own thread runs the
jobs of callers that do not block.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any, Generic, TypeVar

from ...errors import ProviderError, QueueError
from ...protocol.error_codes import SERVER_BUSY
from ..clock import Clock

T = TypeVar("T")

#: The largest number of jobs in one transaction.
MAX_JOBS = 256
#: Seconds after which a transaction takes no further job.
MAX_SECONDS = 0.02


class Unfinished(Enum):
    """The result of a job that has not finished.

    Attributes:
        WAITING: The job waits for something. It runs again when `GroupCommit.requeue` is called.
        CONTINUE: The job has done one step. It runs again after the jobs that are queued now.
    """

    WAITING = "waiting"
    CONTINUE = "continue"


class Transaction:
    """The transaction of a job. A job registers here how to undo its changes in memory, and actions that follow the commit.

    Jobs change memory at once, so that the next job of the same transaction sees the changes. If the commit fails, the
    registered functions restore memory.

    Attributes:
        arrived: When the running job was submitted, on the monotonic clock.
    """

    __slots__ = ("_after", "_saved", "_undo", "arrived")

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._after: list[Callable[[], object]] = []
        self._saved: set[int] = set()
        self.arrived = 0.0

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Call `undo` if the transaction fails. The functions run in reverse order."""
        self._undo.append(undo)

    def after_commit(self, action: Callable[[], object]) -> None:
        """Call `action` after the commit. It must not block or raise."""
        self._after.append(action)

    def first_touch(self, thing: object) -> bool:
        """Return whether this is the first call with `thing` in this transaction."""
        if id(thing) in self._saved:
            return False
        self._saved.add(id(thing))
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


class Job(Generic[T]):
    """One operation: its work, and the future of its result.

    Args:
        work: Does the operation. It must not block.
        durable: Whether the commit must be on disk. Without it, the commit survives the death of the process, but perhaps not
            a failure of the machine.
        arrived: When the operation arrived, on the monotonic clock.

    Attributes:
        future: The result. A caller that cancels it withdraws the job, unless the job has taken effect.
    """

    __slots__ = ("_owner", "_queued", "arrived", "committed", "durable", "error", "future", "result", "work")

    def __init__(self, work: Callable[[Transaction], T | Unfinished], durable: bool, arrived: float) -> None:
        self.work = work
        self.durable = durable
        self.arrived = arrived
        self.future: Future[T] = Future()
        self.result: T | Unfinished | None = None
        self.error: BaseException | None = None
        self.committed = False
        #: Released when the owner's thread gets the lead, or when the job has been run. `None` if no thread waits.
        self._owner: threading.Lock | None = None
        self._queued = False

    def claim(self) -> bool:
        """Return whether the job may take effect. Afterwards, its future cannot be cancelled."""
        if self.future.running():
            return True
        return not self.future.cancelled() and self.future.set_running_or_notify_cancel()


class GroupCommit:
    """Runs jobs one at a time on one SQLite connection, in grouped transactions.

    If a job raises a `QueueError`, its changes up to then are kept: jobs raise it only in a consistent state. Any other
    exception rolls the transaction back. Then each job runs again in its own transaction, so that only the failing job fails.

    Args:
        connection: The connection. Only the leading thread uses it.
        clock: The source of time.
        wake_thread: Called when the broker's thread gets the lead; the thread then calls `lead`. It must not block.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock, wake_thread: Callable[[], object]) -> None:
        self._connection = connection
        self._clock = clock
        self._wake_thread = wake_thread
        self._lock = threading.Lock()  # Guards _queue, _leader and _queued of all jobs. Not held while a job runs.
        self._queue: deque[Job[Any]] = deque()
        #: The job whose thread leads, or `self` if the broker's thread leads.
        self._leader: Job[Any] | GroupCommit | None = None
        self._full_sync = True

    def submit(self, job: Job[T], *, blocking: bool) -> Future[T]:
        """Queue a job and return the future of its result.

        Args:
            job: The job.
            blocking: Whether the caller waits for the job. If so, this call returns when the job has run for the first time,
                and the job may run in this thread. Otherwise this call returns at once.
        """
        if not blocking:
            with self._lock:
                self._enqueue(job)
            return job.future
        owner = job._owner = threading.Lock()
        owner.acquire()
        try:
            with self._lock:
                leads = self._leader is None
                if leads:
                    self._leader = job
                self._enqueue(job)
            if not leads:
                owner.acquire()
            if job._owner is not None:
                self._lead(job)
        except BaseException:
            # For example, KeyboardInterrupt during the wait. A job that has not begun never runs, and must not keep the lead.
            job.future.cancel()
            self._leave(job)
            raise
        return job.future

    def run(self, work: Callable[[Transaction], T], *, durable: bool) -> T:
        """Run a job that finishes at once, and return its result. Blocks until the commit."""
        return self.submit(Job(work, durable, self._clock.monotonic()), blocking=True).result()

    def requeue(self, job: Job[Any]) -> None:
        """Run a waiting job again, after the jobs that are queued now. Any thread may call this, any number of times."""
        with self._lock:
            if not job._queued and not job.future.done():
                job.arrived = self._clock.monotonic()
                self._enqueue(job)

    def lead(self) -> None:
        """Run jobs in the broker's thread, which has the lead."""
        self._lead(None)

    def close(self) -> None:
        """Close the connection after all queued jobs. Later jobs fail."""
        self.run(lambda tx: tx.after_commit(self._connection.close), durable=True)

    def fail_queued(self, error: ProviderError) -> None:
        """Fail the queued jobs, because the broker's thread has ended."""
        with self._lock:
            jobs = [job for job in self._queue if job._owner is None]
            self._queue = deque(job for job in self._queue if job._owner is not None)
            if self._leader is self:
                self._appoint()
        for job in jobs:
            job.error = error
            self._resolve(job)

    def _enqueue(self, job: Job[Any]) -> None:
        """Queue a job. The caller holds `_lock`."""
        job._queued = True
        self._queue.append(job)
        if self._leader is None:
            self._appoint()

    def _leave(self, job: Job[Any]) -> None:
        with self._lock:
            job._owner = None
            if job._queued:
                self._queue.remove(job)
                job._queued = False
            if self._leader is job:
                self._appoint()

    def _appoint(self) -> None:
        """Pass the lead to the thread of the first queued job. The caller holds `_lock`."""
        first = self._queue[0] if self._queue else None
        if first is None:
            self._leader = None
        elif first._owner is not None:
            self._leader = first
            first._owner.release()
        else:
            self._leader = self
            self._wake_thread()

    def _lead(self, own: Job[Any] | None) -> None:
        batch: list[Job[Any]] = []
        try:
            with self._lock:
                while self._queue and len(batch) < MAX_JOBS:
                    job = self._queue.popleft()
                    job._queued = False
                    batch.append(job)
            self._put_back(self._run_batch(batch), batch)
        except BaseException:
            # For example, KeyboardInterrupt in the leading thread. The other jobs must not return as if they had succeeded.
            for job in batch:
                if job.error is None and not job.committed:
                    job.error = ProviderError("the operation was interrupted", code=SERVER_BUSY, is_transient=True)
            raise
        finally:
            with self._lock:
                self._appoint()
            for job in batch:
                self._conclude(job, own)

    def _conclude(self, job: Job[Any], own: Job[Any] | None) -> None:
        """Resolve the future of a job that has run, and let its thread go on."""
        owner, job._owner = job._owner, None
        if job.error is None and job.result is Unfinished.CONTINUE:
            with self._lock:
                self._enqueue(job)
        elif job.error is not None or job.result is not Unfinished.WAITING:
            self._resolve(job)
        if owner is not None and job is not own:
            owner.release()

    @staticmethod
    def _resolve(job: Job[Any]) -> None:
        if not job.claim():
            return
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)

    def _put_back(self, rest: list[Job[Any]], batch: list[Job[Any]]) -> None:
        """Queue jobs of a batch again, at the front, that the transaction had no time for."""
        if rest:
            del batch[-len(rest) :]
            with self._lock:
                for job in reversed(rest):
                    job._queued = True
                    self._queue.appendleft(job)

    def _run_batch(self, batch: list[Job[Any]]) -> list[Job[Any]]:
        """Run jobs. Return those that there was no time for."""
        done, error = self._transact(batch)
        if error is not None and len(done) == 1:
            done[0].error = error
        elif error is not None:
            for job in done:
                _, job_error = self._transact([job])
                if job_error is not None:
                    job.error = job_error
        return batch[len(done) :]

    def _transact(self, batch: list[Job[Any]]) -> tuple[list[Job[Any]], BaseException | None]:
        """Run jobs in one transaction, as long as there is time.

        Returns:
            The jobs that were run, and the error that rolled the transaction back, or `None`.
        """
        tx = Transaction()
        done: list[Job[Any]] = []
        committing = False
        until = time.perf_counter() + MAX_SECONDS
        try:
            self._set_sync(any(job.durable for job in batch))
            self._connection.execute("BEGIN")
            for job in batch:
                if done and time.perf_counter() > until:
                    break
                done.append(job)
                job.error, job.committed = None, False
                tx.arrived = job.arrived
                try:
                    job.result = job.work(tx)
                except QueueError as error:
                    job.error = error
            committing = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            if committing and not isinstance(error, sqlite3.Error) and not self._connection.in_transaction:
                # The exception arrived during the commit, which completed.
                self._finish(tx, done)
                raise
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            tx.roll_back()
            if isinstance(error, sqlite3.Error):
                return done or batch, storage_error(error)
            if isinstance(error, Exception):
                return done, error
            raise
        self._finish(tx, done)
        return done, None

    def _finish(self, tx: Transaction, batch: list[Job[Any]]) -> None:
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
