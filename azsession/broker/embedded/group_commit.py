"""Runs the embedded broker's operations one at a time, and groups operations that arrive together into one commit.

`Core` runs every operation as a job of `GroupCommit`. One thread at a time leads: it runs all queued jobs in one transaction,
and then those that arrived meanwhile, commits, resolves their futures, and passes the lead on. A caller that blocks leads
itself if no other thread does, so without concurrent callers a job runs in its caller's thread, without any thread switch.
The broker's own thread runs the jobs of callers that do not block. If the database is in memory and no other thread leads,
such a caller leads, too.

A signal handler can raise an exception anywhere in a leading thread, for example KeyboardInterrupt. The other threads must
not wait for ever then. The methods that end a turn can therefore be called again after an interrupt, and continue.
"""

from __future__ import annotations

import inspect
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ... import interrupts
from ...errors import ProviderError, QueueError
from ...protocol.error_codes import SERVER_BUSY
from ...reentry import Reentry, is_method_in
from ..clock import Clock
from .jobs import Job, JobFuture, Transaction, Unfinished, WithdrawnError, handler_error
from .storage_errors import failure_of

T = TypeVar("T")

#: The largest number of jobs in one transaction.
MAX_JOBS = 256
#: Seconds after which a transaction takes no further job.
MAX_SECONDS = 0.02


