"""Ids for locks, requests and messages."""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """Return a random UUID as text (version 4, RFC 9562, section 5.4). Nobody can guess it, for example a lock id.

    The standard library's `uuid` would also load `platform`, which makes `import azsession` slower.
    """
    return _text(bytearray(os.urandom(16)), 4)


def new_ordered_id() -> str:
    """Return a UUID as text that begins with the time and is random otherwise (version 7, RFC 9562, section 5.7).

    For requests and messages. A server remembers their ids for some minutes, in an index. Ids of the same time are neighbours
    in it, so that many sends change few pages of the index.
    """
    return _text(bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)), 7)


def _text(value: bytearray, version: int) -> str:
    value[6] = value[6] & 0x0F | version << 4
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
