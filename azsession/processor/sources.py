"""Where a processor's sessions come from: whatever has messages, or a list of ids."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import attrs

from ..client.cancellation import PendingCalls
from ..client.provider import ServiceBusProvider, core_of
from ..client.session import SessionClient, SessionOptions
from .backoff import Backoff

#: Seconds of one wait for a session, or for a message of a chosen one.
LONG_POLL = 30.0
#: Seconds after which a chosen session that was empty is looked at again: the first time, and at the most.
LOOK_AGAIN = (0.25, 4.0)
#: Seconds after which a chosen session that another holder has is tried again, at the most.
LOCKED_PAUSE = 5.0


@attrs.frozen
class TakenSession:
    """A session to handle, and how long its first receive waits."""

    session: SessionClient
    wait: float = 0.0


class Source(Protocol):
    """Gives the slots their sessions."""

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        """Return a session; blocks. `sleep` is what to pause with."""

    def take_now(self) -> TakenSession | None:
        """Return another session if there is one at this moment, where sessions do not come in turns anyway."""

    def back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        """Note that a session was released, whether messages of it were handled, or for how long others have it."""


class NextAvailableSessions:
    """Whatever session has messages."""

    def __init__(self, provider: ServiceBusProvider, queue_name: str, max_renewal: float | None, waits: PendingCalls) -> None:
        self._core = core_of(provider)
        self._queue_name = queue_name
        self._options = SessionOptions(self._core.config.session_timeout, max_renewal=max_renewal)
        self._waits = waits

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        return self._take(LONG_POLL)

    def take_now(self) -> TakenSession | None:
        return self._take(0.0)

    def _take(self, wait: float) -> TakenSession | None:
        session = self._core.accept_next(self._queue_name, self._options, wait, self._waits)
        return None if session is None else TakenSession(session)

    def back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        pass


class ListedSessions:
    """The sessions of a list, each by one slot at a time, in turns.

    Where there is a slot for each, it waits in its session; else the sessions are looked at, less often while they are empty.
    """

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue_name: str,
        max_renewal: float | None,
        session_ids: Iterable[str],
        slots: int,
        backoff: Backoff,
    ) -> None:
        self._provider = provider
        self._queue_name = queue_name
        self._max_renewal = max_renewal
        self._backoff = backoff
        self._tie = itertools.count()
        self._turns = [(0.0, next(self._tie), session_id) for session_id in session_ids]
        self._wait = LONG_POLL if len(self._turns) <= slots else 0.0
        self._empty: dict[str, int] = {}
        self._lock = threading.Lock()  # Guards _turns and _empty.

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        while True:
            with self._lock:
                due, _, session_id = heapq.heappop(self._turns) if self._turns else (0.0, 0, "")
                later = max(due, self._backoff.due(session_id) or 0.0)
                pause = later - time.monotonic()
                if session_id and pause > 0:
                    heapq.heappush(self._turns, (later, next(self._tie), session_id))
            if not session_id:
                # Fewer sessions than slots.
                sleep(LOOK_AGAIN[1])
                return None
            if pause <= 0:
                client = self._provider.create_session_client(self._queue_name, session_id, max_renewal=self._max_renewal)
                return TakenSession(client, self._wait)
            if later == due:
                # It is the first of all.
                sleep(pause)
                return None

    def take_now(self) -> TakenSession | None:
        return None

    def back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        due = time.monotonic()
        with self._lock:
            if locked_for is not None:
                due += min(max(locked_for, LOOK_AGAIN[0]), LOCKED_PAUSE)
            elif handled:
                self._empty.pop(session_id, None)
            elif not self._wait:
                times = self._empty[session_id] = self._empty.get(session_id, 0) + 1
                due += min(LOOK_AGAIN[1], LOOK_AGAIN[0] * 2.0 ** min(times - 1, 10))
            heapq.heappush(self._turns, (due, next(self._tie), session_id))
