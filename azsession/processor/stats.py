"""Counts the work of a processor. `ProcessorStats` is a snapshot of these counters."""

from __future__ import annotations

import threading
import time
from collections import deque

from .outcomes import ProcessorStats

#: Seconds over which messages per second are averaged.
RATE_WINDOW = 10


class StatsCounters:
    """The counters of one run of a processor. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards all fields below.
        self._began = time.monotonic()
        self._counts = {"sessions_open": 0, "sessions_done": 0}
        self._counts |= {"messages_done": 0, "messages_failed": 0, "messages_dead_lettered": 0}
        self._waited = 0.0
        #: When each waiting thread began to wait, by thread id.
        self._waiting: dict[int, float] = {}
        #: Pairs of a second and the number of messages handled in it, for the latest seconds.
        self._recent: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW + 1)

    def add(self, name: str, count: int = 1) -> None:
        """Add to the counter with this name in `ProcessorStats`."""
        with self._lock:
            self._counts[name] += count
            if name in ("messages_done", "messages_dead_lettered"):
                second = int(time.monotonic())
                if self._recent and self._recent[-1][0] == second:
                    count += self._recent.pop()[1]
                self._recent.append((second, count))

    def begin_wait(self) -> None:
        """Record that the calling thread begins to wait for a session."""
        with self._lock:
            self._waiting[threading.get_ident()] = time.monotonic()

    def end_wait(self) -> None:
        """Record that the calling thread ended its wait."""
        with self._lock:
            began = self._waiting.pop(threading.get_ident(), None)
            if began is not None:
                self._waited += time.monotonic() - began

    def read(self, parked: int) -> ProcessorStats:
        """Return a snapshot.

        Args:
            parked: Number of sessions that are parked at the moment.
        """
        with self._lock:
            now = time.monotonic()
            waited = self._waited + sum(now - began for began in self._waiting.values())
            recent = sum(count for second, count in self._recent if second > int(now) - RATE_WINDOW)
            window = min(max(now - self._began, 1.0), RATE_WINDOW - 1 + now % 1)
            return ProcessorStats(
                **self._counts,
                sessions_parked=parked,
                messages_per_second=round(recent / window, 1),
                seconds_waited=round(waited, 3),
            )

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
