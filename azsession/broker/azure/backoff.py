"""`Backoff`: how long to wait before the next attempt, after attempts that failed. `Reconnector` uses it."""

from __future__ import annotations

import random
import time

#: Seconds before the second attempt, at most. Each further pause is up to twice as long, up to the maximum.
FIRST_PAUSE, MAX_PAUSE = 0.4, 15.0


class Backoff:
    """Exponential backoff with jitter: each pause is a random part, at least a half, of its longest time."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    def left(self) -> float:
        """Return the seconds until the next attempt may begin."""
        return max(0.0, self._until - time.monotonic())

    def fail(self) -> None:
        """Note a failed attempt. Those that failed together count once."""
        if self.left() > 0.0:
            return
        longest = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 30))
        self._failures += 1
        self._until = time.monotonic() + random.uniform(longest / 2.0, longest)  # noqa: S311 - no secret

    def succeed(self) -> None:
        """Note that an attempt succeeded: the next failure is the first one again."""
        self._failures, self._until = 0, 0.0
