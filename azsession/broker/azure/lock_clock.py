"""`ServiceClock`: how long a lock lasts whose end Azure gives by Azure's clock, while the clock here may be wrong or be set.

`LockTimer` uses it, in the loop's thread. There are two answers:

* `left` trusts the wall clock. Locks that Azure has not taken away are kept until then.
* `sure_left` does not. It is never too long, whatever the wall clock says. Callers are told this one.

For `sure_left`, the clock keeps the latest time that Azure's clock can have. Azure does not tell its time, but two things
bound it. A lock that was just granted lasts 5 seconds at least. And a renewal that succeeded shows that Azure's clock had not
reached the lock's former end when the renewal was sent. The first one alone allows 5 seconds for each lock; `LockProbe` makes
use of the second one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..clock import Clock

#: The shortest and the longest ``LockDuration``, in seconds. See Microsoft's "Message transfers, locks, and settlement".
MIN_LOCK_DURATION, MAX_LOCK_DURATION = 5.0, 300.0
#: Seconds by which the clock here may be behind before it counts as wrong.
TOLERANCE = 30.0
#: How much faster than the clock here Azure's clock may run.
DRIFT = 1e-4
#: Seconds by which the wall clock must get ahead of the monotonic one to count as sleep of the machine. Two readings of the
#: clocks differ by less, unless the thread is interrupted between them.
SLEPT = 0.01
#: The link property with the end of a granted lock, in .NET's ticks of 100 ns, and the seconds from their beginning to 1970.
LOCKED_UNTIL = "com.microsoft:locked-until-utc"
_TICKS_EPOCH = 62135596800


def locked_until(properties: Mapping[str, Any]) -> float | None:
    """Return the end of the lock by Azure's clock, in seconds since 1970, from the properties of a granted link."""
    ticks = properties.get(LOCKED_UNTIL)
    return ticks / 1e7 - _TICKS_EPOCH if isinstance(ticks, int) else None


class ServiceClock:
    """The bounds of Azure's clock that are known.

    Attributes:
        on_renewed: Called with the entity and the new end of each lock that was renewed.
    """

    def __init__(self) -> None:
        self.on_renewed: Callable[[str, float], object] = lambda entity, instant: None
        self._untouched = Clock()
        #: The latest time that Azure's clock can have, less the monotonic clock; and when that was found out.
        self._latest = math.inf
        self._latest_at = time.monotonic()
        self._wall_ahead = time.time() - time.monotonic()

    def left(self, instant: float) -> float:
        """Return how many seconds a lock has left that Azure granted just now, if the wall clock is right.

        The wall clock is read twice: as it is, and as it would be if nobody had set it since this object was made. The second
        reading is right after a step to a wrong time. The first is right after a step that corrected the time, and after the
        machine slept. The result is the lower value. Values that no ``LockDuration`` allows are left out. If none remains,
        the shortest ``LockDuration`` is assumed.

        Args:
            instant: The end of the lock by Azure's clock, in seconds since 1970.
        """
        by_wall, by_untouched = instant - time.time(), instant - self._untouched.steady()
        possible = [left for left in (by_wall, by_untouched) if 0.0 < left <= MAX_LOCK_DURATION + TOLERANCE]
        if possible == [by_wall]:
            self._untouched = Clock()
        return min(MAX_LOCK_DURATION, *possible) if possible else MIN_LOCK_DURATION

    def sure_left(self, instant: float) -> float:
        """Return how many seconds a lock has left at least.

        Args:
            instant: The end of the lock by Azure's clock, in seconds since 1970.
        """
        self._age()
        return max(0.0, min(MAX_LOCK_DURATION, instant - self._latest - time.monotonic()))

    def granted(self, instant: float, sent: float) -> None:
        """Note that Azure granted a lock until `instant`, for a request sent at `sent` on the monotonic clock."""
        self._is_not_after(instant - MIN_LOCK_DURATION, sent)

    def alive(self, instant: float, sent: float) -> None:
        """Note that a lock until `instant` had not expired when a request came to Azure that was sent at `sent`."""
        self._is_not_after(instant, sent)

    def _is_not_after(self, instant: float, at: float) -> None:
        self._age()
        self._latest = min(self._latest, instant - at)

    def _age(self) -> None:
        """Allow for clocks that run differently, and for the time that the machine slept, which the monotonic clock lacks."""
        now = time.monotonic()
        ahead = time.time() - now
        slept = ahead - self._wall_ahead
        self._latest += (now - self._latest_at) * DRIFT + (slept if slept > SLEPT else 0.0)
        self._latest_at = now
        if not 0.0 <= slept <= SLEPT:
            # Otherwise the former value stays, so that many short sleeps add up.
            self._wall_ahead = ahead