class GroupCommit:
    """Runs jobs one at a time on one SQLite connection, in grouped transactions.

    If a job raises a `QueueError`, its changes up to then are kept: jobs raise it only in a consistent state. Any other
    exception rolls the transaction back. Then each job runs again in its own transaction, so that only the failing job fails.

    Args:
        connection: The connection. Only the leading thread uses it.
        clock: The source of time.
        wake_thread: Called when the broker's thread gets the lead; the thread then calls `lead`. It must not block.
        in_memory: Whether the database is in memory: jobs and commits then do no I/O.
        on_rollback: Called after each rollback, for values of the database that are kept in memory.

    Attributes:
        durable_commits: The transactions whose commit had to be on disk, since the start.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        wake_thread: Callable[[], object],
        *,
        in_memory: bool = False,
        on_rollback: Callable[[], object] = lambda: None,
    ) -> None:
        self._connection = connection
        self._in_memory = in_memory
        self._clock = clock
        self._wake_thread = wake_thread
        self._on_rollback = on_rollback
        # Guards the queue, the leader, the closing error, and the flags of all jobs. Not held while a job runs. A signal
        # handler may submit a job while its thread holds the lock.
        self._lock = threading.RLock()
        self._queue: deque[Job[Any]] = deque()
        #: The job whose thread leads, or `self` if the broker's thread leads.
        self._leader: Job[Any] | GroupCommit | None = None
        self._closed: ProviderError | None = None
        self._batch: deque[Job[Any]] = deque()
        self._full_sync = True
        self.durable_commits: int = 0
        self._reentry = Reentry()

    def submit(self, job: Job[T], *, blocking: bool) -> JobFuture[T]:
        """Queue a job and return the future of its result.

        Args:
            job: The job.
            blocking: Whether the caller waits for the job. If so, this call returns when the job has run for the first time,
                and the job may run in this thread. Otherwise this call does not wait. It runs the job in this thread only if
                the database is in memory and no other job runs: a change of threads costs more than most jobs.
        """
        is_outermost = self._reentry.mark()
        try:
            if blocking and not is_outermost:
                is_outermost = not self.is_inside()
                if not is_outermost:
                    job.error = handler_error()
                    job.resolve()
                    return job.future
            if blocking or (self._in_memory and self._leader is None):
                self._run_or_wait(job, blocking)
            else:
                self._enqueue(job)
        finally:
            if is_outermost:
                self._reentry.unmark()
        return job.future

    def _run_or_wait(self, job: Job[Any], blocking: bool) -> None:
        """Run a job in this thread if no other thread leads. Otherwise let a blocking caller wait for it."""
        owner = threading.Lock()
        owner.acquire()
        try:
            with self._lock:
                leads = self._leader is None and self._closed is None
                if leads or blocking:
                    job.owner = owner
                if leads:
                    self._leader, job.has_lead = job, True
                self._enqueue(job)
            if not leads and blocking:
                owner.acquire()
            if not job.has_run and (leads or blocking):
                self._lead(job)
        except BaseException:
            # For example, KeyboardInterrupt during the wait. A job that has not begun never runs, and must not keep the lead.
            interrupts.persist(lambda: self._leave(job))
            raise

    def run(self, work: Callable[[Transaction], T], *, durable: bool) -> T:
        """Run a job that finishes at once, and return its result. Blocks until the commit."""
        return self.submit(Job(work, durable, self._clock.monotonic()), blocking=True).result()

    def requeue(self, job: Job[Any]) -> None:
        """Run a waiting job again, after the jobs that are queued now. Any thread may call this, any number of times."""
        is_outermost = self._reentry.mark()
        try:
            if not job.is_queued and not job.is_finished and not job.future.done():
                job.arrived = self._clock.monotonic()
                self._enqueue(job)
        finally:
            if is_outermost:
                self._reentry.unmark()

    def lead(self) -> None:
        """Run jobs in the broker's thread, if it has the lead."""
        if self._leader is self:
            self._lead(None)

    def is_inside(self) -> bool:
        """Return whether a caller of this function's caller is in `submit` already: a signal handler interrupted it there.

        The interrupted thread can hold a lock that the leading thread needs, so that the handler must not wait for a job.
        """
        frame = inspect.currentframe()
        caller = frame and frame.f_back
        return is_method_in(caller and caller.f_back, self, _WITH_LOCK)

    def close(self) -> None:
        """Close the connection after all queued jobs. Later jobs fail. Idempotent."""
        if self._closed is None:
            self.run(lambda tx: tx.after_commit(self._connection.close), durable=True)

    def fail_queued(self, error: ProviderError) -> None:
        """Fail the queued jobs and all later ones, because the connection is closed and the broker's thread has ended."""
        is_outermost = self._reentry.mark()
        try:
            self._fail_queued(error)
        finally:
            if is_outermost:
                self._reentry.unmark()

    def _fail_queued(self, error: ProviderError) -> None:
        with self._lock:
            self._closed = error
            jobs = list(filter(lambda job: job.owner is None or job.has_run, self._queue))
            for job in jobs:
                self._queue.remove(job)
            if self._leader is self:
                self._appoint()
        for job in jobs:
            self._fail(job, error)

    def _enqueue(self, job: Job[Any]) -> None:
        with self._lock:
            closed = self._closed
            if closed is None:
                if not job.is_queued:
                    job.is_queued = True
                    self._queue.append(job)
                if self._leader is None:
                    self._appoint()
        if closed is not None:
            self._fail(job, closed)

    def _fail(self, job: Job[Any], error: ProviderError) -> None:
        job.error = error
        self._conclude(job, None)

    def _leave(self, job: Job[Any]) -> None:
        """Withdraw a job whose thread was interrupted. If that thread leads, end its turn."""
        job.future.cancel()
        with self._lock:
            job.has_run = True
            if job in self._queue:
                self._queue.remove(job)
                job.is_queued = False
        self._end_turn(job, job.batch)

    def _appoint(self) -> None:
        """Pass the lead to the thread of the first queued job. The caller holds `_lock`."""
        while self._queue and self._queue[0].is_finished:
            self._queue.popleft()  # An interrupt came before the job was removed.
        first = self._queue[0] if self._queue else None
        if first is None:
            self._leader = None
        else:
            self._leader = first if first.owner is not None and not first.has_run else self
            self._notify_leader()

    def _notify_leader(self) -> None:
        """Let the leading thread go on. After an interrupt, it is called again. The caller holds `_lock`."""
        leader = self._leader
        if leader is self:
            self._wake_thread()
        elif isinstance(leader, Job) and leader.owner is not None and not leader.has_lead:
            with suppress(RuntimeError):  # Released already, before an interrupt.
                leader.owner.release()
            leader.has_lead = True

    def _lead(self, own: Job[Any] | None) -> None:
        batch = self._batch if own is None else own.batch
        leader = self if own is None else own
        try:
            with self._lock:
                self._fill(batch)
            interrupt = self._run_batch(batch)
        finally:
            interrupts.persist(lambda: self._end_turn(leader, batch))
        if interrupt is not None and own is not None:
            raise interrupt

    def _fill(self, batch: deque[Job[Any]], *, durable: bool = True) -> None:
        """Move the next jobs from the queue to a batch. The caller holds `_lock`.

        Args:
            batch: The batch. Its own jobs that were queued again are not added: a transaction runs each job once.
            durable: Whether the batch may get jobs whose commit must be on disk.
        """
        known = set(map(id, batch))
        while self._queue and len(batch) < MAX_JOBS:
            job = self._queue[0]
            if id(job) in known or (job.durable and not durable):
                return
            job.tx, job.is_queued = None, False
            if not job.is_finished:
                batch.append(job)
            self._queue.popleft()

    def _end_turn(self, leader: Job[Any] | GroupCommit, batch: deque[Job[Any]]) -> None:
        """Pass the lead on, and resolve the futures of the jobs that have run. A second call continues after an interrupt."""
        with self._lock:
            if self._leader is leader:
                # The next leader can run a job again that this turn has queued. So all outcomes are read before.
                for job in batch:
                    self._judge(job)
                self._appoint()
            else:
                self._notify_leader()
        while batch:
            self._conclude(batch[0], leader)
            batch.popleft()

    def _judge(self, job: Job[Any]) -> None:
        """Decide what becomes of a job that has run: it is finished, waits, or is queued again. The caller holds `_lock`."""
        if job.error is None and not (job.tx is not None and job.tx.is_committed):
            # The thread that led was interrupted. The job must not return as if it had succeeded.
            job.error = ProviderError("the operation was interrupted", code=SERVER_BUSY, is_transient=True)
        job.has_run = True
        job.is_finished = job.error is not None or not isinstance(job.result, Unfinished)
        if not job.is_finished and job.result is Unfinished.CONTINUE and not job.is_queued:
            job.is_queued = True
            self._queue.append(job)

    def _conclude(self, job: Job[Any], leader: Job[Any] | GroupCommit | None) -> None:
        """Resolve the future of a finished job, and let its thread go on."""
        if job.error is not None or job.is_finished:
            job.has_run = job.is_finished = True
            job.resolve()
        if job.owner is not None and job is not leader:
            with suppress(RuntimeError):  # Released already, before an interrupt.
                job.owner.release()

    def _put_back(self, jobs: list[Job[Any]], batch: deque[Job[Any]]) -> None:
        """Queue jobs of a batch again, at the front, that the transaction had no time for."""
        with self._lock:
            for job in reversed(jobs):
                if not job.is_queued:
                    job.is_queued = True
                    self._queue.appendleft(job)
                batch.remove(job)

    def _run_batch(self, batch: deque[Job[Any]]) -> BaseException | None:
        """Run jobs. Return an exception that a signal handler raised, if no job can be blamed for it."""
        jobs = list(batch)
        done, error = self._transact(jobs, batch)
        self._put_back(jobs[len(done) :], batch)
        if error is not None and len(done) == 1:
            done[0].error = error
        elif error is not None:
            errors = []
            for job in done:
                _, job_error = self._transact([job])
                if job_error is not None:
                    job.error = job_error
                    errors.append(type(job_error))
            if not isinstance(error, (QueueError, WithdrawnError)) and type(error) not in errors:
                return error
        return None

    def _transact(
        self, jobs: list[Job[Any]], batch: deque[Job[Any]] | None = None
    ) -> tuple[list[Job[Any]], BaseException | None]:
        """Run jobs in one transaction, as long as there is time.

        Args:
            jobs: The jobs.
            batch: The batch of the jobs. Jobs that were queued meanwhile are added to both, and share the commit.

        Returns:
            The jobs that were run, and the error that rolled the transaction back, or `None`.
        """
        tx = Transaction()
        done: list[Job[Any]] = []
        until = time.perf_counter() + MAX_SECONDS
        is_committing = False
        try:
            durable = any(job.durable for job in jobs)
            self._set_sync(durable)
            self._connection.execute("BEGIN")
            self._run_jobs(jobs, done, tx, until)
            if batch is not None and len(done) == len(jobs):
                with self._lock:
                    self._fill(batch, durable=durable)
                jobs += list(batch)[len(jobs) :]
                self._run_jobs(jobs[len(done) :], done, tx, until)
            tx.prepare()
            is_committing = True
            self._connection.execute("COMMIT")
            tx.is_committed = True
            self.durable_commits += durable
            tx.finish()
        except BaseException as error:
            # Without an error of SQLite, an interrupt came during or after the commit, which is complete.
            # `finish` can have closed the connection, which has no state then.
            is_unclear = is_committing and not tx.is_committed and not isinstance(error, sqlite3.Error)
            if is_unclear and not self._connection.in_transaction:
                tx.is_committed = True
            interrupts.persist(tx.finish if tx.is_committed else lambda: self._roll_back(tx))
            if tx.is_committed or not isinstance(error, Exception):
                raise
            return done or jobs, failure_of(error, self._connection)
        return done, None

    def _run_jobs(self, jobs: Sequence[Job[Any]], done: list[Job[Any]], tx: Transaction, until: float) -> None:
        """Run jobs, and add each to `done` before it runs. Only the first job of the transaction runs after `until`."""
        for job in jobs:
            if done and time.perf_counter() > until:
                return
            done.append(job)
            self._run_job(job, tx)

    @staticmethod
    def _run_job(job: Job[Any], tx: Transaction) -> None:
        job.tx, job.error, job.result = tx, None, Unfinished.WAITING
        if job.work is None or not (job.may_wait or job.future.claim()):
            return
        tx.arrived = job.arrived
        try:
            job.result = job.work(tx)
        except QueueError as error:
            job.error = error

    def _roll_back(self, tx: Transaction) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._on_rollback()
        tx.roll_back()

    def _set_sync(self, full: bool) -> None:
        if full != self._full_sync and not self._in_memory:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full_sync = full


#: The methods that other objects call, and that take the lock. Each marks its thread before; see `reentry`.
_WITH_LOCK = frozenset(method.__code__ for method in (GroupCommit.submit, GroupCommit.requeue, GroupCommit.fail_queued))
