"""The session locks of the embedded broker: the holders, their unsettled messages, and the waiting receives and accepts.

The broker's jobs use them, one job at a time. Locks live in memory only: a restart ends all of them.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import attrs

from .jobs import Job, Transaction

#: How many lost lock ids are remembered, to answer late holders that their lock is lost.
MAX_LOST = 50_000
#: How many refused lock ids are remembered: ids that were released without holding the session.
MAX_REFUSED = 10_000
#: How many receives of one lock can be repeated. It bounds the concurrent receives of one holder.
MAX_ANSWERS = 32
#: How many receives without messages of one lock are remembered.
MAX_EMPTY = 64

SessionKey = tuple[int, str]


@attrs.define(eq=False)
class LockedMessage:
    """A message that the holder of a session received and has not settled.

    Attributes:
        key: The message's key.
        count: Its delivery count.
        deferred: Whether it was received as a deferred message.
        ahead: Whether it was fetched ahead and its holder does not use it yet. Its delivery is not counted then.
        size: The size of its body in bytes.
        answers: How many answers contain it. A repeated receive returns it again.
    """

    key: int
    count: int
    deferred: bool
    size: int
    ahead: bool = False
    answers: int = 1

    @property
    def count_before(self) -> int:
        """The delivery count without this delivery."""
        return self.count - 1

    def take(self, tx: Transaction) -> None:
        """Note that the holder uses the message, unless the transaction fails."""
        tx.on_rollback(lambda: setattr(self, "ahead", True))
        self.ahead = False

    def count_answers(self, tx: Transaction, change: int) -> None:
        """Change `answers`, unless the transaction fails."""
        before = self.answers
        tx.on_rollback(lambda: setattr(self, "answers", before))
        self.answers += change


class Waiter:
    """A receive or accept that may wait.

    Args:
        request_id: The request id, or ``""``.
        deadline: When the wait ends, on the monotonic clock.
        requeue: Runs a job again.
        leave: Called when the operation ends without a result, for example because it is withdrawn. It must not block.

    Attributes:
        request_id: The request id, or ``""``.
        deadline: When the wait ends, on the monotonic clock.
        job: The job that tries to finish the operation, until its future is done. `wake` runs it again.
        waits: Whether it is registered as waiting.
        superseded: Whether a later attempt of the same request has replaced it.
        woken: Whether it was woken since its last attempt.
    """

    __slots__ = ("_leave", "_requeue", "deadline", "job", "request_id", "superseded", "waits", "woken")

    def __init__(
        self, request_id: str, deadline: float, requeue: Callable[[Job[Any]], None], leave: Callable[[], None]
    ) -> None:
        self.request_id: str = request_id
        self.deadline: float = deadline
        self.job: Job[Any] | None = None
        self.waits: bool = False
        self.superseded: bool = False
        self.woken: bool = False
        self._requeue = requeue
        self._leave = leave

    def attach(self, job: Job[Any]) -> None:
        """Set the job. It is forgotten when it is done: the waiter may stay referenced, and must not keep messages."""
        self.job = job
        job.future.add_done_callback(self._on_done)

    def _on_done(self, future: Future[Any]) -> None:
        self.job = None
        # A withdrawn operation may register as waiting at this moment, because its job runs.
        if future.cancelled() or (self.waits and future.exception() is not None):
            self._leave()

    @property
    def is_done(self) -> bool:
        """Whether the operation has ended."""
        return self.job is None

    def wake(self) -> None:
        """Try again. Any thread may call this, any number of times."""
        self.woken = True
        job = self.job
        if job is not None:
            self._requeue(job)


@attrs.define(eq=False)
class SessionLock:
    """The lock of one session, until it expires or is released.

    Attributes:
        key: The queue's id and the session id.
        holder: The lock id; ``""`` is the shared holder of the plain dialect.
        expires: When the lock expires, on the monotonic clock. A lock with waiting receives does not expire.
        cursor: The key of the last delivered message.
        returned: Keys of abandoned messages before the cursor, in order. They are delivered next.
        expired_through: The messages up to this key have expired with their session. -1: none.
        tokens: The unsettled messages, by lock token.
        accepts: How many answers to the accept that took the lock contain it. A repeated accept returns it again.
        answers: The lock tokens that the latest receives returned, by request id.
        empty: The request ids of the latest receives that returned nothing. They do not displace `answers`.
        client: Who holds the lock, for people; ``""`` if the client did not say.
        dead_lettered: How many messages the latest dead-lettering of the session moved, by request id.
        waiters: The waiting receives.
        confirmed: Whether the holder knows, from the result of an operation, that it has the lock.
        queued: Whether the heap of expiries has an entry for the lock.
    """

    key: SessionKey
    holder: str
    expires: float
    cursor: int = -1
    accepts: int = 0
    expired_through: int = -1
    returned: list[int] = attrs.field(factory=list)
    tokens: dict[str, LockedMessage] = attrs.field(factory=dict)
    answers: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    empty: deque[str] = attrs.field(factory=lambda: deque(maxlen=MAX_EMPTY))
    dead_lettered: dict[str, int] = attrs.field(factory=dict)
    waiters: list[Waiter] = attrs.field(factory=list)
    confirmed: bool = False
    queued: bool = True
    client: str = ""

    def save_for_rollback(self, tx: Transaction) -> None:
        """Restore the lock's present state if the transaction fails."""
        if not tx.first_touch(self):
            return
        expires, cursor, dead_lettered, through = self.expires, self.cursor, self.dead_lettered, self.expired_through
        returned, tokens, answers = list(self.returned), self.tokens.copy(), self.answers.copy()

        def restore() -> None:
            self.expires, self.cursor, self.dead_lettered, self.expired_through = expires, cursor, dead_lettered, through
            self.returned, self.tokens, self.answers = returned, tokens, answers

        tx.on_rollback(restore)

    def count_accepts(self, tx: Transaction, change: int) -> None:
        """Change `accepts`, unless the transaction fails."""
        before = self.accepts
        tx.on_rollback(lambda: setattr(self, "accepts", before))
        self.accepts += change

    def first_ahead(self) -> LockedMessage | None:
        """Return the first message that was fetched ahead, unless the holder uses another unsettled message."""
        first = None
        for message in self.tokens.values():
            if not message.ahead:
                return None
            if first is None or message.key < first.key:
                first = message
        return first

    def give_back(self, key: int) -> None:
        """Put a message back in its place."""
        insort(self.returned, key)

    def remember(self, request_id: str, tokens: tuple[str, ...]) -> None:
        """Remember the lock tokens that a receive returned."""
        if request_id:
            self.answers[request_id] = tokens
            while len(self.answers) > MAX_ANSWERS:
                del self.answers[next(iter(self.answers))]

    def remember_empty(self, request_id: str) -> None:
        """Remember that a receive returned nothing. An earlier attempt of it that comes late must take no message."""
        if request_id and request_id not in self.empty:
            self.empty.append(request_id)

    def forget_answers(self, tokens: Collection[str]) -> None:
        """Forget the receives that returned only these lock tokens, because their callers did not get the messages."""
        for request_id, answer in list(self.answers.items()):
            if answer and all(token in tokens for token in answer):
                del self.answers[request_id]

    def has_expired(self, now: float) -> bool:
        """Return whether the lock has expired."""
        return self.expires <= now and not self.waiters

    def wake_waiters(self) -> None:
        """Let the waiting receives try again."""
        for waiter in self.waiters:
            waiter.wake()


