"""The state of an embedded broker: its store, queues and session locks, and the work that becomes due with time.

`EmbeddedBroker`, `Receiving` and `Settling` share one `Core`.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timezone
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
from ..clock import Clock
from .database_file import open_database
from .group_commit import GroupCommit, Transaction
from .rows import message_fields
from .session_locks import Acceptors, LockedMessage, SessionKey, SessionLock, SessionLocks
from .store import (
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Row,
    Store,
    message_key,
)
from .timer_thread import Timer

T = TypeVar("T")

#: Scheduled or expired messages that one transaction processes. It bounds how long other operations wait.
TICK_LIMIT = 500
#: Seconds from a write to the check whether the file is mostly unused, and seconds between two steps of shrinking it.
RELEASE_AFTER = 60.0
RELEASE_PAUSE = 0.1
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
    accepts: OrderedDict[str, SessionLock] = attrs.field(factory=OrderedDict)
    clear_out_at: int = 64

    def next_key(self) -> int:
        key = message_key(self.id, self.next_sequence)
        self.next_sequence += 1
        return key


class Core:
    """The state of an embedded broker.

    Only jobs may use it. Any thread may call `perform`, `run_in_memory`, `stop_waiting` and `close`.
    """

    def __init__(self, path: Path | None, *, auto_create: bool, clock: Clock) -> None:
        self.clock = clock
        self.auto_create = auto_create
        self.stopping = False
        self.connection: sqlite3.Connection = open_database(path)
        self.store: Store = Store(self.connection)
        self.commits: GroupCommit = GroupCommit(self.connection)
        self.locks: SessionLocks = SessionLocks()
        self.queues: dict[str, Queue] = {}
        try:
            for number, name, settings, following in self.store.queues():
                self.queues[name] = Queue(number, name, QueueSettings(**settings), following)
            self._next_due = self.store.next_due()
            self._next_expiry = self.store.next_expiry(0.0)
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.connection.close()
            raise ConfigurationError(f"the data file {path} is damaged ({error}); it was not changed") from error
        self._timer = Timer(self._on_time, clock)
        self._closing = threading.Lock()  # Guards _closed.
        self._closed = False
        self._release_at: float | None = None
        self._pid = os.getpid()
        forks.register(self)
        if self._next_due is not None or self._next_expiry is not None:
            self._timer.set(clock.monotonic())

    # Jobs

    def perform(self, work: Callable[[Transaction], T], *, durable: bool = False) -> T:
        """Run a job, after the work that has become due. Blocks until its commit.

        Args:
            work: The job; see `GroupCommit.run`.
            durable: Whether the commit must be on disk.

        Raises:
            ProviderError: The broker is closed, this is a forked child, or the data file failed.
        """

        def job(tx: Transaction) -> T:
            if self._closed:
                raise ProviderError("the broker is closed", code=SERVER_BUSY, is_transient=True)
            self._tick(tx)
            if durable and self._release_at is None:
                # The job may delete messages, after which the file may be mostly unused.
                self._release_at = self.clock.monotonic() + RELEASE_AFTER
                self._timer.set(self._release_at)
            return work(tx)

        self._check_process()
        return self.commits.run(job, durable=durable)

    def run_in_memory(self, work: Callable[[Transaction], object]) -> None:
        """Run a job that changes memory only. It works while the data file fails. On a closed broker it has no effect."""
        with suppress(QueueError):
            self.commits.run(work, durable=False)

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
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.stop_waiting()
        self._timer.stop()
        self.commits.close()

    def _on_time(self) -> float | None:
        """Process due work for the timer. Return the time of the next call on the monotonic clock."""
        try:
            if self._release_at is not None and self._release_at <= self.clock.monotonic():
                self.perform(self._release_pages)
            return self.perform(lambda tx: self._next_event())
        except QueueError:
            return None if self._closed else self.clock.monotonic() + 1.0

    def _next_event(self) -> float | None:
        to_monotonic = self.clock.monotonic() - self.clock.now()
        walls = [at + to_monotonic for at in (self._next_due, self._next_expiry) if at is not None]
        others = [at for at in (self.locks.next_expiry(), self._release_at) if at is not None]
        return min(walls + others, default=None)

    def _release_pages(self, tx: Transaction) -> None:
        """Shrink a mostly unused file in small steps, so that other operations do not wait."""
        self._release_at = None
        if self.store.release_pages():
            self._release_at = self.clock.monotonic() + RELEASE_PAUSE
            # The file becomes shorter only with the checkpoint.
            tx.after_commit(self.store.checkpoint)

    # Due work

    def _tick(self, tx: Transaction) -> None:
        for lock in self.locks.expired(self.clock.monotonic()):
            self.end_lock(tx, lock)
        now = self.clock.now()
        if self._next_due is not None and self._next_due <= now:
            self._activate(tx, now)
        if self._next_expiry is not None and self._next_expiry <= now:
            self._expire(tx, now)

    def schedule(self, tx: Transaction, *, due: float | None = None, expires: float | None = None) -> None:
        """Note when a message becomes due or expires, so that the timer acts then."""
        before = self._next_due, self._next_expiry
        if due is not None and (before[0] is None or due < before[0]):
            self._next_due = due
        if expires is not None and (before[1] is None or expires < before[1]):
            self._next_expiry = expires
        if (self._next_due, self._next_expiry) != before:
            first = min(at for at in (self._next_due, self._next_expiry) if at is not None)
            self._timer.set(first - self.clock.now() + self.clock.monotonic())

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
        for key, session, name in self.store.due(now, TICK_LIMIT):
            queue = by_id[key >> SEQUENCE_BITS]
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
        limit = TICK_LIMIT + len(held)
        expired = self.store.expired(now, limit)
        # An unsettled message expires when it returns to the session.
        over = [(key, session) for key, session in expired if key not in held]
        self.remove_expired([key for key, _ in over])
        self.store.update_sessions({session for _, session in over})
        self._next_expiry = now if len(expired) == limit else self.store.next_expiry(now)

    def remove_expired(self, keys: Iterable[int]) -> None:
        """Delete or dead-letter expired messages, as the settings of their queues say."""
        by_id = {queue.id: queue for queue in self.queues.values()}
        dead: list[int] = []
        dropped: list[int] = []
        for key in keys:
            settings = by_id[key >> SEQUENCE_BITS].settings
            (dead if settings.dead_letter_on_expiration else dropped).append(key)
        self.store.dead_letter([(TTL_EXPIRED, "The message's time to live ended.", key) for key in dead])
        self.store.delete_messages(dropped)

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
        self._timer.set(expires)
        return lock

    def extend_lock(self, queue: Queue, lock: SessionLock) -> None:
        """Renew a lock: it expires after the queue's lock duration."""
        expires = self.clock.monotonic() + queue.settings.lock_duration
        self.locks.extend(lock, expires)
        self._timer.set(expires)

    def end_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """End a lock. Its unsettled messages return to their places, and a waiting accept gets the session."""
        self.locks.end(tx, lock)
        if lock.tokens:
            self.schedule_expiries(tx)
        self.notify_waiters(tx, lock.key)

    def undo_take_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo `take_lock` for a lock without unsettled messages. A waiting accept gets the session."""
        self.locks.undo_take(tx, lock)
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
        until = datetime.fromtimestamp(self.clock.now() + left, timezone.utc)
        return SessionLockedError("another holder has this session", locked_until=until, retry_after=left)

    # Messages

    def hand_out(self, lock: SessionLock, row: Row, *, deferred: bool, expires_at: datetime) -> ReceivedMessage:
        """Deliver a message to the holder of a lock, with a new lock token."""
        token = new_token(row.key)
        in_hand = lock.tokens[token] = LockedMessage(row.key, row.count + 1, deferred)
        return self.received(lock, row, token, in_hand, expires_at)

    def received(
        self, lock: SessionLock, row: Row, token: str, in_hand: LockedMessage, expires_at: datetime
    ) -> ReceivedMessage:
        """Return a delivered message."""
        return ReceivedMessage(
            **message_fields(row, lock.key[1]),
            delivery_count=in_hand.count,
            receipt=ReceiptHandle(token, expires_at),
            delivered_at=datetime.fromtimestamp(self.clock.now(), timezone.utc),
        )

    def lock_expiry(self, lock: SessionLock) -> datetime:
        """Return when a lock expires."""
        left = lock.expires - self.clock.monotonic()
        return datetime.fromtimestamp(self.clock.now() + left, timezone.utc)


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
