"""What the parts of the embedded broker share: the store, the locks, the queues, the turns, and what time brings.

`Receiving`, `Settling` and `EmbeddedBroker`, which puts them together, do their work on one `Core`.
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
from .group_commit import Turn, Turns
from .rows import message_fields
from .session_locks import Acceptors, InHand, Locks, SessionKey, SessionLock
from .store import (
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Row,
    Store,
    message_key,
)
from .timer_thread import Timer

T = TypeVar("T")

#: Scheduled and expired messages handled in one turn, so that others get theirs.
TICK_LIMIT = 500
#: Seconds after which it is looked whether the file has become mostly free, and between two steps of making it smaller.
RELEASE_AFTER = 60.0
RELEASE_PAUSE = 0.1
#: Accepts of one queue whose answers can be given again, while the locks last that they gave.
MAX_ACCEPTS = 4096

TTL_EXPIRED = "TTLExpiredException"
MAX_DELIVERY_EXCEEDED = "MaxDeliveryCountExceeded"


@attrs.define(eq=False)
class Queue:
    """A queue, in memory: its settings, its next sequence number, and who waits for its next session."""

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
    """The state of an embedded broker. Everything but `perform` and `close` is for jobs, in their turn."""

    def __init__(self, path: Path | None, *, auto_create: bool, clock: Clock) -> None:
        self.clock = clock
        self.auto_create = auto_create
        self.stopping = False
        self.connection: sqlite3.Connection = open_database(path)
        self.store: Store = Store(self.connection)
        self.turns: Turns = Turns(self.connection)
        self.locks: Locks = Locks()
        self.queues: dict[str, Queue] = {}
        try:
            for number, name, settings, following in self.store.queues():
                self.queues[name] = Queue(number, name, QueueSettings(**settings), following)
            self._next_due = self.store.next_due()
            self._next_expiry = self.store.next_expiry(0.0)
        except (sqlite3.Error, TypeError, ValueError) as error:
            self.connection.close()
            raise ConfigurationError(f"the data file {path} is damaged ({error}); it was left as it is") from error
        self._timer = Timer(self._on_time, clock)
        self._closing = threading.Lock()  # Guards _closed.
        self._closed = False
        self._release_at: float | None = None
        self._pid = os.getpid()
        forks.register(self)
        if self._next_due is not None or self._next_expiry is not None:
            self._timer.set(clock.monotonic())

    # Turns

    def perform(self, work: Callable[[Turn], T], *, durable: bool = False) -> T:
        """Run a job in its turn, after what time has brought meanwhile."""

        def job(turn: Turn) -> T:
            if self._closed:
                raise ProviderError("the broker is closed", code=SERVER_BUSY, is_transient=True)
            self._tick(turn)
            if durable and self._release_at is None:
                # Messages may have gone.
                self._release_at = self.clock.monotonic() + RELEASE_AFTER
                self._timer.set(self._release_at)
            return work(turn)

        self._check_process()
        return self.turns.run(job, durable=durable)

    def tidy(self, work: Callable[[Turn], object]) -> None:
        """Run a job that touches memory only, also while the file fails; without effect on a closed broker."""
        with suppress(QueueError):
            self.turns.run(work, durable=False)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ProviderError("this broker belongs to the process that opened it, not to one forked from it")

    def after_fork(self) -> None:
        """In a forked child: keep the connection for ever, the end of the interpreter included.

        SQLite takes a process's last connection for the file's last: closing this one would delete the log that the
        parent writes to.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))

    def stop_waiting(self) -> None:
        """End every wait, and let no new one begin. Idempotent, also after `close`."""
        if self.stopping:
            return

        def stop(turn: Turn) -> None:
            self.stopping = True
            for lock in self.locks:
                lock.wake_waiters()
            for queue in self.queues.values():
                queue.acceptors.wake_all()

        self._check_process()
        self.turns.run(stop, durable=False)

    def close(self) -> None:
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.stop_waiting()
        self._timer.stop()
        self.turns.close()

    def _on_time(self) -> float | None:
        """Do what is due, for the timer; return when to look again, on the monotonic clock."""
        try:
            if self._release_at is not None and self._release_at <= self.clock.monotonic():
                self.perform(self._release_pages)
            return self.perform(lambda turn: self._next_event())
        except QueueError:
            return None if self._closed else self.clock.monotonic() + 1.0

    def _next_event(self) -> float | None:
        to_monotonic = self.clock.monotonic() - self.clock.now()
        walls = [at + to_monotonic for at in (self._next_due, self._next_expiry) if at is not None]
        others = [at for at in (self.locks.next_expiry(), self._release_at) if at is not None]
        return min(walls + others, default=None)

    def _release_pages(self, turn: Turn) -> None:
        """Make a file smaller that is mostly free: a bit at a time, so that nobody waits for it."""
        self._release_at = None
        if self.store.release_pages():
            self._release_at = self.clock.monotonic() + RELEASE_PAUSE
            # Until then the file keeps its length.
            turn.after_commit(self.store.checkpoint)

    # Time

    def _tick(self, turn: Turn) -> None:
        for lock in self.locks.expired(self.clock.monotonic()):
            self.end_lock(turn, lock)
        now = self.clock.now()
        if self._next_due is not None and self._next_due <= now:
            self._activate(turn, now)
        if self._next_expiry is not None and self._next_expiry <= now:
            self._expire(turn, now)

    def expect(self, turn: Turn, *, due: float | None = None, expires: float | None = None) -> None:
        """Note an instant at which a message becomes visible, or expires."""
        before = self._next_due, self._next_expiry
        if due is not None and (before[0] is None or due < before[0]):
            self._next_due = due
        if expires is not None and (before[1] is None or expires < before[1]):
            self._next_expiry = expires
        if (self._next_due, self._next_expiry) != before:
            first = min(at for at in (self._next_due, self._next_expiry) if at is not None)
            self._timer.set(first - self.clock.now() + self.clock.monotonic())

    def expect_expiries(self, turn: Turn) -> None:
        """Note that messages came back from a holder, which may have expired there."""
        self.expect(turn, expires=self.store.next_expiry(0.0))

    def _restore_times(self, turn: Turn) -> None:
        before = self._next_due, self._next_expiry

        def restore() -> None:
            self._next_due, self._next_expiry = before

        turn.on_rollback(restore)

    def _activate(self, turn: Turn, now: float) -> None:
        self._restore_times(turn)
        by_id = {queue.id: queue for queue in self.queues.values()}
        sessions: dict[int, SessionKey] = {}
        for key, session, name in self.store.due(now, TICK_LIMIT):
            queue = by_id[key >> SEQUENCE_BITS]
            self.store.activate(key, queue.next_key(), now)
            self.store.set_next_sequence(queue.id, queue.next_sequence)
            sessions[session] = (queue.id, name)
        self.store.refresh_sessions(sessions)
        for session_key in sessions.values():
            self.offer(turn, session_key)
        self._next_due = self.store.next_due()
        self._next_expiry = self.store.next_expiry(0.0)

    def _expire(self, turn: Turn, now: float) -> None:
        self._restore_times(turn)
        held = {message.key for lock in self.locks for message in lock.tokens.values()}
        limit = TICK_LIMIT + len(held)
        expired = self.store.expired(now, limit)
        # What is in a holder's hands expires when it comes back.
        over = [(key, session) for key, session in expired if key not in held]
        self.bury_expired([key for key, _ in over])
        self.store.refresh_sessions({session for _, session in over})
        self._next_expiry = now if len(expired) == limit else self.store.next_expiry(now)

    def bury_expired(self, keys: Iterable[int]) -> None:
        """Drop or dead-letter messages whose time to live ended, as their queues say."""
        by_id = {queue.id: queue for queue in self.queues.values()}
        dead: list[int] = []
        dropped: list[int] = []
        for key in keys:
            settings = by_id[key >> SEQUENCE_BITS].settings
            (dead if settings.dead_letter_on_expiration else dropped).append(key)
        self.store.dead_letter([(TTL_EXPIRED, "The message's time to live ended.", key) for key in dead])
        self.store.delete_messages(dropped)

    # Queues, sessions, locks

    def queue(self, turn: Turn, entity: str) -> Queue:
        """Return a queue, making it if the broker was told to."""
        queue = self.queues.get(entity)
        if queue is None:
            if not self.auto_create:
                raise QueueNotFoundError(f"there is no queue {entity!r}")
            queue = self.add_queue(turn, entity, QueueSettings())
        return queue

    def add_queue(self, turn: Turn, entity: str, settings: QueueSettings) -> Queue:
        queue = Queue(self.store.add_queue(entity, attrs.asdict(settings)), entity, settings, 1)
        self.queues[entity] = queue
        turn.on_rollback(lambda: self.queues.pop(entity, None))
        return queue

    def take_lock(self, turn: Turn, queue: Queue, session_id: str, lock_id: str) -> SessionLock:
        """Lock a free session."""
        expires = self.clock.monotonic() + queue.settings.lock_duration
        lock = self.locks.take(turn, (queue.id, session_id), lock_id, expires)
        self._timer.set(expires)
        return lock

    def extend_lock(self, queue: Queue, lock: SessionLock) -> None:
        """Set a lock's expiry to now + the queue's lock duration."""
        expires = self.clock.monotonic() + queue.settings.lock_duration
        self.locks.extend(lock, expires)
        self._timer.set(expires)

    def end_lock(self, turn: Turn, lock: SessionLock) -> None:
        """End a lock: what was in hand is back in its place, and the session goes to whoever waits for one."""
        self.locks.end(turn, lock)
        if lock.tokens:
            self.expect_expiries(turn)
        self.offer(turn, lock.key)

    def untake_lock(self, turn: Turn, lock: SessionLock) -> None:
        """Take back that a lock was just taken, with nothing in hand yet; the session goes to whoever waits for one."""
        self.locks.untake(turn, lock)
        self.offer(turn, lock.key)

    def offer(self, turn: Turn, key: SessionKey) -> None:
        """Wake whoever waits for this session, or for any, if it has messages."""
        lock = self.locks.get(key)
        if lock is not None:
            turn.after_commit(lock.wake_waiters)
            return
        found = self.store.session(*key)
        if found is not None and found[1] is not None:
            queue = next((queue for queue in self.queues.values() if queue.id == key[0]), None)
            if queue is not None:
                turn.after_commit(queue.acceptors.wake_next)

    def held_lock(self, queue: Queue, session_id: str, lock_id: str) -> SessionLock | None:
        """Return the lock that this holder has on the session; `None` for a plain caller of a free session.

        Raises:
            SessionNotFoundError: It lost the lock, or never had it.
            SessionLockedError: Another one has it.
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
        """Put a message into a holder's hands, under a new lock token."""
        token = new_token(row.key)
        in_hand = lock.tokens[token] = InHand(row.key, row.count + 1, deferred)
        return self.received(lock, row, token, in_hand, expires_at)

    def received(self, lock: SessionLock, row: Row, token: str, in_hand: InHand, expires_at: datetime) -> ReceivedMessage:
        """Return a message that is in its holder's hands."""
        return ReceivedMessage(
            **message_fields(row, lock.key[1]),
            delivery_count=in_hand.count,
            receipt=ReceiptHandle(token, expires_at),
            delivered_at=datetime.fromtimestamp(self.clock.now(), timezone.utc),
        )

    def lock_expiry(self, lock: SessionLock) -> datetime:
        """Return when a lock ends, as a date."""
        left = lock.expires - self.clock.monotonic()
        return datetime.fromtimestamp(self.clock.now() + left, timezone.utc)


def lost_error() -> SessionNotFoundError:
    return SessionNotFoundError("the session's lock is lost, or was never taken", code=SESSION_LOCK_LOST)


def new_token(key: int) -> str:
    """Return a lock token: a GUID that holds the message's sequence number and 88 random bits."""
    number = (key & SEQUENCE_MASK) << 88 | secrets.randbits(88)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def token_key(queue_id: int, token: str) -> int | None:
    """Return the key of the message that a lock token is for, or `None` where it is no token of this broker's."""
    digits = token.replace("-", "")
    if len(token) != 36 or len(digits) != 32:
        return None
    try:
        return message_key(queue_id, int(digits, 16) >> 88)
    except ValueError:
        return None