class SessionLocks:
    """All session locks of a broker."""

    def __init__(self) -> None:
        self._locks: dict[SessionKey, SessionLock] = {}
        #: The ids of the locked sessions, by queue.
        self._names: dict[int, set[str]] = {}
        self._lost: OrderedDict[tuple[SessionKey, str], None] = OrderedDict()
        self._refused: OrderedDict[tuple[SessionKey, str], None] = OrderedDict()
        self._expiries: list[tuple[float, int, SessionLock]] = []
        self._tie = itertools.count()

    def get(self, key: SessionKey) -> SessionLock | None:
        """Return the lock of a session, or `None` if the session is free."""
        return self._locks.get(key)

    def __iter__(self) -> Iterator[SessionLock]:
        return iter(list(self._locks.values()))

    def names(self, queue: int) -> Collection[str]:
        """Return the ids of the locked sessions of a queue. The caller does not keep the collection."""
        return self._names.get(queue, frozenset())

    # A signal handler can interrupt the following two. Each can be called again, and undoes also a part of the other one.

    def _add(self, lock: SessionLock) -> None:
        self._names.setdefault(lock.key[0], set()).add(lock.key[1])
        self._locks[lock.key] = lock

    def _remove(self, lock: SessionLock) -> None:
        queue, name = lock.key
        names = self._names.get(queue, set())
        names.discard(name)
        if not names:
            self._names.pop(queue, None)
        self._locks.pop(lock.key, None)

    def take(self, tx: Transaction, key: SessionKey, holder: str, expires: float) -> SessionLock:
        """Lock a free session."""
        lock = SessionLock(key, holder, expires)

        def remove() -> None:
            if self._locks.get(key, lock) is lock:
                self._remove(lock)

        tx.on_rollback(remove)
        self._add(lock)
        heapq.heappush(self._expiries, (expires, next(self._tie), lock))
        return lock

    def end(self, tx: Transaction, lock: SessionLock) -> None:
        """End a lock, and remember its id as lost."""

        def restore() -> None:
            self._restore(lock)
            self._lost.pop((lock.key, lock.holder), None)

        tx.on_rollback(restore)
        tx.after_commit(lock.wake_waiters)
        self._remove(lock)
        if lock.holder:
            _remember(self._lost, (lock.key, lock.holder), MAX_LOST)
        self._drop_stale()

    def undo_take(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo `take`. The lock id is not remembered as lost, so its holder may take the session again."""
        tx.on_rollback(lambda: self._restore(lock))
        self._remove(lock)
        self._drop_stale()

    def _restore(self, lock: SessionLock) -> None:
        self._add(lock)
        lock.queued = True
        heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))

    def _drop_stale(self) -> None:
        """Remove the heap entries of ended locks once they are the majority. Otherwise they stay until they expire."""
        if len(self._expiries) > 2 * len(self._locks) + 64:
            self._expiries = [entry for entry in self._expiries if self._locks.get(entry[2].key) is entry[2]]
            heapq.heapify(self._expiries)

    def extend(self, lock: SessionLock, expires: float) -> None:
        """Set the expiry of a lock."""
        lock.expires = expires
        if not lock.queued:
            lock.queued = True
            heapq.heappush(self._expiries, (expires, next(self._tie), lock))

    def refuse(self, key: SessionKey, holder: str) -> None:
        """Remember that a lock id, which does not hold this session, must not take it.

        For example, a receive of that holder may still be on its way. The shared holder of the plain dialect is exempt.
        """
        if holder:
            _remember(self._refused, (key, holder), MAX_REFUSED)

    def has_ended(self, key: SessionKey, holder: str) -> bool:
        """Return whether this holder lost or released this session."""
        return (key, holder) in self._lost or (key, holder) in self._refused

    def may_have_expired(self, now: float) -> bool:
        """Return whether `expired` could yield a lock. This takes less time, and changes nothing."""
        return bool(self._expiries) and self._expiries[0][0] <= now

    def expired(self, tx: Transaction, now: float) -> Iterator[SessionLock]:
        """Yield the locks that have expired, in order of their expiry. The caller ends them."""
        while self._expiries and self._expiries[0][0] <= now:
            lock = self._expiries[0][2]
            is_current = self._locks.get(lock.key) is lock
            if is_current:
                tx.on_rollback(partial(self._restore, lock))
            heapq.heappop(self._expiries)
            if not is_current:
                continue
            if lock.waiters:
                lock.queued = False
            elif lock.expires > now:
                heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))
            else:
                yield lock

    def next_expiry(self) -> float | None:
        """Return the time of the next expiry, or `None`."""
        while self._expiries:
            expires, _, lock = self._expiries[0]
            if self._locks.get(lock.key) is lock and lock.expires <= expires:
                return expires
            heapq.heappop(self._expiries)
            if self._locks.get(lock.key) is lock:
                heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))
        return None


class Acceptors:
    """The accepts that wait for the next free session of a queue. The first one is served first."""

    def __init__(self) -> None:
        self._waiting: dict[Waiter, None] = {}

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiting))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Add an accept behind the others."""
        self._waiting[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """Remove an accept."""
        self._waiting.pop(waiter, None)

    def wake_next(self) -> None:
        """Wake the longest-waiting accept that was not woken yet, because a session is available."""
        for waiter in self._waiting:
            if not waiter.woken:
                waiter.wake()
                return

    def wake_all(self) -> None:
        """Wake all waiting accepts."""
        for waiter in list(self._waiting):
            waiter.wake()


def _remember(known: OrderedDict[tuple[SessionKey, str], None], entry: tuple[SessionKey, str], limit: int) -> None:
    known[entry] = None
    while len(known) > limit:
        known.popitem(last=False)
