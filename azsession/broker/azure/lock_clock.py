"""`ServiceClock`: how long a lock lasts whose end Azure gives by Azure's clock, while the clock here may be wrong or be set.

`LockTimer` uses it, in the loop's thread.
"""

from __future__ import annotations

import time

from ..clock import Clock

#: The shortest and the longest ``LockDuration``, in seconds. See Microsoft's "Message transfers, locks, and settlement".
MIN_LOCK_DURATION, MAX_LOCK_DURATION = 5.0, 300.0
#: Seconds by which the clock here may be behind before it counts as wrong.
TOLERANCE = 30.0


class ServiceClock:
    """An estimate of Azure's clock, from two clocks.

    One is the wall clock. The other shows where the wall clock would stand if nobody had set it since this object was made.
    The second clock is right after a step to a wrong time. The first is right after a step that corrected the time, and after
    the machine slept.
    """

    def __init__(self) -> None:
        self._untouched = Clock()

    def left(self, instant: float) -> float:
        """Return how many seconds a lock has left that Azure granted just now.

        The result is the lower of the two clocks' values: renewing a lock too early does no harm. Values that no
        ``LockDuration`` allows are left out. If none remains, the shortest ``LockDuration`` is assumed.

        Args:
            instant: The end of the lock by Azure's clock, in seconds since 1970.
        """
        by_wall, by_untouched = instant - time.time(), instant - self._untouched.steady()
        possible = [left for left in (by_wall, by_untouched) if 0.0 < left <= MAX_LOCK_DURATION + TOLERANCE]
        if possible == [by_wall]:
            self._untouched = Clock()
        return min(MAX_LOCK_DURATION, *possible) if possible else MIN_LOCK_DURATION
