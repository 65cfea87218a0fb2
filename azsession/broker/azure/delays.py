"""`DelayedSessions`: the sessions whose messages are held back, because one was abandoned with a delay.

Azure has no delay for a session. The process that holds the session keeps its lock meanwhile, also after the holder has
released it: nobody else gets the session. Everything here runs in the loop's thread.
"""

from __future__ import annotations

import time
import uuid

import attrs

from .session.held_session import HeldSession
from .session.registry import SessionRegistry
from .transport.loop import Loop, Timer

#: The longest time in seconds of one timer. A longer delay is made of several.
TIMER_SECONDS = 3600.0


@attrs.define(eq=False)
class _Delay:
    """The delay of one session.

    Attributes:
        end: When it ends, on the monotonic clock.
        timer: Looks at it again.
        is_kept: Whether the holder has released the session, so that only this process keeps its lock.
    """

    end: float
    timer: Timer
    is_kept: bool = False


class DelayedSessions:
    """Holds sessions back.

    Args:
        registry: The sessions that are held here.
        loop: The loop that owns the sessions.
    """

    def __init__(self, registry: SessionRegistry, loop: Loop) -> None:
        self._registry = registry
        self._loop = loop
        self._delays: dict[HeldSession, _Delay] = {}

    def begin(self, session: HeldSession, seconds: float) -> None:
        """Hand out no message of a session for a time, unless it is held back for longer already."""
        end = time.monotonic() + seconds
        known = self._delays.get(session)
        if known is None:
            self._delays[session] = _Delay(end, self._timer(session, seconds))
        elif end > known.end:
            known.timer.cancel()
            known.end, known.timer = end, self._timer(session, seconds)
        session.receives.pause()

    def keep(self, session: HeldSession) -> bool:
        """Keep the lock of a session that its holder releases. Return `False` if the session is not held back."""
        delay = self._delays.get(session)
        if delay is None or session.state.is_over:
            return False
        delay.is_kept = True
        session.receives.end(None)
        for message in session.unsettled:
            message.answers = 1
        session.receives.give_back([message.token for message in session.unsettled])
        self._registry.note_ended(session.entity, session.session_id or "", session.lock_id)
        session.lock_id = f"delayed-{uuid.uuid4()}"
        return True

    def cancel(self, session: HeldSession | None) -> None:
        """End the delay of a session now."""
        delay = None if session is None else self._delays.get(session)
        if delay is not None and session is not None:
            delay.timer.cancel()
            self._end(session, delay)

    def release(self, session: HeldSession | None) -> None:
        """Release the lock of a session that only this process keeps, before the delay has passed."""
        delay = None if session is None else self._delays.get(session)
        if delay is not None and delay.is_kept:
            self.cancel(session)

    def _timer(self, session: HeldSession, seconds: float) -> Timer:
        return self._loop.later(min(seconds, TIMER_SECONDS), lambda: self._on_timer(session))

    def _on_timer(self, session: HeldSession) -> None:
        delay = self._delays.get(session)
        if delay is None:
            return
        left = delay.end - time.monotonic()
        if left > 0 and not session.state.is_over:
            delay.timer = self._timer(session, left)
        else:
            self._end(session, delay)

    def _end(self, session: HeldSession, delay: _Delay) -> None:
        self._delays.pop(session, None)
        session.receives.resume()
        if delay.is_kept and not session.state.is_over:
            session.release()
