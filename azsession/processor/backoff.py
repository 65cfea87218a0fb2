"""How long a session is left alone after a message of it failed, and the server after it did."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict

#: Seconds for which a session is left alone after its first failure, and at the most.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: Seconds between tries while the broker cannot be reached, at the most.
LONGEST_OUTAGE_PAUSE = 15.0
#: Sessions whose failures are remembered; the oldest are forgotten first.
MAX_REMEMBERED = 10_000


def pause_after(failures: int, longest: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time, and by chance up to a half less."""
    return min(longest, FIRST_PAUSE * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Backoff:
    """The sessions whose last handled message failed. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _failed.
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, session_id: str) -> None:
        """Note a failure."""
        with self._lock:
            failures = self._failed.pop(session_id, (0, 0.0))[0] + 1
            self._failed[session_id] = (failures, time.monotonic() + pause_after(failures, LONGEST_PAUSE))
            while len(self._failed) > MAX_REMEMBERED:
                self._failed.popitem(last=False)

    def succeeded(self, session_id: str) -> None:
        """Forget the failures."""
        if self._failed:
            with self._lock:
                self._failed.pop(session_id, None)

    def due(self, session_id: str) -> float | None:
        """Return when the session may be handled again, on the monotonic clock; `None` if its last message did not fail."""
        if not self._failed:
            return None
        with self._lock:
            known = self._failed.get(session_id)
        return None if known is None else known[1]

    def after_fork(self) -> None:
        """In a forked child: another thread may have had the lock."""
        self._lock = threading.Lock()
