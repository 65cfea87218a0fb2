"""Resubmits or deletes many dead letters in bounded steps. `dead_letter_pages` continues with the next step.

Each step is one request of the browser: it ends after some seconds, so that it never blocks a page for long, and a gateway
that stops loses nothing. A step goes on where the one before has ended.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import attrs

from ...errors import ProviderError
from ...messages import PeekedMessage
from ...protocol.error_codes import CONFLICT, MESSAGE_NOT_FOUND
from .backend import Backend

#: Seconds, and dead letters, after which a step ends.
STEP_SECONDS, STEP_SIZE = 3.0, 2000
#: Dead letters that are fetched at once.
_BATCH = 50


@attrs.frozen
class Selection:
    """The dead letters that the user has chosen.

    Attributes:
        queue: The queue or subscription.
        session_id: The session; `None` for all sessions.
        reason: The reason; `None` for all reasons.
        before: Only messages that were enqueued before this time. A message that is resubmitted and fails again is a new
            dead letter, and is not handled again.
    """

    queue: str
    session_id: str | None
    reason: str | None
    before: datetime

    def matches(self, message: PeekedMessage) -> bool:
        """Return whether a dead letter is one of those that were chosen."""
        is_older = message.enqueued_at is None or message.enqueued_at <= self.before
        return is_older and (self.reason is None or reason_of(message) == self.reason)


@attrs.frozen
class Progress:
    """How far the steps are.

    Attributes:
        start: The sequence number at which the next step starts.
        handled: How many dead letters were resubmitted or deleted so far.
        refused: How many could not be.
        is_finished: Whether there are no more.
    """

    start: int = 0
    handled: int = 0
    refused: int = 0
    is_finished: bool = False


def reason_of(message: PeekedMessage) -> str:
    """Return the reason of a dead letter, shortened so that the address of a page can have it."""
    return (message.dead_letter_reason or "")[:200]


async def take_step(
    backend: Backend, selection: Selection, action: Callable[[str, int], Awaitable[None]], progress: Progress
) -> Progress:
    """Handle the next dead letters, in their order, for a few seconds.

    Args:
        backend: The broker.
        selection: The dead letters.
        action: Resubmits or deletes one.
        progress: The result of the step before.

    Raises:
        QueueError: The broker failed. The dead letters handled before stay handled.
    """
    ends, last = time.monotonic() + STEP_SECONDS, progress.handled + STEP_SIZE
    start, handled, refused = progress.start, progress.handled, progress.refused
    while True:
        page = await backend.dead_letters(selection.queue, selection.session_id, start, _BATCH, selection.matches)
        for message in page.messages:
            try:
                await action(selection.queue, message.sequence_number)
                handled += 1
            except ProviderError as error:
                if error.code == CONFLICT:
                    refused += 1
                elif error.code != MESSAGE_NOT_FOUND:
                    raise
            start = message.sequence_number + 1
            if time.monotonic() > ends or handled >= last:
                return Progress(start, handled, refused)
        if page.following is None:
            return Progress(start, handled, refused, is_finished=True)
        start = max(start, page.following)
        if time.monotonic() > ends:
            return Progress(start, handled, refused)
