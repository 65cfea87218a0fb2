"""Taking a session's lock again after its link was lost. `HeldSession` has one `Relock`.

`Relock` decides whether the lock is worth another attempt, how long to wait between attempts, and when an attempt has taken
too long. `Verification` checks that no other holder had the session in between.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from ....amqp import Condition
from ....errors import QueueError, SessionNotFoundError
from ..error_mapping import UNAUTHORIZED_ACCESS, error_of
from ..transport.loop import Loop, Timer
from .pending_receives import PendingReceives
from .requests import KnownState
from .unsettled import UnsettledMessage, UnsettledMessages
from .verification import Verification, VerifiedSession

#: Seconds at most before the second attempt to take a lock again. Each further pause is twice as long, up to the maximum.
RELOCK_PAUSE, MAX_RELOCK_PAUSE = 0.1, 1.6
#: Seconds for Azure to answer the attach, and again for the check. Then the link is given up, and another one tried.
VERIFY_TIMEOUT = 5.0
#: Conditions that a new token mends.
_MENDED_BY_TOKEN: frozenset[Any] = frozenset({UNAUTHORIZED_ACCESS})


class RelockedSession(VerifiedSession, Protocol):
    """The session, as `Relock` sees it."""

    entity: str
    session_id: str | None

    def fail(self, error: QueueError) -> None:
        """End the session with an error."""

    def request_connection(self, pause: float) -> None:
        """Have the session get a connection, after so many seconds."""


class Relock:
    """The attempts to take one session's lock again.

    Args:
        session: The session.
        unsettled: The session's unsettled messages.
        receives: The session's receives.
        state: The session state as the holder knows it.
        loop: The loop that owns the session.
    """

    def __init__(
        self,
        session: RelockedSession,
        unsettled: UnsettledMessages,
        receives: PendingReceives,
        state: KnownState,
        loop: Loop,
    ) -> None:
        self._session = session
        self._unsettled = unsettled
        self._receives = receives
        self._state = state
        self._loop = loop
        self._pause = 0.0
        self._timer: Timer | None = None
        self._verification: Verification | None = None

    def on_link_lost(self, error: Condition | None) -> None:
        """Have the lock taken again, or end the session where `error` says that this cannot succeed."""
        session = self._session
        self.stop()
        reason = error_of(error, entity=session.entity, session_id=session.session_id)
        if error is not None and isinstance(reason, SessionNotFoundError):
            session.lose(str(reason))
        elif error is not None and not reason.is_transient and error.condition not in _MENDED_BY_TOKEN:
            session.fail(reason)
        else:
            # At random: many sessions lose their links at the same time.
            session.request_connection(random.uniform(self._pause / 2.0, self._pause))  # noqa: S311 - no secret
            self._pause = min(MAX_RELOCK_PAUSE, self._pause * 2 or RELOCK_PAUSE)

    def on_attach_sent(self) -> None:
        """Give Azure a limited time to answer."""
        self.stop()
        self._timer = self._loop.later(VERIFY_TIMEOUT, self._session.give_link_up)

    def on_attached(self) -> None:
        """Check the session by the new link."""
        self.on_attach_sent()
        link = self._session.attached_link
        if link is not None:
            self._verification = Verification(self._session, link, self._unsettled, self._receives, self._state)
            self._verification.start()

    def on_message(self, message: UnsettledMessage) -> None:
        """A message came while the session is being checked."""
        if self._verification is not None:
            self._verification.on_message(message)

    def on_drained(self) -> None:
        """The link was drained while the session is being checked."""
        if self._verification is not None:
            self._verification.on_drained()

    def on_verified(self) -> None:
        """The session is held again: the next loss is answered without a pause."""
        self.stop()
        self._pause = 0.0

    def stop(self) -> None:
        """End the attempt that is under way."""
        self._verification = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
