"""The session locks of the embedded broker, in memory: who holds which session until when, what is in the holder's hands,
and who waits. Used by `EmbeddedBroker` in its turn; a restart ends all locks, so nothing here is stored."""

from __future__ import annotations

import heapq
import itertools
import threading
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterator

import attrs

from .group_commit import Turn

#: Ended lock ids that are remembered in all, to tell a late holder that its lock is lost.
MAX_ENDED = 50_000
#: Receives of one lock whose answers can be given again: as many as one holder's threads may have under way.
MAX_ANSWERS = 32

SessionKey = tuple[int, str]


@attrs.define(eq=False)
class InHand:
    """A message in its holder's hands."""

    key: int
    count: int
    deferred: bool


class Waiter:
    """A receive or accept that waits. `wake` may be called by any thread, any number of times."""

    __slots__ = ("_event", "has_waited", "request_id", "superseded", "woken")

    def __init__(self, request_id: str) -> None:
        self.request_id: str = request_id
        self.has_waited: bool = False
        self.superseded: bool = False
        self.woken: bool = False
        self._event = threading.Event()

    def wake(self) -> None:
        self.woken = True
        self._event.set()

    def wait(self, timeout: float) -> None:
        self._event.wait(timeout)
        self._event.clear()


@attrs.define(eq=False)
class SessionLock:
    """One session's lock, from when it was taken until it expired or was released.

    Attributes:
        key: The session.
        holder: The lock id; ``""`` is the plain dialect's one holder.
        expires: When it ends unless renewed, on the monotonic clock. Not while somebody waits.
        cursor: The key of the last message handed out.
        returned: Keys behind the cursor that were abandoned, in order: these come first.
        tokens: The messages in the holder's hands.
        answers: What the latest receives gave, by request id.
        buried: How many messages the latest dead-lettering of the session moved, by its request id.
        waiters: The receives that wait in it.
        queued: Whether its expiry is looked at; not while somebody waits in it beyond that.
    """

    key: SessionKey
    holder: str
    expires: float
    cursor: int = -1
    returned: list[int] = attrs.field(factory=list)
    tokens: dict[str, InHand] = attrs.field(factory=dict)
    answers: OrderedDict[str, tuple[str, ...]] = attrs.field(factory=OrderedDict)
    buried: dict[str, int] = attrs.field(factory=dict)
    waiters: list[Waiter] = attrs.field(factory=list)
    queued: bool = True

    def protect(self, turn: Turn) -> None:
        """Have the lock restored to what it is now, if the transaction fails."""
        if not turn.first_touch(self):
            return
        expires, cursor, buried = self.expires, self.cursor, self.buried
        returned, tokens, answers = list(self.returned), dict(self.tokens), OrderedDict(self.answers)

        def restore() -> None:
            self.expires, self.cursor, self.buried = expires, cursor, buried
            self.returned, self.tokens, self.answers = returned, tokens, answers

        turn.on_rollback(restore)

    def give_back(self, key: int) -> None:
        """Put an abandoned message back into its place."""
        insort(self.returned, key)

    def remember(self, request_id: str, tokens: tuple[str, ...]) -> None:
        """Remember what a receive gave."""
        if request_id:
            self.answers[request_id] = tokens
            while len(self.answers) > MAX_ANSWERS:
                self.answers.popitem(last=False)

    def wake_waiters(self) -> None:
        for waiter in self.waiters:
            waiter.wake()


class Locks:
    """All session locks of a broker."""

    def __init__(self) -> None:
        self._locks: dict[SessionKey, SessionLock] = {}
        self._ended: OrderedDict[tuple[SessionKey, str], None] = OrderedDict()
        self._expiries: list[tuple[float, int, SessionLock]] = []
        self._tie = itertools.count()

    def get(self, key: SessionKey) -> SessionLock | None:
        """Return the lock of a session, if it is held."""
        return self._locks.get(key)

    def __iter__(self) -> Iterator[SessionLock]:
        return iter(list(self._locks.values()))

    def take(self, turn: Turn, key: SessionKey, holder: str, expires: float) -> SessionLock:
        """Lock a free session."""
        lock = SessionLock(key, holder, expires)
        self._locks[key] = lock
        heapq.heappush(self._expiries, (expires, next(self._tie), lock))

        def untake() -> None:
            if self._locks.get(key) is lock:
                del self._locks[key]

        turn.on_rollback(untake)
        return lock

    def end(self, turn: Turn, lock: SessionLock) -> None:
        """End a lock: its holder is told from now on that it is lost."""
        del self._locks[lock.key]
        self.note_ended(lock.key, lock.holder)
        self._drop_stale()

        def unend() -> None:
            self._restore(lock)
            self._ended.pop((lock.key, lock.holder), None)

        turn.on_rollback(unend)
        turn.after_commit(lock.wake_waiters)

    def untake(self, turn: Turn, lock: SessionLock) -> None:
        """Take back that a lock was taken: its holder was told so, and may take it again."""
        del self._locks[lock.key]
        self._drop_stale()
        turn.on_rollback(lambda: self._restore(lock))

    def _restore(self, lock: SessionLock) -> None:
        self._locks[lock.key] = lock
        heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))

    def _drop_stale(self) -> None:
        """Forget the expiries of locks that ended before, once they are most: else they would stay until they came."""
        if len(self._expiries) > 2 * len(self._locks) + 64:
            self._expiries = [entry for entry in self._expiries if self._locks.get(entry[2].key) is entry[2]]
            heapq.heapify(self._expiries)

    def forget_queue(self, turn: Turn, queue: int) -> None:
        """End all locks of a queue that is deleted."""
        for lock in self:
            if lock.key[0] == queue:
                self.end(turn, lock)

    def extend(self, lock: SessionLock, expires: float) -> None:
        """Set when a lock ends."""
        lock.expires = expires
        if not lock.queued:
            lock.queued = True
            heapq.heappush(self._expiries, (expires, next(self._tie), lock))

    def note_ended(self, key: SessionKey, holder: str) -> None:
        """Remember a lock id that shall not take this session again; the plain dialect's holder may."""
        if holder:
            self._ended[key, holder] = None
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)

    def has_ended(self, key: SessionKey, holder: str) -> bool:
        """Tell whether this holder had this session's lock, and lost or released it."""
        return (key, holder) in self._ended

    def expired(self, now: float) -> list[SessionLock]:
        """Return the locks that are over, in the order in which they ended."""
        over = []
        while self._expiries and self._expiries[0][0] <= now:
            _, _, lock = heapq.heappop(self._expiries)
            if self._locks.get(lock.key) is not lock:
                continue
            if lock.waiters:
                lock.queued = False
            elif lock.expires > now:
                heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))
            else:
                over.append(lock)
        return over

    def next_expiry(self) -> float | None:
        """Return when `expired` is worth a look."""
        while self._expiries:
            expires, _, lock = self._expiries[0]
            if self._locks.get(lock.key) is lock and lock.expires <= expires:
                return expires
            heapq.heappop(self._expiries)
            if self._locks.get(lock.key) is lock:
                heapq.heappush(self._expiries, (lock.expires, next(self._tie), lock))
        return None


class Acceptors:
    """Those who wait for a queue's next available session, first come first served."""

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiting))

    def add(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def wake_next(self) -> None:
        """Wake the one who waits longest and was not woken yet: a session became available."""
        for waiter in self._waiting:
            if not waiter.woken:
                waiter.wake()
                return

    def wake_all(self) -> None:
        for waiter in self._waiting:
            waiter.wake()
