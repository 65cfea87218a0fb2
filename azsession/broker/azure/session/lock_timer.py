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
#: Seconds that the answer to an attach may have been on its way.
ANSWER_MARGIN = 0.5


class TimedSession(Protocol):
    """The session, as the timer sees it."""

    entity: str
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
        expires: When the lock ends if the wall clock is right, on the monotonic clock. Until then it is kept here.
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
        #: Until when the lock surely lasts, on the monotonic clock; and its end by Azure's clock.
        self._sure_until = 0.0
        self._instant: float | None = None
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
        """Return the seconds that the lock has left at least. Any thread may call this."""
        return max(0.0, self._sure_until - time.monotonic())

    @property
    def renewal_due(self) -> float:
        """When a receive renews the lock, on the monotonic clock."""
        return self._sure_until - self._duration * RENEW_PART

    def on_granted(self, instant: float | None) -> None:
        """Note when a lock ends that was just granted, by Azure's clock; `None` where Azure did not say it."""
        self._set_expiry(instant, time.monotonic() - ANSWER_MARGIN)

    def _set_expiry(self, instant: float | None, sent: float) -> None:
        """Note the end of a lock that was granted or renewed for a request sent at `sent`, on the monotonic clock."""
        left = sure = MIN_LOCK_DURATION
        if instant is not None:
            self._clock.granted(instant, sent)
            left, sure = self._clock.left(instant), self._clock.sure_left(instant)
        left -= min(MAX_EXPIRY_MARGIN, left * EXPIRY_MARGIN_PART)
        sure = min(left, sure)
        now, self._instant = time.monotonic(), instant
        self.expires, self._sure_until = now + left, now + sure
        self._duration = max(self._duration, sure)
        self.plan()

    def plan(self) -> None:
        """Set the timer: to the lock's end, or earlier to renew the lock or to return messages fetched ahead."""
        if not self._session.state.has_lock:
            return
        due = self.expires
        if self._receives.need_the_lock and self._may_renew_at < math.inf and self._session.link is not None:
            due = min(due, max(self.renewal_due, self._may_renew_at))
        elif self._receives.has_fetched_ahead:
            due = min(due, self._sure_until - self._duration * CLEAR_PART)
        if self._timer is not None:
            if self._timer_due <= due:
                # This runs for every receive: a timer that fires too early costs less than a new timer each time.
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.later(due - time.monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self.expires <= time.monotonic():
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
        sent = time.monotonic()

        def answered(answer: Response | Condition) -> None:
            if isinstance(answer, Response):
                until = answer.body.get("expiration") if isinstance(answer.body, dict) else None
                if isinstance(until, int) and not self._session.state.is_over:
                    self._on_renewed(until / 1000, sent)
            done(answer)

        self._requests.send("renew-session-lock", {}, answered)

    def _on_renewed(self, instant: float, sent: float) -> None:
        if self._instant is not None:
            self._clock.alive(self._instant, sent)
        self._set_expiry(instant, sent)
        self._clock.on_renewed(self._session.entity, instant)

    def stop(self) -> None:
        """Cancel the timer: the session is over."""
        if self._timer is not None:
            self._timer.cancel()
