"""The turns of receives that fetch ahead."""

from __future__ import annotations

from azsession.client.fetch_turns import FetchTurns, Turn


def test_one_receive_has_the_turn_until_it_ends() -> None:
    turns, first, second = FetchTurns(), Turn(), Turn()
    assert turns.begin(first) is None
    assert turns.begin(second) is first
    assert turns.begin(None) is first
    # A receive that never had the turn ends.
    turns.end(second)
    assert turns.begin(None) is first
    turns.end(first)
    assert first.is_set()
    assert turns.begin(second) is None


def test_a_receive_that_fetches_nothing_ahead_takes_no_turn() -> None:
    turns = FetchTurns()
    assert turns.begin(None) is None
    assert turns.begin(Turn()) is None
