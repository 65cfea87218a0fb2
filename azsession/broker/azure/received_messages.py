"""`ReceivedMessages`: the messages of a receive, decoded when they are first read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import overload

from ...amqp.message_mapping import received
from ...messages import ReceivedMessage
from .session.offers import OfferingSession
from .session.unsettled import UnsettledMessage


class ReceivedMessages(Sequence[ReceivedMessage]):
    """The messages of a receive. The caller's thread decodes them, not the loop's: many messages take tens of milliseconds.

    Args:
        session: The session.
        messages: Its messages.
    """

    def __init__(self, session: OfferingSession, messages: Sequence[UnsettledMessage]) -> None:
        self._queue_name = session.entity
        self._session_id = session.session_id or ""
        self._delivered_at = time.time()
        self._expires_at = self._delivered_at + session.lock.left()
        self._encoded = messages
        self._decoded: list[ReceivedMessage] | None = None

    def __len__(self) -> int:
        return len(self._encoded)

    def __iter__(self) -> Iterator[ReceivedMessage]:
        return iter(self._messages())

    @overload
    def __getitem__(self, index: int) -> ReceivedMessage: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReceivedMessage]: ...
    def __getitem__(self, index: int | slice) -> ReceivedMessage | list[ReceivedMessage]:
        return self._messages()[index]

    def _messages(self) -> list[ReceivedMessage]:
        if self._decoded is None:
            expires_at, delivered_at = (
                datetime.fromtimestamp(at, timezone.utc) for at in (self._expires_at, self._delivered_at)
            )
            self._decoded = [
                received(
                    message.message,
                    message.token,
                    queue_name=self._queue_name,
                    session_id=self._session_id,
                    expires_at=expires_at,
                    delivered_at=delivered_at,
                )
                for message in self._encoded
            ]
        return self._decoded
