"""The sessions that nobody may have for a while, because a message was abandoned with a delay.

`Core` has one `Delays`. A delay is kept in the data file: a restart does not end it.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterator

from ...errors import SessionLockedError
from ..clock import Clock
from .jobs import Transaction
from .rows import to_datetime
from .session_locks import SessionKey


class Delays:
    """When the delay of each session ends. Only jobs may use it.

    Times are monotonic while the broker runs. The file has times of the wall clock, and the length of each delay: a wall
    clock that was set back between two runs does not make a delay longer than it was.

    Args:
        connection: The database.
        clock: The broker's clock.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._run = connection.execute
        self._clock = clock
        self._ends: dict[SessionKey, float] = {}
        self._heap: list[tuple[float, int, SessionKey]] = []
        self._tie = itertools.count()
        now, wall = clock.monotonic(), clock.now()
        for queue, name, until, seconds in self._run("SELECT queue, name, until, seconds FROM delays"):
            self._set((queue, name), now + max(0.0, min(until - wall, seconds)))

    def __iter__(self) -> Iterator[SessionKey]:
        return iter(list(self._ends))

    def __bool__(self) -> bool:
        return bool(self._ends)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._ends

    def left(self, key: SessionKey) -> float:
        """Return the seconds until the delay of a session ends; 0 if it has none."""
        return max(0.0, self._ends.get(key, 0.0) - self._clock.monotonic())

    def check(self, key: SessionKey) -> None:
        """Check that a session is not delayed.

        Raises:
            SessionLockedError: It is delayed.
        """
        if key in self._ends:
            left = self.left(key)
            until = to_datetime(self._clock.now() + left)
            raise SessionLockedError("the session is delayed after an abandon", locked_until=until, retry_after=left)

    def add(self, tx: Transaction, key: SessionKey, seconds: float) -> float:
        """Delay a session, unless it is delayed for longer already. Return when the delay ends."""
        end = self._clock.monotonic() + seconds
        before = self._ends.get(key)
        if before is not None and before >= end:
            return before
        tx.on_rollback(lambda: self._restore(key, before))
        self._set(key, end)
        self._run(
            "INSERT OR REPLACE INTO delays (queue, name, until, seconds) VALUES (?, ?, ?, ?)",
            (*key, self._clock.now() + seconds, seconds),
        )
        return end

    def remove(self, tx: Transaction, key: SessionKey) -> bool:
        """End the delay of a session. Return whether it had one."""
        before = self._ends.pop(key, None)
        if before is None:
            return False
        tx.on_rollback(lambda: self._restore(key, before))
        self._run("DELETE FROM delays WHERE queue = ? AND name = ?", key)
        return True

    def remove_queue(self, tx: Transaction, queue: int) -> None:
        """End the delays of a queue that is deleted."""
        for key in [key for key in self._ends if key[0] == queue]:
            self.remove(tx, key)

    def over(self, limit: int) -> list[SessionKey]:
        """Return up to `limit` sessions whose delays are over. The caller removes them."""
        now = self._clock.monotonic()
        found: list[SessionKey] = []
        while self.next_end() is not None and self._heap[0][0] <= now and len(found) < limit:
            found.append(heapq.heappop(self._heap)[2])
        return found

    def next_end(self) -> float | None:
        """Return when the next delay ends, on the monotonic clock."""
        while self._heap and self._ends.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _set(self, key: SessionKey, end: float) -> None:
        self._ends[key] = end
        heapq.heappush(self._heap, (end, next(self._tie), key))

    def _restore(self, key: SessionKey, end: float | None) -> None:
        if end is None:
            self._ends.pop(key, None)
        else:
            self._set(key, end)
