"""The exceptions that a handler raises to dead-letter messages, and the counters that a processor reports."""

from __future__ import annotations

import attrs

from ..display import html_table, short_repr
from ..errors import ValidationError


class _DeadLetterRequest(Exception):  # noqa: N818 - not a failure, but the handler's decision
    def __init__(self, reason: str, description: str | None = None) -> None:
        super().__init__(reason, description)
        for name, text in (("reason", reason), ("description", "" if description is None else description)):
            if not isinstance(text, str):
                raise ValidationError(f"a dead-letter {name} must be a str, not {type(text).__name__}")
        self.reason: str = reason
        self.description = description

    def __str__(self) -> str:
        return self.reason


class DeadLetter(_DeadLetterRequest):
    """A handler raises this to dead-letter its message. The processor continues with the session's next message.

    It is not reported to `on_error`.

        >>> def handle(message, session):
        ...     if not message.body:
        ...         raise DeadLetter("EmptyBody", "an order needs a body")

    Args:
        reason: The reason kept with the dead letter. A text of more than 4096 characters is cut, which is logged.
        description: More details, likewise.

    Raises:
        ValidationError: An argument is not a str.
    """


class DeadLetterSession(_DeadLetterRequest):
    """A handler raises this to dead-letter its message and all messages that are left in the session.

    It is not reported to `on_error`.

        >>> def handle(message, session):
        ...     if message.subject == "customer-deleted":
        ...         raise DeadLetterSession("CustomerDeleted")

    Args:
        reason: The reason kept with each dead letter. A text of more than 4096 characters is cut, which is logged.
        description: More details, likewise.

    Raises:
        ValidationError: An argument is not a str.
    """


@attrs.frozen
class ProcessorStats:
    """The counters of a `SessionProcessor` since its latest start.

    Attributes:
        sessions_open: Sessions that are being handled at the moment.
        sessions_parked: Sessions that are held at the moment because a message of theirs failed a short time ago.
        sessions_done: Sessions that were handled and released. A session that is taken twice counts twice.
        messages_done: Messages whose handler returned and that the server confirmed as settled.
        messages_failed: Failed attempts: the handler raised, or its message could not be settled.
        messages_dead_lettered: Messages that handlers dead-lettered.
        messages_per_second: Messages done or dead-lettered per second, over the last 10 seconds.
        seconds_waited: Seconds that the slots waited for sessions, summed over all slots.
    """

    sessions_open: int = 0
    sessions_parked: int = 0
    sessions_done: int = 0
    messages_done: int = 0
    messages_failed: int = 0
    messages_dead_lettered: int = 0
    messages_per_second: float = 0.0
    seconds_waited: float = 0.0

    __repr__ = short_repr
    _repr_html_ = html_table
