"""What a handler raises to say what shall become of a message, and what a processor tells of itself."""

from __future__ import annotations

import attrs

from ..validation import MAX_REASON_LENGTH, check_text


class _Verdict(Exception):  # noqa: N818 - no failure: what a handler decides
    """A handler's word on a message.

    Args:
        reason: Why, up to 4096 characters; kept with the dead letter.
        description: More about it, up to 4096 characters.

    Raises:
        ValidationError: One of them is no text, or too long.
    """

    def __init__(self, reason: str, description: str | None = None) -> None:
        super().__init__(reason, description)
        self.reason: str = check_text(reason, "a dead-letter reason", MAX_REASON_LENGTH)
        self.description = description
        if description is not None:
            check_text(description, "a dead-letter description", MAX_REASON_LENGTH)

    def __str__(self) -> str:
        return self.reason


class DeadLetter(_Verdict):
    """Raised by a handler: this message goes to the dead-letter queue, and the session goes on."""


class DeadLetterSession(_Verdict):
    """Raised by a handler: this message and all that is left in its session go to the dead-letter queue."""


@attrs.frozen
class ProcessorStats:
    """What a processor has done since it was started, and does now.

    Attributes:
        sessions_open: Sessions whose messages are being handled.
        sessions_parked: Sessions held back, because a message of theirs failed a moment ago.
        sessions_done: Sessions that were taken, handled and released; one that is taken again counts again.
        messages_done: Messages whose handler returned, and which the server confirmed as completed.
        messages_failed: Failed attempts: the handler raised, or its message could not be settled.
        messages_dead_lettered: Messages that a handler had dead-lettered.
        messages_per_second: Of those done or dead-lettered, over the last 10 seconds.
        seconds_waited: Seconds that the slots have waited for a session, all together.
    """

    sessions_open: int = 0
    sessions_parked: int = 0
    sessions_done: int = 0
    messages_done: int = 0
    messages_failed: int = 0
    messages_dead_lettered: int = 0
    messages_per_second: float = 0.0
    seconds_waited: float = 0.0
