"""`MessageCoder`: encodes messages for Azure, and decodes those that came. A thread does it if there are many.

Coding a thousand messages takes tens of milliseconds. The loop serves other sessions meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from ... import amqp
from ...messages import Message, ReceivedMessage
from .message_mapping import received, to_amqp
from .session.held_session import HeldSession
from .session.unsettled import UnsettledMessage
from .transport.loop import Loop
from .transport.task import done_within
from .transport.workers import Workers

T = TypeVar("T")

#: From how many messages on a thread codes them.
MANY = 100


class MessageCoder:
    """Encodes and decodes messages.

    Args:
        loop: The loop whose coroutines call this.
    """

    def __init__(self, loop: Loop) -> None:
        self._workers = Workers(loop, "azsession-coding", 1)

    async def encode(self, messages: Sequence[Message]) -> tuple[bytes, int]:
        """Return the payload of a transfer with these messages, and its message format.

        Raises:
            ValidationError: AMQP cannot carry an attribute.
        """

        def work() -> tuple[bytes, int]:
            encoded = [to_amqp(message) for message in messages]
            return (encoded[0], 0) if len(encoded) == 1 else (amqp.encode_batch(encoded), amqp.BATCH_FORMAT)

        return await self._do(work, len(messages))

    async def received(self, session: HeldSession, messages: Sequence[UnsettledMessage]) -> list[ReceivedMessage]:
        """Return messages of a session as the caller gets them."""
        now = datetime.now(timezone.utc)
        expires_at = now + timedelta(seconds=session.lock.left())

        def work() -> list[ReceivedMessage]:
            return [
                received(
                    message.message,
                    message.token,
                    queue_name=session.entity,
                    session_id=session.session_id or "",
                    expires_at=expires_at,
                    delivered_at=now,
                )
                for message in messages
            ]

        return await self._do(work, len(messages))

    async def _do(self, work: Callable[[], T], count: int) -> T:
        if count < MANY:
            return work()
        result = self._workers.run(work)
        await done_within(result, None)
        return result.result()
