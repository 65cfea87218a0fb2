"""`BackgroundSettlements`: settlements that a processor sends from other threads, as the holder of the session sees them."""

from __future__ import annotations

from typing import Protocol

from .. import interrupts


class BackgroundSettlements(Protocol):
    """The settlements of one session's messages that other threads send."""

    @property
    def unconfirmed(self) -> int:
        """How many messages are not known to be settled."""

    def finish(self) -> object:
        """Wait until all are confirmed, or one has failed."""


def finish(settlements: BackgroundSettlements | None) -> None:
    """Wait for the settlements of a session, if it has any, before an operation on all of its messages."""
    # A signal handler that interrupted `settlements` could hold a lock that they need.
    if settlements is not None and not interrupts.has_interrupted_us():
        settlements.finish()
