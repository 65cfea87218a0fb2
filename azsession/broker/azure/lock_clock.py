"""How long a lock lasts whose end Azure tells by its own clock, while the clock here may be wrong, or be set.

The loop's thread only.
"""

from __future__ import annotations

import time

from ..clock import Clock

#: Seconds that a lock of Azure's may be configured to last: LockDuration is 5 seconds to 5 minutes.
MIN_LOCK_DURATION, MAX_LOCK_DURATION = 5.0, 300.0
#: Seconds that a clock may be behind without being taken for wrong.
TOLERANCE = 30.0


class ServiceClock:
    """Azure's clock, as far as it can be told from here.

    Two clocks tell: the wall clock, and where it would stand had nobody set it since this was made. The second is right after
    a wrong step, the first after one that corrected it, and after the machine slept.
    """

    def __init__(self) -> None:
        self._untouched = Clock()

    def left(self, instant: float) -> float:
        """Return the seconds that a lock has left which Azure granted just now.

        The lower of what the clocks tell, for a lock that is renewed too early is none that is lost. What no LockDuration can
        be is left out; where nothing else remains, the shortest one is assumed.

        Args:
            instant: The lock's end as Azure told it, in seconds since 1970.
        """
        by_wall, by_untouched = instant - time.time(), instant - self._untouched.now()
        possible = [left for left in (by_wall, by_untouched) if 0.0 < left <= MAX_LOCK_DURATION + TOLERANCE]
        if possible == [by_wall]:
            self._untouched = Clock()
        return min(MAX_LOCK_DURATION, *possible) if possible else MIN_LOCK_DURATION
