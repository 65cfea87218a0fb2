"""Random ids for locks, requests and messages."""

from __future__ import annotations

import os


def new_id() -> str:
    """Return a random UUID as text (version 4, RFC 9562, section 5.4).

    The standard library's `uuid` would also load `platform`, which makes `import azsession` slower.
    """
    value = bytearray(os.urandom(16))
    value[6] = value[6] & 0x0F | 0x40
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
