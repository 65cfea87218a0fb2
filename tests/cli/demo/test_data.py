"""The messages of the demo."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.cli.demo.data import by_session, choose_roles, from_messages, make_orders

from .helpers import bodies, message


def test_a_session_with_integer_positions_is_sorted_by_them() -> None:
    sent = from_messages([message("a", position=2), message("b", position=7), message("a", position=1)])
    assert [(each.session_id, each.place) for each in sent] == [("a", 1), ("b", 1), ("a", 2)]
    assert [body["position"] for body in bodies(sent)] == [1, 7, 2]


@pytest.mark.parametrize("first", [None, "9", 9.5, True, {"x": 1}])
def test_a_session_without_integer_positions_keeps_its_order(first: Any) -> None:
    sent = from_messages([message("a", position=first, n=1), message("a", position=1, n=2)])
    assert [body["n"] for body in bodies(sent)] == [1, 2]


@given(st.integers())
def test_every_seed_generates_a_few_hundred_events_of_orders(seed: int) -> None:
    sent = make_orders(seed)
    sessions = by_session(sent)
    assert len(sessions) == 24
    assert 190 <= len(sent) <= 440
    assert len({each.message_id for each in sent}) == len(sent)
    for session_id, messages in sessions.items():
        assert [each.place for each in messages] == list(range(1, len(messages) + 1))
        assert [body["position"] for body in bodies(messages)] == list(range(1, len(messages) + 1))
        assert {body["session_id"] for body in bodies(messages)} == {session_id}
        times = [body["at"] for body in bodies(messages)]
        assert times == sorted(times)


def test_only_the_same_seed_generates_the_same_messages() -> None:
    assert make_orders(5) == make_orders(5)
    assert make_orders(5) != make_orders(6)


def test_the_generated_sessions_are_interleaved() -> None:
    sent = make_orders(1)
    changes = sum(one.session_id != other.session_id for one, other in pairwise(sent))
    assert changes > len(sent) / 2


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.integers(1, 8), st.integers())
def test_each_role_gets_its_own_message_as_long_as_there_are_messages(ids: list[str], workers: int, seed: int) -> None:
    sent = from_messages(message(session_id) for session_id in ids)
    roles = choose_roles(sent, workers, seed)
    chosen = [role for role in attrs.astuple(roles) if role is not None]
    assert len(set(chosen)) == len(chosen) == min(3, len(sent))
    assert {each.message_id for each in sent} >= set(chosen)
    sessions = {each.session_id for each in sent if each.message_id in chosen}
    assert len(sessions) == min(3, len(set(ids)))
