"""Lock tokens of messages: a GUID that contains the message's sequence number."""

from __future__ import annotations

import secrets

from .message_keys import SEQUENCE_MASK, message_key


def new_token(key: int) -> str:
    """Return a lock token: a GUID made of the message's sequence number and 88 random bits."""
    number = (key & SEQUENCE_MASK) << 88 | secrets.randbits(88)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def token_key(queue_id: int, token: str) -> int | None:
    """Return the key of a lock token's message, or `None` if the text is not a lock token of this broker."""
    digits = token.replace("-", "")
    if len(token) != 36 or len(digits) != 32:
        return None
    try:
        return message_key(queue_id, int(digits, 16) >> 88)
    except ValueError:
        return None
