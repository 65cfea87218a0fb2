"""`turns`: messages are collected and encoded in order, and other tasks run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import pytest

from azsession.server.http import turns
from azsession.server.http.turns import PIECE_SIZE, collect, encode

T = TypeVar("T")


async def _with_another_task(work: Awaitable[T]) -> tuple[T, int]:
    """Return the result of some work, and how often another task ran meanwhile."""
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    result = await work
    task.cancel()
    return result, rounds


def test_items_are_collected_in_order() -> None:
    assert asyncio.run(collect(iter(range(100)))) == list(range(100))


@pytest.mark.parametrize("work", [collect, encode])
def test_other_tasks_run_while_many_items_are_made(work: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN", 0.0)

    def items() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%d" % number

    made, rounds = asyncio.run(_with_another_task(work(items())))  # type: ignore[operator]
    assert b"".join(made) == b"".join(items())
    assert rounds > 10


def test_a_short_body_stays_as_it_is() -> None:
    body = [b"x" * 10]
    assert asyncio.run(encode(body)) is body
    assert asyncio.run(encode([])) == []


def test_small_pieces_are_joined_and_large_ones_are_divided() -> None:
    pieces = [b"a" * 10, b"b" * 20, b"c" * (2 * PIECE_SIZE + 5), b"d" * 30]
    encoded = asyncio.run(encode(iter(pieces)))
    assert [len(piece) for piece in encoded] == [30, PIECE_SIZE, PIECE_SIZE, 5, 30]
    assert b"".join(encoded) == b"".join(pieces)
