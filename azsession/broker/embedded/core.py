"""The state of an embedded broker: its store, queues and session locks, and the work that becomes due with time.

`EmbeddedBroker`, `Receiving` and `Settling` share one `Core`.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import secrets
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import attrs

from ... import forks
from ...errors import (
    ConfigurationError,
    ProviderError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
)
from ...messages import ReceiptHandle, ReceivedMessage
from ...protocol.error_codes import SERVER_BUSY, SESSION_LOCK_LOST
from ...queues import QueueSettings
from ..base import BLOCKING, CallContext
from ..clock import Clock
from .broker_thread import BrokerThread
from .database_file import open_database
from .group_commit import GroupCommit, Job, Transaction, Unfinished
from .rows import message_fields, to_datetime
from .session_locks import Acceptors, LockedMessage, SessionKey, SessionLock, SessionLocks, Waiter
from .store import (
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    STEP_BYTES,
    STEP_ROWS,
    Row,
    Store,
    message_key,
    within_step,
)

T = TypeVar("T")

#: Seconds from a write to the check whether the file is mostly unused, and seconds between two steps of shrinking it.
RELEASE_AFTER = 60.0
RELEASE_PAUSE = 0.1
#: Seconds after which the broker tries again to do due work that failed, for example because the disk is full.
RETRY_AFTER = 1.0
#: The longest wait in seconds for a time of the wall clock, which may be set in the meantime.
WALL_CLOCK_CHECK = 1.0
#: How many accepts of one queue can be repeated while their locks last.
MAX_ACCEPTS = 4096

TTL_EXPIRED = "TTLExpiredException"
MAX_DELIVERY_EXCEEDED = "MaxDeliveryCountExceeded"


@attrs.define(eq=False)
class Queue:
    """A queue in memory: its settings, its next sequence number, and the accepts that wait for a session."""

    id: int
    name: str
    settings: QueueSettings
    next_sequence: int
    acceptors: Acceptors = attrs.field(factory=Acceptors)
    accepts: OrderedDict[str, tuple[SessionKey, str]] = attrs.field(factory=OrderedDict)
    clear_out_at: int = 64

    def next_key(self) -> int:
        key = message_key(self.id, self.next_sequence)
        self.next_sequence += 1
        return key


class Core:
    """The state of an embedded broker.

    Only jobs may use it. Any thread may call `submit`, `stop_waiting` and `close`.
    """

    def __init__(self, path: Path | None, *, auto_create: bool, clock: Clock) -> None:
        self.clock = clock
        self.auto_create = auto_create
        self.stopping = False
        self.connection = open_database(path)
        self.store = Store(self.connection)
        self.thread = BrokerThread(self._lead, self._act, clock)
        self.commits = GroupCommit(self.connection, clock, self.thread.wake)
        self.locks = SessionLocks()
        self.queues: dict[str, Queue] = {}
        #: The waits that end at a time, as a heap of that time and the waiter.
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._tie = itertools.count()
        try:
            for number, name, settings, following in self.store.queues():
                self.queues[name] = Queue(number, name, QueueSettings(**settings), following)
            self.store.unlock_all()
            self._deleted_queues = self.store.deleted_queues()
            self._dead_letterings = self.store.dead_letterings()
            self._next_due = self.store.next_due()
            self._next_expiry = self.store.next_expiry(0.0)
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.connection.close()
            raise ConfigurationError(f"the data file {path} is damaged ({error}); it was not changed") from error
        self._closing = threading.Lock()  # Guards _closed.
        self._closed = False
        self._release_at: float | None = None
        self._pid = os.getpid()
        forks.register(self)
        if self._next_event() is not None:
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
            waiter: Gets the job, so that it can be run again.
        """

        def job_work(tx: Transaction) -> T | Unfinished:
            if self._closed:
                raise closed_error()
            self._do_due_work(tx)
            if durable and self._release_at is None:
                # The job may delete messages, after which the file may be mostly unused.
                self._release_at = self.clock.monotonic() + RELEASE_AFTER
                self.thread.act_at(self._release_at)
            result = work(tx)
            if result is Unfinished.CONTINUE:
                self.thread.start()
            return result

        try:
            self._check_process()
            if self._closed:
                raise closed_error()
            if not context.blocking:
                self.thread.start()
        except QueueError as error:
            failed: Future[T] = Future()
            failed.set_exception(error)
            return failed
        job: Job[T] = Job(job_work, durable, self.clock.monotonic())
        if waiter is not None:
            waiter.job = job
        return self.commits.submit(job, blocking=context.blocking)

    def perform(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """Run a job and return its result. Blocks until the commit."""
        return self.submit(work, durable=durable).result()

    def in_memory(self, work: Callable[[Transaction], object]) -> None:
        """Queue a job that changes memory only. It works while the data file fails. On a closed broker it has no effect."""
        if not self._closed:
            with suppress(QueueError):
                self.thread.start()
                self.commits.submit(Job(work, False, self.clock.monotonic()), blocking=False)

    def _lead(self) -> None:
        self.commits.lead()

    def _check_process(self) -> None:
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
            self.stopping = True
            for lock in self.locks:
                lock.wake_waiters()
            for queue in self.queues.values():
                queue.acceptors.wake_all()

        self._check_process()
        self.commits.run(stop, durable=False)

    def close(self) -> None:
        """Stop the broker and close its file. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.stop_waiting()
        self.commits.close()
        self.thread.stop()
        self.commits.fail_queued(closed_error())

    # Waits

    def wait(self, tx: Transaction, waiter: Waiter) -> None:
        """Note a waiter's deadline, so that it tries again then."""
        if not waiter.waits:
            waiter.waits = True
            heapq.heappush(self._deadlines, (waiter.deadline, next(self._tie), waiter))
            tx.on_rollback(lambda: setattr(waiter, "waits", False))
            self.thread.act_at(waiter.deadline)

    def may_wait(self, waiter: Waiter) -> bool:
        """Return whether a waiter's deadline is still ahead."""
        return not self.stopping and self.clock.monotonic() < waiter.deadline

    def _wake_late(self) -> None:
        """Let the waiters try again whose deadlines have passed."""
        now = self.clock.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            heapq.heappop(self._deadlines)[2].wake()

    def _next_deadline(self) -> float | None:
        while self._deadlines and (job := self._deadlines[0][2].job) is not None and job.future.done():
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    # Due work

    def _act(self) -> None:
        """Queue the work that has become due, for the broker's thread."""

        def due(tx: Transaction) -> float | None:
            if not self._closed:
                self._do_due_work(tx)
                self._wake_late()
                self._do_step(tx)
            return self._next_event()

        def done(future: Future[float | None]) -> None:
            # After a failure, for example of the disk, the work stays due.
            following = self.clock.monotonic() + RETRY_AFTER if future.exception() is not None else future.result()
            if following is not None and not self._closed:
                self.thread.act_at(following)

        self.commits.submit(Job(due, False, self.clock.monotonic()), blocking=False).add_done_callback(done)

    def _next_event(self) -> float | None:
        """Return when there is work again, on the monotonic clock."""
        now, wall = self.clock.monotonic(), self.clock.now()
        if self._deleted_queues or self._dead_letterings:
            return now
        # The wall clock may be set at any time, so a wait for one of its times lasts at most a second.
        walls = [min(now + at - wall, now + WALL_CLOCK_CHECK) for at in (self._next_due, self._next_expiry) if at is not None]
        others = [at for at in (self.locks.next_expiry(), self._next_deadline(), self._release_at) if at is not None]
        return min(walls + others, default=None)

    def _do_step(self, tx: Transaction) -> None:
        """Do one step of the work in the background."""
        if self._dead_letterings:
            self.dead_letter_part(tx, self._dead_letterings[0])
        elif self._deleted_queues:
            queue = self._deleted_queues[0]
            if self.store.delete_part(queue):
                self._deleted_queues.remove(queue)
                tx.on_rollback(lambda: self._deleted_queues.insert(0, queue))
        elif self._release_at is not None and self._release_at <= self.clock.monotonic():
            self._release_pages(tx)

    def _release_pages(self, tx: Transaction) -> None:
        """Shrink a mostly unused file in small steps, so that other operations do not wait."""
        self._release_at = None
        if self.store.release_pages():
            self._release_at = self.clock.monotonic() + RELEASE_PAUSE
            # The file becomes shorter only with the checkpoint.
            tx.after_commit(self.store.checkpoint)

    def _do_due_work(self, tx: Transaction) -> None:
        """End expired locks, and do a part of the work on due and expired messages."""
        # An operation that arrived before a lock's expiry is in time, however long it was queued.
        for lock in self.locks.expired(min(tx.arrived, self.clock.monotonic())):
            self.end_lock(tx, lock)
        now = self.clock.now()
        if self._next_due is not None and self._next_due <= now:
            self._activate(tx, now)
        if self._next_expiry is not None and self._next_expiry <= now:
            self._expire(tx, now)

    def schedule(self, tx: Transaction, *, due: float | None = None, expires: float | None = None) -> None:
        """Note when a message becomes due or expires, so that the broker acts then."""
        before = self._next_due, self._next_expiry
        if due is not None and (before[0] is None or due < before[0]):
            self._next_due = due
        if expires is not None and (before[1] is None or expires < before[1]):
            self._next_expiry = expires
        if (self._next_due, self._next_expiry) != before:
            following = self._next_event()
            if following is not None:
                self.thread.act_at(following)

    def schedule_expiries(self, tx: Transaction) -> None:
        """Note that unsettled messages returned to the session. They may have expired in the meantime."""
        self.schedule(tx, expires=self.store.next_expiry(0.0))

    def _restore_times(self, tx: Transaction) -> None:
        before = self._next_due, self._next_expiry

        def restore() -> None:
            self._next_due, self._next_expiry = before

        tx.on_rollback(restore)

    def _activate(self, tx: Transaction, now: float) -> None:
        self._restore_times(tx)
        by_id = {queue.id: queue for queue in self.queues.values()}
        sessions: dict[int, SessionKey] = {}
        for key, session, name in self.store.due(now, STEP_ROWS):
            queue = by_id.get(key >> SEQUENCE_BITS)
            if queue is None:
                continue
            self.store.activate(key, queue.next_key(), now)
            self.store.set_next_sequence(queue.id, queue.next_sequence)
            sessions[session] = (queue.id, name)
        self.store.update_sessions(sessions)
        for session_key in sessions.values():
            self.notify_waiters(tx, session_key)
        self._next_due = self.store.next_due()
        self._next_expiry = self.store.next_expiry(0.0)

    def _expire(self, tx: Transaction, now: float) -> None:
        self._restore_times(tx)
        held = {message.key for lock in self.locks for message in lock.tokens.values()}
        # An unsettled message expires when it returns to the session.
        found = ((key, session, size) for key, session, size in self.store.expired(now) if key not in held)
        part = within_step(itertools.islice(found, STEP_ROWS), lambda row: row[2])
        self.remove_expired([key for key, _, _ in part])
        self.store.update_sessions({session for _, session, _ in part})
        more = len(part) == STEP_ROWS or sum(size for *_, size in part) > STEP_BYTES // 2
        self._next_expiry = now if more else self.store.next_expiry(now)

    def remove_expired(self, keys: Iterable[int]) -> None:
        """Delete or dead-letter expired messages, as the settings of their queues say."""
        by_id = {queue.id: queue for queue in self.queues.values()}
        dead: list[int] = []
        dropped: list[int] = []
        for key in keys:
            queue = by_id.get(key >> SEQUENCE_BITS)
            (dead if queue is not None and queue.settings.dead_letter_on_expiration else dropped).append(key)
        self.store.dead_letter([(TTL_EXPIRED, "The message's time to live ended.", key) for key in dead])
        self.store.delete_messages(dropped)

    # Work in steps

    def begin_dead_lettering(self, tx: Transaction, queue: Queue, session: int, reason: str, description: str | None) -> int:
        """Dead-letter a session. Return the number of messages; the broker's thread moves them in steps."""
        count = self.store.begin_dead_lettering(queue.id, session, reason, description)
        if count:
            entry = (queue.id, session)
            self._dead_letterings.append(entry)
            tx.on_rollback(lambda: self._dead_letterings.remove(entry))
            if not self.dead_letter_part(tx, entry):
                self.thread.act_at(self.clock.monotonic())
        return count

    def dead_letter_part(self, tx: Transaction, entry: tuple[int, int]) -> bool:
        """Move some messages of a dead-lettered session. Return whether all are moved."""
        if not self.store.dead_letter_part(entry[1]):
            return False
        self._dead_letterings.remove(entry)
        tx.on_rollback(lambda: self._dead_letterings.append(entry))
        return True

    def continue_dead_lettering(self, tx: Transaction, queue: Queue, session_id: str | None = None) -> bool:
        """Do a step if a session is being dead-lettered: this one, or any session of the queue.

        Returns:
            Whether the caller must wait, by running again. Nobody may see a session that is dead-lettered in part.
        """
        busy = [entry for entry in self._dead_letterings if entry[0] == queue.id]
        if busy and session_id is not None:
            found = self.store.session(queue.id, session_id)
            busy = [entry for entry in busy if found is not None and entry[1] == found[0]]
        return bool(busy) and not (self.dead_letter_part(tx, busy[0]) and len(busy) == 1)

    def delete_queue(self, tx: Transaction, queue: Queue) -> None:
        """Remove a queue and its locks. The broker's thread deletes its messages in steps."""
        self.store.hide_queue(queue.id)
        del self.queues[queue.name]
        self._deleted_queues.append(queue.id)

        def restore() -> None:
            self.queues[queue.name] = queue
            self._deleted_queues.remove(queue.id)

        tx.on_rollback(restore)
        for lock in self.locks:
            if lock.key[0] == queue.id:
                self.locks.end(tx, lock)
        tx.after_commit(queue.acceptors.wake_all)
        self.thread.act_at(self.clock.monotonic())

    # Queues, sessions, locks

    def queue(self, tx: Transaction, entity: str) -> Queue:
        """Return a queue. Create a missing queue if the broker has `auto_create`."""
        queue = self.queues.get(entity)
        if queue is None:
            if not self.auto_create:
                raise QueueNotFoundError(f"there is no queue {entity!r}")
            queue = self.add_queue(tx, entity, QueueSettings())
        return queue

    def add_queue(self, tx: Transaction, entity: str, settings: QueueSettings) -> Queue:
        queue = Queue(self.store.add_queue(entity, attrs.asdict(settings)), entity, settings, 1)
        self.queues[entity] = queue
        tx.on_rollback(lambda: self.queues.pop(entity, None))
        return queue

    def take_lock(self, tx: Transaction, queue: Queue, session_id: str, lock_id: str) -> SessionLock:
        """Take the lock of a free session."""
        expires = self.clock.monotonic() + queue.settings.lock_duration
        lock = self.locks.take(tx, (queue.id, session_id), lock_id, expires)
        self.store.set_locked(queue.id, session_id, True)
        self.thread.act_at(expires)
        return lock

    def extend_lock(self, queue: Queue, lock: SessionLock) -> None:
        """Renew a lock: it expires after the queue's lock duration."""
        expires = self.clock.monotonic() + queue.settings.lock_duration
        self.locks.extend(lock, expires)
        self.thread.act_at(expires)

    def end_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """End a lock. Its unsettled messages return to their places, and a waiting accept gets the session."""
        self.locks.end(tx, lock)
        self.store.set_locked(*lock.key, False)
        if lock.tokens:
            self.schedule_expiries(tx)
        self.notify_waiters(tx, lock.key)

    def undo_take_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo `take_lock` for a lock without unsettled messages. A waiting accept gets the session."""
        self.locks.undo_take(tx, lock)
        self.store.set_locked(*lock.key, False)
        self.notify_waiters(tx, lock.key)

    def notify_waiters(self, tx: Transaction, key: SessionKey) -> None:
        """Wake the receives that wait in this session. If it is free and has messages, wake an accept."""
        lock = self.locks.get(key)
        if lock is not None:
            tx.after_commit(lock.wake_waiters)
            return
        found = self.store.session(*key)
        if found is not None and found[1] is not None:
            queue = next((queue for queue in self.queues.values() if queue.id == key[0]), None)
            if queue is not None:
                tx.after_commit(queue.acceptors.wake_next)

    def held_lock(self, queue: Queue, session_id: str, lock_id: str) -> SessionLock | None:
        """Return this holder's lock of the session; `None` for the shared holder of the plain dialect if the session is free.

        Raises:
            SessionNotFoundError: The holder lost the lock, or never had it.
            SessionLockedError: Another holder has the lock.
        """
        key = (queue.id, session_id)
        lock = self.locks.get(key)
        if lock is not None and lock.holder == lock_id:
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

    def hand_out(self, lock: SessionLock, row: Row, *, deferred: bool, expires_at: datetime) -> ReceivedMessage:
        """Deliver a message to the holder of a lock, with a new lock token."""
        token = new_token(row.key)
        in_hand = lock.tokens[token] = LockedMessage(row.key, row.count + 1, deferred, len(row.body))
        return self.received(lock, row, token, in_hand, expires_at)

    def received(
        self, lock: SessionLock, row: Row, token: str, in_hand: LockedMessage, expires_at: datetime
    ) -> ReceivedMessage:
        """Return a delivered message."""
        return ReceivedMessage(
            **message_fields(row, lock.key[1]),
            delivery_count=in_hand.count,
            receipt=ReceiptHandle(token, expires_at),
            delivered_at=to_datetime(self.clock.now()),
        )

    def lock_expiry(self, lock: SessionLock) -> datetime:
        """Return when a lock expires."""
        left = lock.expires - self.clock.monotonic()
        return to_datetime(self.clock.now() + left)


def closed_error() -> ProviderError:
    return ProviderError("the broker is closed", code=SERVER_BUSY, is_transient=True)


def lost_error() -> SessionNotFoundError:
    return SessionNotFoundError("the session's lock is lost, or was never taken", code=SESSION_LOCK_LOST)


def new_token(key: int) -> str:
    """Return a lock token: a GUID made of the message's sequence number and 88 random bits."""
    number = (key & SEQUENCE_MASK) << 88 | secrets.randbits(88)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def token_key(queue_id: int, token: str) -> int | None:
    """Return the key of a lock token's message, or `None` if the text is not a lock token of this broker."""
    digits = token.replace("-", "")
    if len(token) != 36 or len(digits) != 32:
        return None
    try:
        return message_key(queue_id, int(digits, 16) >> 88)
    except ValueError:
        return None
