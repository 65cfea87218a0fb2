"""Messages and receipts: their checks, and that they are immutable values that can cross processes."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import InvalidReceiptError, Message, PeekedMessage, ReceiptHandle, ReceivedMessage, ValidationError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
RECEIPT = ReceiptHandle("token", NOW, queue_name="orders", session_id="a/b état")


def received(**fields: Any) -> ReceivedMessage:
    return ReceivedMessage(**{"body": b"paid", "receipt": RECEIPT, "delivered_at": NOW, **fields})


def test_a_text_body_is_sent_as_utf8() -> None:
    assert Message("état").body == "état".encode()
    assert Message(b"\xff").body == b"\xff"


@pytest.mark.parametrize("body", [None, 5, ["x"], bytearray(b"x"), {"a": 1}, "\ud800"])
def test_a_body_that_is_not_bytes_or_text_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError, match="body"):
        Message(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"session_id": "\ud800"},
        {"session_id": "x" * 129},
        {"message_id": "x" * 129},
        {"message_id": 5},
        {"correlation_id": "x" * 129},
        {"subject": "\ud800"},
        {"content_type": "x" * 257},
        {"reply_to_session_id": "x" * 129},
        {"time_to_live": 0},
        {"time_to_live": -1},
        {"time_to_live": "1"},
        {"scheduled_enqueue_time": datetime(2026, 1, 1)},
        {"scheduled_enqueue_time": 5},
        {"attributes": {"a": object()}},
        {"attributes": None},
        {"attributes": 7},
        {"time_to_live": 1e15},
        {"time_to_live": 10**400},
        {"scheduled_enqueue_time": datetime.max.replace(tzinfo=timezone(timedelta(hours=-8)))},
        {"scheduled_enqueue_time": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
    ],
)
def test_a_field_of_a_wrong_type_or_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Message(b"x", **fields)


def test_an_enqueue_time_becomes_utc_and_a_time_to_live_becomes_a_timedelta() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    message = Message(b"x", scheduled_enqueue_time=at, time_to_live=1.5)
    assert message.scheduled_enqueue_time == at
    assert str(message.scheduled_enqueue_time) == "2026-01-01 10:00:00+00:00"
    assert message.time_to_live == timedelta(seconds=1.5)


@pytest.mark.parametrize("message", [Message(b"x"), PeekedMessage(body=b"x"), received(), RECEIPT])
def test_messages_and_receipts_are_immutable_and_hashable(message: Any) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.session_id = "x"
    assert not hasattr(message, "__dict__")
    assert len({message, attrs.evolve(message)}) == 1


def test_a_message_copies_its_attributes() -> None:
    attributes: dict[str, Any] = {"a": 1}
    message = Message(b"x", attributes=attributes)
    attributes["a"] = 2
    assert message.attributes == {"a": 1}


@pytest.mark.parametrize("value", [Message(b"x", attributes={"a": 1.5}), received(attributes={"a": True}), RECEIPT])
def test_messages_and_receipts_can_be_pickled(value: Any) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_repr_shows_neither_body_nor_token() -> None:
    shown = repr(Message(b"confidential")) + repr(received(body=b"confidential")) + repr(RECEIPT)
    assert "confidential" not in shown
    assert "token" not in shown
    assert "<12 bytes>" in shown


def test_a_body_is_read_as_text_or_json() -> None:
    message = received(body='{"état": [1]}'.encode())
    assert message.text() == '{"état": [1]}'
    assert message.json() == {"état": [1]}
    assert received(body=b"\xe9").text("latin-1") == "é"
    with pytest.raises(UnicodeDecodeError):
        received(body=b"\xe9").text()
    with pytest.raises(json.JSONDecodeError):
        received(body=b"{").json()


def test_a_message_expires_after_its_time_to_live() -> None:
    assert received(enqueued_at=NOW, time_to_live=timedelta(seconds=5)).expires_at == NOW + timedelta(seconds=5)
    assert received(enqueued_at=NOW).expires_at is None
    assert received(time_to_live=timedelta(seconds=5)).expires_at is None
    assert received(enqueued_at=NOW, time_to_live=timedelta.max).expires_at is None


# The text of receipts

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128).filter(
    lambda t: t not in (".", "..")
)


@given(token=TEXT, session_id=TEXT, expires_at=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_a_receipt_survives_conversion_to_text_and_back(token: str, session_id: str, expires_at: datetime | None) -> None:
    at = None if expires_at is None else expires_at.replace(microsecond=0, tzinfo=timezone.utc)
    receipt = ReceiptHandle(token, at, queue_name="events/subscriptions/a", session_id=session_id)
    text = str(receipt)
    assert ReceiptHandle.parse(text) == receipt
    assert text.isascii()
    assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()


def packed(value: Any) -> str:
    return "azs1." + base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "token",
        "azs1.",
        "azs1.####",
        "azs2." + str(RECEIPT)[5:],
        str(RECEIPT)[:-3],
        str(RECEIPT)[5:],
        str(RECEIPT) + "é",
        str(RECEIPT) * 40,
        packed([]),
        packed({}),
        packed("x"),
        packed(["orders", "s1", "t"]),
        packed(["orders", "s1", "t", 1, 2]),
        packed(["a b", "s1", "t", None]),
        packed(["orders", "x" * 129, "t", None]),
        packed(["orders", "s1", 5, None]),
        packed(["orders", "s1", "x" * 257, None]),
        packed(["orders", "s1", "t", "soon"]),
        packed(["orders", "s1", "t", 1e300]),
        packed(["orders", "s1", "t", float("nan")]),
        packed([[[[[]]]]]),
        None,
        5,
        b"azs1.",
    ],
)
def test_text_that_is_not_a_receipt_raises_invalid_receipt_error(text: Any) -> None:
    with pytest.raises(InvalidReceiptError):
        ReceiptHandle.parse(text)


def test_the_error_of_a_damaged_receipt_has_no_cause_that_shows_the_token() -> None:
    damaged = str(ReceiptHandle("secret-token", queue_name="q", session_id="s"))[:-6]
    with pytest.raises(InvalidReceiptError) as caught:
        ReceiptHandle.parse(damaged)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@given(st.text(max_size=60))
def test_parsing_any_text_raises_nothing_but_invalid_receipt_error(text: str) -> None:
    for form in (text, "azs1." + text):
        with contextlib.suppress(InvalidReceiptError):
            ReceiptHandle.parse(form)


def test_the_text_of_a_receipt_has_its_route_and_is_shorter_without_one() -> None:
    with_route = ReceiptHandle("token", NOW, queue_name="orders", session_id="s1", route="0a1b2c3d")
    assert ReceiptHandle.parse(str(with_route)) == with_route
    without = attrs.evolve(with_route, route="")
    assert ReceiptHandle.parse(packed(["orders", "s1", "token", NOW.timestamp()])) == without
    assert len(str(without)) < len(str(with_route))


@pytest.mark.parametrize("route", ["a\r\nX-Evil: 1", "a b", "é", "x" * 65, None, 7])
def test_a_receipt_whose_route_cannot_be_a_header_is_refused(route: object) -> None:
    with pytest.raises(InvalidReceiptError):
        ReceiptHandle.parse(packed(["orders", "s1", "token", None, route]))


def test_a_receipt_with_an_empty_lock_token_is_refused() -> None:
    with pytest.raises(InvalidReceiptError):
        ReceiptHandle.parse(packed(["orders", "s1", "", None]))
