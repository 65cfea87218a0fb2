"""How long Azure's answer to a drain takes. `PendingReceives` has one `DrainWatch`.

Only the answer says that Azure has no more messages. Under throttling it can take long, and it can be missing. Azure's SDK
for .NET waits for it as long as for any operation, and the one for JavaScript closes a link that does not answer.

Everything here runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..transport.links import Receiver
from ..transport.loop import Loop, Timer

#: Seconds after which receives take the messages that came, although Azure has not said whether these are all.
LATE_TIMEOUT = 2.0
#: Seconds to wait for Azure's answer to a drain, and to the return of messages. Then the link is given up, and the lock is
#: taken again by another one.
ANSWER_TIMEOUT = 20.0


class SessionWithLink(Protocol):
    """The session, as `DrainWatch`, `ReturnedMessages` and `Verification` see it."""

    @property
    def attached_link(self) -> Receiver | None:
        """The link, while it is attached, also while the session is being checked."""

    def give_link_up(self) -> None:
        """Let the link go, and take the lock by another one."""


class DrainWatch:
    """Watches the time of one drain after another.

    Args:
        session: The session.
        loop: The loop that owns the session.
        on_late: Called when the answer takes long.

    Attributes:
        is_late: Whether an answer is awaited that takes long.
    """

    def __init__(self, session: SessionWithLink, loop: Loop, on_late: Callable[[], object]) -> None:
        self._session = session
        self._loop = loop
        self._on_late = on_late
        self._timer: Timer | None = None
        self.is_late: bool = False

    def drain(self, link: Receiver) -> None:
        """Drain the session's link. Call `end` when Azure has answered, or the link is gone."""
        self.end()
        self._timer = self._loop.later(LATE_TIMEOUT, lambda: self._late(link))
        link.drain()

    def _late(self, link: Receiver) -> None:
        if self._is_awaited(link):
            self.is_late = True
            self._timer = self._loop.later(ANSWER_TIMEOUT - LATE_TIMEOUT, lambda: self._unanswered(link))
            self._on_late()

    def _unanswered(self, link: Receiver) -> None:
        if self._is_awaited(link):
            self._session.give_link_up()

    def _is_awaited(self, link: Receiver) -> bool:
        return link is self._session.attached_link and link.draining

    def end(self) -> None:
        """Watch no longer. Idempotent."""
        self.is_late = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
