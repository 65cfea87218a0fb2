"""The readers of responses: they accept each valid response, and report each malformed one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import ConnectionFailedError
from azsession.protocol.wire import MalformedError

from ..fuzz import wire
from .server_responses import GOOD, LOCK, MESSAGE, VALUES, answered, in_session, places, put, take_and_settle

OPERATIONS = pytest.mark.parametrize("name", list(GOOD))


def read(name: str, body: bytes, headers: dict[str, str] | None = None) -> bool:
    """Parse a response and use the result. Return whether it could be parsed."""
    try:
        wire.read_answer(name, 200, list((GOOD[name][1] if headers is None else headers).items()), body)
    except MalformedError:
        return False
    return True


def test_every_json_parser_has_a_valid_response_here() -> None:
    # The other two parse raw bytes.
    assert set(wire.READERS) - {"receive", "state"} == set(GOOD)


@OPERATIONS
def test_a_valid_response_is_accepted(name: str) -> None:
    assert read(name, json.dumps(GOOD[name][0]).encode())


@OPERATIONS
@given(st.data())
def test_a_wrong_value_in_a_response_is_accepted_or_malformed(name: str, data: st.DataObject) -> None:
    good = GOOD[name][0]
    changed = put(good, data.draw(st.sampled_from(list(places(good)))), data.draw(VALUES))
    read(name, json.dumps(changed).encode())


@OPERATIONS
def test_every_part_of_a_response_can_have_any_type(name: str) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    kinds = [None, True, 0, -1, 2**70, 1.5, float("inf"), float("nan"), "", "\ud800", "..", "a\nb", "x" * 9999, [], {}, [{}]]
    for at in places(GOOD[name][0]):
        for kind in [*kinds, deep]:
            read(name, json.dumps(put(GOOD[name][0], at, kind)).encode())


@OPERATIONS
def test_a_truncated_response_is_malformed(name: str) -> None:
    whole = json.dumps(GOOD[name][0]).encode()
    # The response to a renewal has no body that is read.
    assert not any(read(name, whole[:end]) for end in range(len(whole))) or name == "renew"


@OPERATIONS
@given(st.sampled_from(sorted(LOCK)), st.text(st.characters(max_codepoint=255), max_size=20))
def test_a_malformed_header_of_a_response_is_ignored(name: str, header: str, value: str) -> None:
    body, headers = GOOD[name]
    assert read(name, json.dumps(body).encode(), {**headers, header: value})


@pytest.mark.parametrize("name", ["\ud800", "x" * 129, 5, None])
def test_an_invalid_session_id_is_malformed(name: Any) -> None:
    with answered(201, {"SessionId": name}, LOCK) as (provider, _), pytest.raises(ConnectionFailedError, match="malformed"):
        provider.create_session_client("q", auto_renew=False)


@pytest.mark.parametrize("token", ["", "\ud800", "x" * 257, 5, None])
def test_an_invalid_lock_token_is_malformed(token: Any) -> None:
    message = put(MESSAGE, ("BrokerProperties", "LockToken"), token)
    with (
        answered(201, [message], GOOD["receive many"][1]) as (provider, _),
        pytest.raises(ConnectionFailedError, match="malformed"),
    ):
        in_session(take_and_settle)(provider)


def test_invalid_attributes_of_a_message_are_dropped() -> None:
    message = put(MESSAGE, ("UserProperties",), {"a": 1, "b": [1], "c": {"d": 1}, "e": None, "f": "x", "g": True})
    with answered(200, [message], GOOD["receive many"][1]) as (provider, _):
        assert provider.peek_messages("q", "s")[0].attributes == {"a": 1, "e": None, "f": "x", "g": True}
        received = in_session(lambda session: session.receive_messages(1, timeout=0))(provider)
        assert received[0].attributes == {"a": 1, "e": None, "f": "x", "g": True}  # type: ignore[index]


@pytest.mark.parametrize("count", [-1, "1", None, 1.5])
def test_an_invalid_count_is_malformed(count: Any) -> None:
    assert not read("dead-letter session", json.dumps({"count": count}).encode())
