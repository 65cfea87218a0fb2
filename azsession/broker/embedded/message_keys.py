"""The keys of stored messages: ``queue_id << 40 | sequence_number``."""

from __future__ import annotations

SEQUENCE_BITS = 40
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1


def message_key(queue_id: int, sequence_number: int) -> int:
    """Return the key of a message."""
    return queue_id << SEQUENCE_BITS | sequence_number


def find_key(queue_id: int, sequence_number: int) -> int:
    """Return the key for a sequence number from a caller.

    A number out of range would be the key of a message in another queue. It becomes 0, the key of no message.
    """
    return message_key(queue_id, sequence_number) if 0 <= sequence_number <= SEQUENCE_MASK else 0
