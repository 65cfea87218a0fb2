"""The lines of an export: every message comes back as it was, and a malformed line says what is wrong."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import Message, PeekedMessage, ValidationError
from azsession.cli.export_lines import ExportedMessage, ExportedState, message_line, parse_line, state_line

_texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.binary(max_size=30)
    | st.uuids()
    | st.datetimes(timezones=st.just(timezone.utc))
)
_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
_messages = st.builds(
    Message,
    st.binary(max_size=300),
    session_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=128),
    message_id=_texts,
    subject=_texts,
    content_type=_texts,
    correlation_id=_texts,
    reply_to=_texts,
    reply_to_session_id=_texts,
    to=_texts,
    time_to_live=st.none() | st.timedeltas(timedelta(microseconds=1000), timedelta(days=20000)),
    scheduled_enqueue_time=st.none() | st.datetimes(timezones=st.just(timezone.utc)),
    attributes=st.dictionaries(_names, _values, max_size=5),
)


def peeked(message: Message, **fields: Any) -> PeekedMessage:
    own = {field.name: getattr(message, field.name) for field in attrs.fields(Message)}
    now = datetime.now(timezone.utc)
    return PeekedMessage(**own, sequence_number=7, delivery_count=3, enqueued_at=now, **fields)


@given(_messages, st.sampled_from(["Active", "Scheduled"]))
def test_a_message_comes_back_as_it_was(message: Message, state: str) -> None:
    if state == "Scheduled" and message.scheduled_enqueue_time is None:
        state = "Active"
    line = message_line(peeked(message, state=state))
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert parse_line(line) == ExportedMessage(message, message.session_id or "")


@given(_messages, _texts, _texts)
def test_a_dead_letter_comes_back_with_its_reason(message: Message, reason: str | None, description: str | None) -> None:
    line = message_line(peeked(message, state="DeadLettered", dead_letter_reason=reason, dead_letter_description=description))
    found = parse_line(line)
    assert isinstance(found, ExportedMessage)
    assert (found.is_dead, found.reason, found.description) == (True, reason or "", description)
    assert found.message == attrs.evolve(message, scheduled_enqueue_time=None)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=128), st.binary(max_size=300))
def test_a_session_state_comes_back_as_it_was(session_id: str, state: bytes) -> None:
    assert parse_line(state_line(session_id, state)) == ExportedState(session_id, state)


def test_a_deferred_message_is_marked() -> None:
    found = parse_line(message_line(peeked(Message("x", session_id="s"), state="Deferred")))
    assert isinstance(found, ExportedMessage)
    assert (found.is_deferred, found.is_dead) == (True, False)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": None}, "kind must be message, dead_letter or session_state"),
    ({"kind": "mesage"}, "kind must be"),
    ({"kind": ["message"]}, "kind must be"),
    ({"session_id": None}, "session_id is missing"),
    ({"session_id": 5}, "session_id must be text"),
    ({"session_id": "x" * 129}, "at most 128 characters"),
    ({"session_id": "\ud800"}, "lone surrogate"),
    ({"body": None}, "body is missing"),
    ({"body": {"a": 1}}, "body must be text"),
    ({"body": "\ud800"}, "lone surrogate"),
    ({"body": "a", "body_encoding": "base64"}, "not base64"),
    ({"body": "ä", "body_encoding": "base64"}, "not base64"),
    ({"body_encoding": "hex"}, "body_encoding must be"),
    ({"state": "Dead"}, "state must be"),
    ({"state": ["Active"]}, "state must be"),
    ({"state": "Scheduled"}, "needs a scheduled_enqueue_time"),
    ({"sesion_id": "s"}, "no field 'sesion_id'; did you mean 'session_id'"),
    ({"dead_letter_reason": "x"}, "a message has no field 'dead_letter_reason'"),
    ({"message_id": 5}, "message_id must be text"),
    ({"message_id": "x" * 129}, "message_id must have at most 128"),
    ({"time_to_live": "5"}, "time_to_live must be a number"),
    ({"time_to_live": True}, "time_to_live must be a number"),
    ({"time_to_live": 0}, "time_to_live"),
    ({"time_to_live": -1}, "time_to_live"),
    ({"time_to_live": float("nan")}, "time_to_live"),
    ({"time_to_live": 1e300}, "time_to_live"),
    ({"time_to_live": 10**400}, "time_to_live|too large"),
    ({"scheduled_enqueue_time": "tomorrow"}, "ISO 8601"),
    ({"scheduled_enqueue_time": "2026-01-01T00:00:00"}, "with a time zone"),
    ({"scheduled_enqueue_time": 5}, "scheduled_enqueue_time must be text"),
    ({"attributes": [1]}, "must be objects"),
    ({"attribute_types": "x"}, "must be objects"),
    ({"attributes": {"a": [1]}}, "the attribute 'a' must be"),
    ({"attributes": {"a": 2**65}}, "a"),
    ({"attributes": {"a": float("inf")}}, "a"),
    ({"attributes": {"": 1}}, "attribute"),
    ({"attributes": {"a": "x"}, "attribute_types": {"a": "uuid"}}, "the attribute 'a' is not a uuid"),
    ({"attributes": {"a": 1}, "attribute_types": {"a": "bytes"}}, "must be text"),
    ({"attributes": {"a": "x"}, "attribute_types": {"a": "class"}}, "is not a class"),
    ({"kind": "dead_letter", "dead_letter_reason": 5}, "dead_letter_reason must be text"),
    ({"kind": "dead_letter", "dead_letter_reason": "x" * 4097}, "at most 4096"),
    ({"kind": "session_state", "message_id": "x"}, "a session_state has no field 'message_id'"),
]


@pytest.mark.parametrize(("change", "why"), WRONG, ids=[str(list(change)) for change, _ in WRONG])
def test_a_malformed_line_says_what_is_wrong(change: dict[str, Any], why: str) -> None:
    line = {"kind": "message", "session_id": "s", "body": "x", **change}
    with pytest.raises(ValidationError, match=why):
        parse_line(json.dumps({name: value for name, value in line.items() if value is not None}).encode())


@pytest.mark.parametrize("line", [b"[1]", b"\xff", b"{", b'"x"', b"[" * 100_000, b"{}", b"null", b'{"kind": {}}'])
def test_a_line_that_is_no_such_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        parse_line(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_a_validation_error(line: bytes) -> None:
    try:
        parse_line(line)
    except ValidationError:
        return
