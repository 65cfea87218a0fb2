"""Parked sessions: the server offered them during the pause after a failure, so the processor holds them until it ends.

A session that was released early would be offered again at once, and the slots would take it in a loop.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from ..client import fetched_ahead
from ..client.session import SessionClient, holder_of
from ..errors import QueueError
from ..logs import SessionLogger, get_logger

logger: SessionLogger = get_logger(__name__)

#: Number of sessions that can be parked. With more, a slot waits together with its session.
MAX_PARKED = 1000


class ParkedSessions:
    """The parked sessions, ordered by the end of their pause. Not thread-safe: the lock of `Slots` guards it."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, SessionClient]] = []
        #: Orders sessions that are due at the same time, because clients cannot be compared.
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    @property
    def is_full(self) -> bool:
        return len(self._due) >= MAX_PARKED

    def add(self, session: SessionClient, due: float) -> None:
        """Park a session until `due`, on the monotonic clock."""
        heapq.heappush(self._due, (due, next(self._numbers), session))

    def next_due(self) -> float | None:
        """Return when the first session is due; `None` if no session is parked."""
        return self._due[0][0] if self._due else None

    def pop(self) -> SessionClient:
        """Remove and return the session that is due first."""
        return heapq.heappop(self._due)[2]

    def clear(self) -> list[SessionClient]:
        """Remove and return all sessions."""
        sessions, self._due = [session for _, _, session in self._due], []
        return sessions


def return_messages(session: SessionClient) -> None:
    """Return the messages that came with a session, uncounted: no handler gets them before the session is due."""
    holder = holder_of(session)
    try:
        fetched_ahead.give_back(holder)
    except QueueError as error:
        logger.info("messages of %s stay with its lock: %s", holder.lock.name, error, **holder.about)


def close_all(sessions: Iterable[SessionClient]) -> None:
    """Close sessions. All of them refuse calls before the first is released. Stop at the first release without an answer.

    The remaining locks expire by themselves. Waiting for each of them would delay the stop of the processor.
    """
    for holder in [holder for holder in map(holder_of, sessions) if holder.shut()]:
        if not holder.release():
            break
