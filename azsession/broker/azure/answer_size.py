"""The bound on the messages in one answer. The receives and peeks of `AzureBroker` keep to it."""

from __future__ import annotations

from collections.abc import Sequence

#: The most bytes of encoded messages in one answer, unless its first message is larger.
MAX_ANSWER_SIZE = 16 * 1024 * 1024


def fitting(payloads: Sequence[bytes]) -> int:
    """Return how many of these encoded messages one answer holds: up to `MAX_ANSWER_SIZE` bytes, but at least one message."""
    if sum(map(len, payloads)) <= MAX_ANSWER_SIZE:
        return len(payloads)
    count = size = 0
    for payload in payloads:
        size += len(payload)
        if count and size > MAX_ANSWER_SIZE:
            break
        count += 1
    return count
