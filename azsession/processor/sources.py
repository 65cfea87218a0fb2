"""Sources of sessions for the slots: the next available session, or the sessions of a list."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import attrs

from ..client.cancellation import PendingCalls
from ..client.holder import LockOptions
from ..client.provider import ServiceBusProvider, core_of
from ..client.session import SessionClient
from .backoff import Backoff

#: Seconds of one wait for a session, or for a message of a listed session.
LONG_POLL = 30.0
#: Seconds of one wait for a session, for a processor that stops when no session has a message.
SHORT_POLL = 1.0
#: Seconds until a listed session that was empty is tried again: after the first time, and at most.
EMPTY_PAUSES = (0.25, 4.0)
#: Seconds until a listed session that another holder has is tried again, at most.
LOCKED_PAUSE = 5.0


@attrs.frozen(eq=False, repr=False)
class TakenSession:
    """A session for a slot to handle.

    Attributes:
        session: The client, which may not have its lock yet.
        wait: Seconds that the first receive waits for a message.
        asked: How many messages were requested together with the session. 0: none.
    """

    session: SessionClient
    wait: float = 0.0
    asked: int = 0


class Source(Protocol):
    """Gives sessions to the slots. Thread-safe."""

    def empty_since(self) -> float | None:
        """Return since when no session had a message, on the monotonic clock; `None` if this is not known.

        It is known only of a source that stops when empty, and only until a session is taken.
        """

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        """Return a session, or `None` if there is none yet. Blocks.

        Args:
            sleep: Called to pause for a number of seconds. It returns early if the processor stops.
        """

    def take_now(self) -> TakenSession | None:
        """Return another session without waiting, or `None`. A source whose sessions take turns anyway returns `None`."""

    def give_back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        """Record that a slot released a session.

        Args:
            session_id: The session.
            handled: At least one message was passed to the handler, or it is not known whether the session is empty.
            locked_for: Seconds until the lock of another holder expires, if the session was locked.
        """

    def doubt(self) -> None:
        """Forget that no session was found: one that is held back comes again."""

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""


class NextAvailableSessions:
    """Takes the next session that has messages, with its first messages if the server can."""

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue_name: str,
        max_renewal: float | None,
        waits: PendingCalls,
        *,
        prefetch: int = 1,
        until_empty: bool = False,
    ) -> None:
        self._core = core_of(provider)
        self._queue_name = queue_name
        self._options = LockOptions(self._core.config.session_timeout, max_renewal=max_renewal)
        self._waits = waits
        self._prefetch = prefetch
        self._wait = SHORT_POLL if until_empty else LONG_POLL
        self._is_answered = False
        self._lock = threading.Lock()  # Guards all fields below.
        self._numbers = itertools.count()
        #: The requests that wait for an answer, by number.
        self._asking: set[int] = set()
        #: Number of sessions that were taken and not given back.
        self._taken = 0
        #: Counts the sessions that were taken or given back.
        self._changes = 0
        #: After a request found nothing: the requests that may have got a session before it. `None` after a change.
        self._in_doubt: set[int] | None = None
        #: When that request began.
        self._asked_at = 0.0

    def empty_since(self) -> float | None:
        with self._lock:
            return self._asked_at if self._in_doubt is not None and not self._in_doubt else None

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        # At the start and after an error, the first answer shows that the broker can be reached. It must come soon.
        try:
            taken = self._accept(self._wait if self._is_answered else SHORT_POLL)
        except BaseException:
            self._is_answered = False
            raise
        self._is_answered = True
        return taken

    def take_now(self) -> TakenSession | None:
        return self._accept(0.0)

    def _accept(self, wait: float) -> TakenSession | None:
        with self._lock:
            number, before, began = next(self._numbers), self._changes, time.monotonic()
            self._asking.add(number)
        session, is_answered = None, False
        try:
            session = self._core.accept_next(self._queue_name, self._options, wait, self._waits, prefetch=self._prefetch)
            is_answered = True
        finally:
            with self._lock:
                self._asking.discard(number)
                if session is not None:
                    self._taken += 1
                    self._changed()
                elif not is_answered:
                    self._in_doubt = None
                elif self._in_doubt is not None:
                    self._in_doubt.discard(number)
                elif self._taken == 0 and self._changes == before:
                    # No slot had a session meanwhile, whose handler could have sent messages.
                    self._in_doubt, self._asked_at = set(self._asking), began
        return None if session is None else TakenSession(session, asked=self._prefetch)

    def give_back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        with self._lock:
            self._taken -= 1
            self._changed()

    def _changed(self) -> None:
        self._changes += 1
        self._in_doubt = None

    def doubt(self) -> None:
        with self._lock:
            self._changed()

    def after_fork(self) -> None:
        self._lock = threading.Lock()


class ListedSessions:
    """Takes the sessions of a list in turns, each by one slot at a time.

    With at least as many slots as sessions, each slot waits for messages in its own session. With fewer slots, the sessions
    are polled, less often while they are empty.
    """

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue_name: str,
        max_renewal: float | None,
        session_ids: Iterable[str],
        slots: int,
        backoff: Backoff,
        *,
        until_empty: bool = False,
    ) -> None:
        self._provider = provider
        self._queue_name = queue_name
        self._max_renewal = max_renewal
        self._backoff = backoff
        #: Orders sessions that are due at the same time.
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # Guards _due, _times_empty, _empty, _changes and _taken_at.
        self._due = [(0.0, next(self._numbers), session_id) for session_id in session_ids]
        self._times_empty: dict[str, int] = {}
        self._wait = LONG_POLL if len(self._due) <= slots and not until_empty else 0.0
        self._count = len(self._due)
        #: When the sessions were taken that were found empty, or held by another client, since the last one with a message.
        self._empty: dict[str, float] = {}
        #: How often a session had a message, whose handler may have sent messages to other sessions.
        self._changes = 0
        #: When each session was taken, and the value of `_changes`. An empty one may have got a message since.
        self._taken_at: dict[str, tuple[float, int]] = {}

    def empty_since(self) -> float | None:
        with self._lock:
            return min(self._empty.values()) if len(self._empty) == self._count else None

    def take(self, sleep: Callable[[float], object]) -> TakenSession | None:
        while True:
            with self._lock:
                found = heapq.heappop(self._due) if self._due else None
                due, _, session_id = found or (0.0, 0, "")
                later, now = max(due, self._backoff.due(session_id) or 0.0), time.monotonic()
                pause = later - now
                if found is not None and pause > 0:
                    heapq.heappush(self._due, (later, next(self._numbers), session_id))
                elif found is not None:
                    self._taken_at[session_id] = now, self._changes
            if found is None:
                # Other slots have all sessions of the list.
                sleep(EMPTY_PAUSES[1])
                return None
            if pause <= 0:
                client = self._provider.create_session_client(self._queue_name, session_id, max_renewal=self._max_renewal)
                return TakenSession(client, self._wait)
            if later == due:
                # No other session is due earlier.
                sleep(pause)
                return None

    def take_now(self) -> TakenSession | None:
        return None

    def give_back(self, session_id: str, *, handled: bool, locked_for: float | None) -> None:
        due = time.monotonic()
        with self._lock:
            taken_at, changes = self._taken_at[session_id]
            if handled:
                self._empty.clear()
                self._changes += 1
            elif changes == self._changes:
                self._empty[session_id] = taken_at
            if locked_for is not None:
                due += min(max(locked_for, EMPTY_PAUSES[0]), LOCKED_PAUSE)
            elif handled:
                self._times_empty.pop(session_id, None)
            elif not self._wait:
                times = self._times_empty[session_id] = self._times_empty.get(session_id, 0) + 1
                due += min(EMPTY_PAUSES[1], EMPTY_PAUSES[0] * 2.0 ** min(times - 1, 10))
            heapq.heappush(self._due, (due, next(self._numbers), session_id))

    def doubt(self) -> None:
        with self._lock:
            self._empty.clear()
            self._changes += 1

    def after_fork(self) -> None:
        self._lock = threading.Lock()
