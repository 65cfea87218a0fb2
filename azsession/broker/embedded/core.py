"""The state of an embedded broker: its store, queues and session locks, and the work that becomes due with time.

`EmbeddedBroker`, `Receiving` and `Settling` share one `Core`.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ... import forks
from ...errors import ConfigurationError, ProviderError, QueueError, SessionLockedError, SessionNotFoundError
from ...messages import ReceiptHandle, ReceivedMessage
from ...protocol.error_codes import SERVER_BUSY, SESSION_LOCK_LOST
from ...queues import QueueSettings
from ..calls import BLOCKING, CallContext
from ..clock import Clock
from ..dead_letter_reasons import MAX_DELIVERY_EXCEEDED
from .broker_thread import BrokerThread
from .database_file import open_database
from .delays import Delays
from .due_work import DueWork
from .event_log import EventLog
from .group_commit import GroupCommit
from .jobs import Job, Transaction, Unfinished
from .lock_tokens import new_token
from .queue_creation import QueueCreation
from .queue_state import Queue
from .remembered import Remembered
from .rows import received, to_datetime
from .session_locks import LockedMessage, SessionKey, SessionLock, SessionLocks, Waiter
from .store import STEP_ROWS, Store
from .stored_message import Row

T = TypeVar("T")

#: Seconds after which the broker tries again to do due work that failed, for example because the disk is full.
RETRY_AFTER = 1.0
#: How many accepts of one queue can be repeated while their locks last.
MAX_ACCEPTS = 4096


class Core:
    """The state of an embedded broker.

    Only jobs may use it. Any thread may call `submit`, `stop_waiting` and `close`.
    """

    def __init__(self, path: Path | None, *, auto_create: bool, clock: Clock) -> None:
        self.clock = clock
        self.stopping = False
        self.connection: sqlite3.Connection = open_database(path)
        self.store: Store = Store(self.connection)
        self.remembered: Remembered = Remembered(self.connection)
        self.thread: BrokerThread = BrokerThread(self._lead, self._act, clock)
        self.commits: GroupCommit = GroupCommit(
            self.connection, clock, self.thread.wake, in_memory=path is None, on_rollback=self.remembered.forget
        )
        self.locks: SessionLocks = SessionLocks()
        self.events: EventLog = EventLog()
        self.queues: dict[str, Queue] = {}
        try:
            for number, name, settings, following in self.store.queues():
                self.queues[name] = Queue(number, name, QueueSettings(**settings), following)
            self.creation: QueueCreation = QueueCreation(self.store, self.queues, self.locks, auto_create=auto_create)
            self.store.unlock_all()
            self.delays: Delays = Delays(self.connection, clock)
            for key in self.delays:
                self.store.set_locked(*key, True)
            self.due: DueWork = DueWork(self)
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.connection.close()
            raise ConfigurationError(f"the data file {path} is damaged ({error}); it was not changed") from error
        self._closed = False
        self._pid = os.getpid()
        forks.register(self)
        if self.due.next_event() is not None:
            self.thread.act_at(clock.monotonic())

    # Jobs

    def submit(
        self,
        work: Callable[[Transaction], T | Unfinished],
        context: CallContext = BLOCKING,
        *,
        durable: bool = False,
        waiter: Waiter | None = None,
    ) -> Future[T]:
        """Run a job, after the work that has become due. Return the future of its result.

        Args:
            work: The job; see `GroupCommit.submit`.
            context: How the operation was called.
            durable: Whether the commit must be on disk.
            waiter: The waiter of a job that may wait. It gets the job, so that the job can be run again.
        """

        def job_work(tx: Transaction) -> T | Unfinished:
            if self._closed:
                raise closed_error()
            self.due.do_due_work(tx)
            if durable:
                self.due.note_write()
            result = work(tx)
            if result is Unfinished.CONTINUE:
                self.thread.start()
            return result

        job: Job[T] = Job(job_work, durable, self.clock.monotonic(), may_wait=waiter is not None)
        try:
            self.check_process()
            if self._closed:
                raise closed_error()
            if not context.blocking:
                self.thread.start()
        except QueueError as error:
            job.future.set_exception(error)
            return job.future
        if waiter is not None:
            waiter.attach(job)
        return self.commits.submit(job, blocking=context.blocking)

    def perform(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """Run a job and return its result. Blocks until the commit."""
        return self.submit(work, durable=durable).result()

    def tidy(self, work: Callable[[Transaction], object]) -> None:
        """Queue a job that removes the traces of an operation, without due work. On a closed broker it has no effect."""
        if not self._closed and os.getpid() == self._pid:
            with suppress(QueueError):
                self.thread.start()
                self.commits.submit(Job(work, False, self.clock.monotonic()), blocking=False)

    def _lead(self) -> None:
        self.commits.lead()

    def _act(self) -> None:
        """Queue the work that has become due, for the broker's thread."""

        def due(tx: Transaction) -> None:
            if self._closed:
                return
            # Operations whose time is over end also while the disk fails.
            self.due.wake_late()
            self.due.do_due_work(tx)
            self.due.do_step(tx)
            following = self.due.next_event()
            if following is not None:
                tx.after_commit(lambda: self.thread.act_at(following))

        def done(future: Future[None]) -> None:
            # After a failure, for example of the disk, the work stays due.
            if future.exception() is not None and not self._closed:
                self.thread.act_at(self.clock.monotonic() + RETRY_AFTER)

        self.commits.submit(Job(due, False, self.clock.monotonic()), blocking=False).add_done_callback(done)

    def check_process(self) -> None:
        """Raise `ProviderError` in a forked child."""
        if os.getpid() != self._pid:
            raise ProviderError("this broker belongs to the process that opened it, not to one forked from it")

    def after_fork(self) -> None:
        """In a forked child: never close the connection, not even when the interpreter ends.

        SQLite would take it for the last connection to the file, and delete the log that the parent writes to.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))

    def stop_waiting(self) -> None:
        """End all waits, and prevent new ones. Idempotent, also after `close`."""
        if self.stopping:
            return

        def stop(tx: Transaction) -> None:
            for lock in self.locks:
                lock.wake_waiters()
            for queue in self.queues.values():
                queue.acceptors.wake_all()
            # At the end: after an interrupt, a second call wakes the others.
            self.stopping = True

        self.check_process()
        self.commits.run(stop, durable=False)

    def close(self) -> None:
        """Stop the broker and close its file. Idempotent. After an interrupt, a second call continues.

        A signal handler that interrupted an operation of this thread cannot wait for it. Then the broker closes after it.
        """
        if os.getpid() != self._pid:
            return
        self._closed = True
        if self.commits.is_inside():
            threading.Thread(target=self._finish_closing, name="azsession-broker-closing").start()
        else:
            self._finish_closing()

    def _finish_closing(self) -> None:
        # Each step fails if another thread closes the broker at the same time, and has no effect if it is done already.
        with suppress(QueueError):
            self.stop_waiting()
        with suppress(QueueError):
            self.commits.run(self._release_all, durable=False)
        with suppress(QueueError):
            self.commits.close()
        self.thread.stop()
        self.commits.fail_queued(closed_error())
        self.events.thread.close()

    def _release_all(self, tx: Transaction) -> None:
        """Release all locks: closing the broker counts no delivery, unlike the death of its process."""
        for lock in self.locks:
            lock.save_for_rollback(tx)
            self.uncount(lock.tokens.values())
            lock.tokens = {}
            self.locks.end(tx, lock)

    def may_wait(self, waiter: Waiter) -> bool:
        """Return whether a waiter's deadline is still ahead, and the broker lets operations wait."""
        return not self.stopping and self.clock.monotonic() < waiter.deadline

    # Queues, sessions, locks

    def queue(self, entity: str) -> Queue:
        """Return a queue to read from; see `QueueCreation.find`."""
        return self.creation.find(entity)

    def _queue_with(self, number: int) -> Queue | None:
        """Return the queue with an id."""
        return next((queue for queue in self.queues.values() if queue.id == number), None)

    def take_lock(self, tx: Transaction, queue: Queue, session_id: str, lock_id: str) -> SessionLock:
        """Take the lock of a free session. Raises `SessionLockedError` if the session is delayed."""
        self.delays.check((queue.id, session_id))
        expires = self.clock.monotonic() + queue.settings.lock_duration
        lock = self.locks.take(tx, (queue.id, session_id), lock_id, expires)
        self.store.set_locked(queue.id, session_id, True)
        self.thread.act_at(expires)
        return lock

    def extend_lock(self, queue: Queue, lock: SessionLock) -> None:
        """Renew a lock: it expires after the queue's lock duration."""
        lock.confirmed = True
        expires = self.clock.monotonic() + queue.settings.lock_duration
        self.locks.extend(lock, expires)
        self.thread.act_at(expires)

    def uncount(self, messages: Iterable[LockedMessage]) -> None:
        """Store the delivery counts of messages that return as if they had not been delivered."""
        self.store.set_delivery_counts([(message.key, message.count_before) for message in messages if not message.ahead])

    def end_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """End a lock. Its unsettled messages return to their places, and a waiting accept gets the session.

        The deliveries of these messages count. A message that has reached the limit is dead-lettered now, or, if there are
        many, when it would be delivered again.
        """
        self.locks.end(tx, lock)
        self._dead_letter_failed_of(tx, lock)
        self.store.set_locked(*lock.key, lock.key in self.delays)
        if lock.tokens:
            self.due.schedule_expiries(tx)
        self.notify_waiters(tx, lock.key)

    def _dead_letter_failed_of(self, tx: Transaction, lock: SessionLock) -> None:
        queue = self._queue_with(lock.key[0])
        if queue is None or not lock.tokens:
            return
        limit = queue.settings.max_delivery_count
        failed = (message.key for message in lock.tokens.values() if message.count >= limit and not message.ahead)
        found, keys = self.store.session(*lock.key), list(islice(failed, STEP_ROWS))
        if keys and found is not None:
            self.dead_letter_failed(tx, keys, limit)
            self.store.update_session(found[0])

    def dead_letter_failed(self, tx: Transaction, keys: Iterable[int], limit: int) -> None:
        """Dead-letter messages that were delivered `limit` times. The caller updates their session."""
        why = f"The message was delivered {limit} times."
        self.due.dead_letter(tx, [(MAX_DELIVERY_EXCEEDED, why, key) for key in keys])

    def undo_take_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo `take_lock` for a lock without unsettled messages. A waiting accept gets the session."""
        self.locks.undo_take(tx, lock)
        self.store.set_locked(*lock.key, lock.key in self.delays)
        self.notify_waiters(tx, lock.key)

    def notify_waiters(self, tx: Transaction, key: SessionKey, queue: Queue | None = None) -> None:
        """Wake the receives that wait in this session of a queue. If it is free and has messages, wake an accept."""
        lock = self.locks.get(key)
        if lock is not None:
            tx.after_commit(lock.wake_waiters)
            return
        queue = queue or self._queue_with(key[0])
        # An accept that comes later in this transaction sees the session itself.
        if queue is None or not queue.acceptors or key in self.delays:
            return
        found = self.store.session(*key)
        if found is not None and found[1] is not None:
            tx.after_commit(queue.acceptors.wake_next)

    def end_delay(self, tx: Transaction, key: SessionKey) -> None:
        """End the delay of a session: its messages are given out again."""
        if self.delays.remove(tx, key):
            self.store.set_locked(*key, self.locks.get(key) is not None)
            self.notify_waiters(tx, key)

    def is_taken(self, key: SessionKey) -> bool:
        """Return whether a session is locked or delayed, so that no accept may get it."""
        return self.locks.get(key) is not None or key in self.delays

    def current_lock(self, tx: Transaction, key: SessionKey) -> SessionLock | None:
        """Return the lock of a session, or `None` if the session is free. End the lock if it has expired."""
        lock = self.locks.get(key)
        if lock is not None and lock.has_expired(self.due.expiry_limit(tx)):
            self.end_lock(tx, lock)
            return None
        return lock

    def held_lock(self, tx: Transaction, queue: Queue, session_id: str, lock_id: str) -> SessionLock | None:
        """Return this holder's lock of the session; `None` for the shared holder of the plain dialect if the session is free.

        Raises:
            SessionNotFoundError: The holder lost the lock, or never had it.
            SessionLockedError: Another holder has the lock.
        """
        key = (queue.id, session_id)
        lock = self.current_lock(tx, key)
        if lock is not None and lock.holder == lock_id:
            lock.confirmed = True
            return lock
        if lock is not None and not self.locks.has_ended(key, lock_id):
            raise self.locked_error(lock)
        if lock_id or lock is not None:
            raise lost_error()
        return None

    def locked_error(self, lock: SessionLock) -> SessionLockedError:
        left = max(0.0, lock.expires - self.clock.monotonic())
        until = to_datetime(self.clock.now() + left)
        return SessionLockedError("another holder has this session", locked_until=until, retry_after=left)

    # Messages

    def hand_out(
        self,
        lock: SessionLock,
        rows: Sequence[Row],
        expires_at: datetime,
        *,
        context: CallContext,
        deferred: bool = False,
        taken: int | None = None,
    ) -> list[ReceivedMessage]:
        """Deliver messages to the holder of a lock, with new lock tokens. Count the deliveries of the first `taken`."""
        messages = []
        for index, row in enumerate(rows):
            token = new_token(row.key)
            ahead = taken is not None and index >= taken
            in_hand = lock.tokens[token] = LockedMessage(row.key, row.count + 1, deferred, row.size, ahead)
            messages.append(self.received(lock, row, token, in_hand, expires_at, context))
        # The count is stored before the delivery. A message whose handler kills this process must not come for ever.
        self.store.set_delivery_counts([(row.key, row.count + 1) for row in rows[:taken]])
        return messages

    def received(
        self,
        lock: SessionLock,
        row: Row,
        token: str,
        in_hand: LockedMessage,
        expires_at: datetime,
        context: CallContext,
    ) -> ReceivedMessage:
        """Return a delivered message."""
        receipt, now = ReceiptHandle(token, expires_at), to_datetime(self.clock.now())
        return received(row, lock.key[1], in_hand.count, receipt, now, context)

    def lock_expiry(self, lock: SessionLock) -> datetime:
        """Return when a lock expires."""
        left = lock.expires - self.clock.monotonic()
        return to_datetime(self.clock.now() + left)


def closed_error() -> ProviderError:
    return ProviderError("the broker is closed", code=SERVER_BUSY, is_transient=True)


def lost_error() -> SessionNotFoundError:
    return SessionNotFoundError("the session's lock is lost, or was never taken", code=SESSION_LOCK_LOST)
