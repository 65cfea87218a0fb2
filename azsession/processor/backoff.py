"""Pauses after failures: of a session whose message failed, and of the slots while the broker cannot be reached."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict

#: Seconds that a session pauses after its first failure, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: Seconds by which a pause that the broker keeps may end later than here.
BROKER_MARGIN = 0.25
#: Seconds between two attempts to reach the broker, at most.
LONGEST_OUTAGE_PAUSE = 15.0
#: Number of sessions whose failures are remembered. Beyond it, the oldest are forgotten.
MAX_REMEMBERED = 10_000


def pause_after(failures: int, longest: float) -> float:
    """Return the seconds to wait after `failures` failures in a row: doubled each time, minus up to half at random."""
    return min(longest, FIRST_PAUSE * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Backoff:
    """Remembers the sessions whose latest message failed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _failed.
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, session_id: str) -> float:
        """Record that a message of the session failed. Return the seconds for which the session pauses."""
        with self._lock:
            failures = self._failed.pop(session_id, (0, 0.0))[0] + 1
            pause = pause_after(failures, LONGEST_PAUSE)
            self._failed[session_id] = (failures, time.monotonic() + pause)
            if len(self._failed) > MAX_REMEMBERED:
                self._failed.popitem(last=False)
        return pause

    def restart(self, session_id: str, pause: float) -> None:
        """Begin the pause of a session again, because the broker has begun it only now."""
        with self._lock:
            known = self._failed.get(session_id)
            if known is not None:
                self._failed[session_id] = (known[0], time.monotonic() + pause)

    def succeeded(self, session_id: str) -> None:
        """Forget the failures of the session."""
        if self._failed:
            with self._lock:
                self._failed.pop(session_id, None)

    def was_pending(self, instant: float) -> bool:
        """Return whether the broker may have held back a session at an instant of the monotonic clock."""
        with self._lock:
            return any(due + BROKER_MARGIN > instant for _, due in self._failed.values())

    def due(self, session_id: str) -> float | None:
        """Return when the pause of the session ends, on the monotonic clock; `None` if its latest message did not fail."""
        if not self._failed:
            return None
        with self._lock:
            known = self._failed.get(session_id)
        return None if known is None else known[1]

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
