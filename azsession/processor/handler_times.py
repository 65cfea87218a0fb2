"""How long the handler of a processor takes. `collector` reports it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable

import attrs

from .. import forks
from ..client.session import SessionClient
from ..messages import ReceivedMessage

#: The upper bounds of the histogram, in seconds.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@attrs.frozen
class HandlerDurations:
    """The durations of the calls that have ended.

    Attributes:
        counts: The number of calls up to each of `BOUNDS` and above the bound before it, and, last, above all bounds.
        total: The seconds of all calls.
    """

    counts: tuple[int, ...]
    total: float


class HandlerTimes:
    """Measures the calls of a handler. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards the attributes below.
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        forks.register(self)

    def measured(
        self, handler: Callable[[ReceivedMessage, SessionClient], object]
    ) -> Callable[[ReceivedMessage, SessionClient], object]:
        """Return a handler that calls another one and measures it, also if it raises."""

        def call(message: ReceivedMessage, session: SessionClient) -> object:
            began = time.monotonic()
            try:
                return handler(message, session)
            finally:
                self._add(time.monotonic() - began)

        return call

    def _add(self, seconds: float) -> None:
        at = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[at] += 1
            self._total += seconds

    def read(self) -> HandlerDurations:
        """Return a snapshot."""
        with self._lock:
            return HandlerDurations(tuple(self._counts), self._total)

    def after_fork(self) -> None:
        """Start again from 0 in a forked child, because another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._counts, self._total = [0] * (len(BOUNDS) + 1), 0.0
