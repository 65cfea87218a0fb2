"""A stored message, as `Store` reads it."""

from __future__ import annotations

import attrs

from .message_keys import SEQUENCE_MASK


@attrs.frozen
class Row:
    """A stored message with its delivery count. `encoded` has the parts of an AMQP message, as `EncodedMessage` has them."""

    key: int
    status: int
    enqueued: float
    expires: float | None
    reason: str | None
    description: str | None
    properties: str
    body: bytes
    encoded: bytes | None
    count: int

    @property
    def sequence_number(self) -> int:
        """The message's sequence number."""
        return self.key & SEQUENCE_MASK

    @property
    def size(self) -> int:
        """The bytes of its body, and of the parts of its AMQP message."""
        return len(self.body) + len(self.encoded or b"")
