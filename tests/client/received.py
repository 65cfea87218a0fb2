"""Makes messages as a client receives them, for tests without a server."""

from __future__ import annotations

from datetime import datetime, timezone

from azsession import ReceiptHandle, ReceivedMessage

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def received(number: int, *, sequence_number: int | None = None) -> ReceivedMessage:
    """Return the message with this number of the session `s1` of `orders`. Its lock token is `t` and the number."""
    return ReceivedMessage(
        body=b"",
        sequence_number=number if sequence_number is None else sequence_number,
        receipt=ReceiptHandle(f"t{number}", queue_name="orders", session_id="s1"),
        delivered_at=NOW,
    )
