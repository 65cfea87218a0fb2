"""When a session's lock ends, and its renewal while a receive waits. `HeldSession` has one `LockTimer`.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from ....amqp import Condition, Response
from ..lock_clock import MIN_LOCK_DURATION, ServiceClock
from ..transport.links import Receiver
from ..transport.loop import Loop, Timer
from .pending_receives import PendingReceives
from .requests import OnAnswer, SessionRequests
from .state import SessionState

#: The part of the lock's duration that is left when the lock is renewed for a waiting receive.
RENEW_PART = 0.5
#: The part that is left when messages fetched ahead are returned.
CLEAR_PART = 0.1
#: The part that passes before a renewal that failed is tried again, and the least seconds.
RETRY_PART, MIN_RETRY_SECONDS = 0.1, 0.1
#: How much earlier than on Azure a lock ends here, as a part of its duration, and in seconds at most. In this time, messages
#: that the holder does not use are returned to Azure. Otherwise the expiry would count as a delivery of them.
EXPIRY_MARGIN_PART, MAX_EXPIRY_MARGIN = 0.05, 1.0
#: Seconds by which a timer may be early.
_EARLY = 0.01
#: Seconds from 0001-01-01, where .NET's ticks of 100 ns begin, to 1970.
_TICKS_EPOCH = 62135596800


class TimedSession(Protocol):
    """The session, as the timer sees it."""

    state: SessionState

    @property
    def link(self) -> Receiver | None:
        """The link, while the lock is known to be held by it."""

    def expire(self) -> None:
        """End the session: its lock is about to expire."""


class LockTimer:
    """Watches the end of one session's lock.

    Args:
        session: The session.
        receives: The session's receives.
        requests: The session's requests.
        clock: Azure's clock.
        loop: The loop that owns the session.

    Attributes:
        expires: When the lock ends, on the monotonic clock.
    """

    def __init__(
        self,
        session: TimedSession,
        receives: PendingReceives,
        requests: SessionRequests,
        clock: ServiceClock,
        loop: Loop,
    ) -> None:
        self.expires: float = 0.0
        self._session = session
        self._receives = receives
        self._requests = requests
        self._clock = clock
        self._loop = loop
        self._duration = 0.0
        self._timer: Timer | None = None
        self._timer_due = 0.0
        #: When the lock may be renewed again, on the monotonic clock; infinite while a renewal waits for its answer.
        self._may_renew_at = 0.0

    def left(self) -> float:
        """Return the seconds that the lock has left."""
        return max(0.0, self.expires - time.monotonic())

    def set_locked_until(self, ticks: object) -> None:
        """Note the property ``com.microsoft:locked-until-utc`` of an attach, in .NET's ticks."""
        self.set_expiry(ticks / 1e7 - _TICKS_EPOCH if isinstance(ticks, int) else None)

    def set_expiry(self, instant: float | None) -> None:
        """Note when the lock ends by Azure's clock, in seconds since 1970; `None` where Azure did not say it."""
        left = MIN_LOCK_DURATION if instant is None else self._clock.left(instant)
        self.expires = time.monotonic() + left - min(MAX_EXPIRY_MARGIN, left * EXPIRY_MARGIN_PART)
        self._duration = max(self._duration, self.left())
        self.plan()

    def plan(self) -> None:
        """Set the timer: to the lock's end, or earlier to renew the lock or to return messages fetched ahead."""
        if not self._session.state.has_lock:
            return
        due = self.expires
        if self._receives.need_the_lock and self._may_renew_at < math.inf and self._session.link is not None:
            due = min(due, max(due - self._duration * RENEW_PART, self._may_renew_at))
        elif self._receives.has_fetched_ahead:
            due -= self._duration * CLEAR_PART
        if self._timer is not None:
            if self._timer_due <= due:
                # This runs for every receive: a timer that fires too early costs less than a new timer each time.
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.later(due - time.monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self.left() <= 0.0:
            self._session.expire()
            return
        if self._receives.need_the_lock and self.left() <= self._duration * RENEW_PART + _EARLY:
            self._renew_for_receives()
        elif self._receives.has_fetched_ahead and self.left() <= self._duration * CLEAR_PART + _EARLY:
            self._receives.clear(lambda: None)
        self.plan()

    def renew_if_due(self) -> None:
        """Renew the lock if less than half of it is left."""
        if self._session.state.has_lock and self.left() < self._duration * RENEW_PART:
            self._renew_for_receives()

    def _renew_for_receives(self) -> None:
        if self._may_renew_at > time.monotonic() + _EARLY or self._session.link is None:
            return
        self._may_renew_at = math.inf

        def renewed(answer: Response | Condition) -> None:
            pause = 0.0 if isinstance(answer, Response) else max(MIN_RETRY_SECONDS, self._duration * RETRY_PART)
            self._may_renew_at = time.monotonic() + pause
            self.plan()

        self.renew(renewed)

    def renew(self, done: OnAnswer) -> None:
        """Renew the lock, and call `done` with the answer."""

        def answered(answer: Response | Condition) -> None:
            if isinstance(answer, Response):
                until = answer.body.get("expiration") if isinstance(answer.body, dict) else None
                if isinstance(until, int) and not self._session.state.is_over:
                    self.set_expiry(until / 1000)
            done(answer)

        self._requests.send("renew-session-lock", {}, answered)

    def stop(self) -> None:
        """Cancel the timer: the session is over."""
        if self._timer is not None:
            self._timer.cancel()
