"""Work of the event loop on many messages, during which other requests get their turn. `app` calls it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

#: Seconds for which messages are encoded or decoded before other requests get their turn.
TURN = 0.01
#: Bytes of an answer that are passed to the server at once.
PIECE_SIZE = 65536


async def collect(items: Iterable[T]) -> list[T]:
    """Return the items as a list. Making an item takes little time, making all of them can take long."""
    collected: list[T] = []
    turn_ends = time.monotonic() + TURN
    for item in items:
        collected.append(item)
        if time.monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.monotonic() + TURN
    return collected


async def encode(pieces: Iterable[bytes]) -> list[bytes]:
    """Return the body of an answer in pieces of about `PIECE_SIZE`."""
    if isinstance(pieces, list) and (not pieces or len(pieces[0]) <= PIECE_SIZE):
        return pieces
    encoded: list[bytes] = []
    small = bytearray()
    turn_ends = time.monotonic() + TURN
    for piece in pieces:
        if small and len(small) + len(piece) > PIECE_SIZE:
            encoded.append(bytes(small))
            small.clear()
        if len(piece) >= PIECE_SIZE:
            encoded += [piece[start : start + PIECE_SIZE] for start in range(0, len(piece), PIECE_SIZE)]
        else:
            small += piece
        if time.monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.monotonic() + TURN
    return [*encoded, bytes(small)] if small else encoded
