"""The sessions that were taken too soon after a failure: held, so that nobody spins on them, until their time has come."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from ..client.session import SessionClient, holder_of

#: Sessions that are held at the most; a slot that gets another one waits with it.
MAX_PARKED = 1000


class ParkedSessions:
    """The parked sessions, by when they are due. Not guarded: `Slots` does that."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, SessionClient]] = []
        self._tie = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    @property
    def is_full(self) -> bool:
        return len(self._due) >= MAX_PARKED

    def put(self, session: SessionClient, due: float) -> None:
        """Park a session until `due`, on the monotonic clock."""
        heapq.heappush(self._due, (due, next(self._tie), session))

    def next_due(self) -> float | None:
        """Return when the first is due."""
        return self._due[0][0] if self._due else None

    def pop(self) -> SessionClient:
        """Return the one that is due first, which is parked no more."""
        return heapq.heappop(self._due)[2]

    def clear(self) -> list[SessionClient]:
        """Return all, which are parked no more."""
        sessions, self._due = [session for _, _, session in self._due], []
        return sessions


def close_all(sessions: Iterable[SessionClient]) -> None:
    """Close sessions. All refuse calls before the first is released; one that is not answered is enough of waiting."""
    for holder in [holder for holder in map(holder_of, sessions) if holder.shut()]:
        if not holder.release():
            break
