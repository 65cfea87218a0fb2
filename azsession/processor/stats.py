"""The counts behind `ProcessorStats`."""

from __future__ import annotations

import threading
import time
from collections import deque

from .outcomes import ProcessorStats

#: Seconds that messages per second are counted over.
RATE_WINDOW = 10


class StatsCounters:
    """Counts what is done. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards all that follows.
        self._began = time.monotonic()
        self._counts = {"sessions_open": 0, "sessions_done": 0}
        self._counts |= {"messages_done": 0, "messages_failed": 0, "messages_dead_lettered": 0}
        self._waited = 0.0
        self._waiting: dict[int, float] = {}
        #: Messages of each of the last seconds.
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW + 1)

    def add(self, name: str, count: int = 1) -> None:
        """Count something, by its name in `ProcessorStats`."""
        with self._lock:
            self._counts[name] += count
            if name in ("messages_done", "messages_dead_lettered"):
                second = int(time.monotonic())
                if self._seconds and self._seconds[-1][0] == second:
                    count += self._seconds.pop()[1]
                self._seconds.append((second, count))

    def waits(self) -> None:
        """Note that this thread begins to wait for a session."""
        with self._lock:
            self._waiting[threading.get_ident()] = time.monotonic()

    def waits_no_more(self) -> None:
        """Note that it does not any more."""
        with self._lock:
            began = self._waiting.pop(threading.get_ident(), None)
            if began is not None:
                self._waited += time.monotonic() - began

    def read(self, parked: int) -> ProcessorStats:
        """Return the counts."""
        with self._lock:
            now = time.monotonic()
            waited = self._waited + sum(now - began for began in self._waiting.values())
            recent = sum(count for second, count in self._seconds if second > int(now) - RATE_WINDOW)
            over = min(max(now - self._began, 1.0), RATE_WINDOW - 1 + now % 1)
            return ProcessorStats(
                **self._counts,
                sessions_parked=parked,
                messages_per_second=round(recent / over, 1),
                seconds_waited=round(waited, 3),
            )

    def after_fork(self) -> None:
        """In a forked child: another thread may have had the lock."""
        self._lock = threading.Lock()
