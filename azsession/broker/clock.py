"""Time as the broker sees it: one reading of the wall clock, carried on by the monotonic one."""

from __future__ import annotations

import time


class Clock:
    """A clock that nobody can step: neither locks nor times to live jump when the machine's wall clock is set."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def monotonic(self) -> float:
        """Return seconds since some fixed instant."""
        return time.monotonic()

    def now(self) -> float:
        """Return seconds since the Unix epoch, as the wall clock would tell had it not been touched."""
        return self._offset + self.monotonic()
