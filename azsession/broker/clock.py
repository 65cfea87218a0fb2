"""The source of time for brokers. Tests replace it."""

from __future__ import annotations

import time


class Clock:
    """Three readings of time, in seconds.

    * `monotonic`: for locks and waits. Setting the machine's clock does not change it.
    * `now`: the wall clock, for the times that messages carry: enqueued, scheduled and expiry times.
    * `steady`: the wall clock at the start plus the monotonic time since then, for entries that are remembered for some
      minutes. Setting the machine's clock changes it only with the next start of the process.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def monotonic(self) -> float:
        """Return seconds since a fixed instant."""
        return time.monotonic()

    def now(self) -> float:
        """Return seconds since the Unix epoch by the wall clock."""
        return time.time()

    def steady(self) -> float:
        """Return seconds since the Unix epoch, unaffected by changes of the wall clock since the start."""
        return self._offset + self.monotonic()
