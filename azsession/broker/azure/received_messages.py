"""`ReceivedMessages`: the messages of a receive, decoded when they are first read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from typing import overload

from ...amqp.message_mapping import received
from ...messages import ReceiptHandle, ReceivedMessage, UndecodedMessages
from .session.offers import OfferingSession
from .session.unsettled import UnsettledMessage


class ReceivedMessages(UndecodedMessages):
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

            def receipt(token: str) -> ReceiptHandle:
                return ReceiptHandle(token, expires_at, queue_name=self._queue_name, session_id=self._session_id)

            self._decoded = self.received_as(receipt, self._session_id, delivered_at)
        return self._decoded

    def received_as(
        self, receipt: Callable[[str], ReceiptHandle], session_id: str, delivered_at: datetime
    ) -> list[ReceivedMessage]:
        return [
            received(one.decoded(), receipt(one.token), session_id=session_id, delivered_at=delivered_at)
            for one in self._encoded
        ]
