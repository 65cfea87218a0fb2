"""Messages as AMQP messages, and AMQP messages as messages."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus._pyamqp._decode import decode_payload
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from hypothesis import given
from hypothesis import strategies as st

from azsession import Message
from azsession.amqp import (
    AmqpMessage,
    Described,
    Long,
    Timestamp,
    Ulong,
    decode_message,
    encode_message,
)
from azsession.amqp.message_mapping import peeked, received, to_amqp, token_of
from azsession.errors import ValidationError
from azsession.messages import PeekedMessage, ReceiptHandle, ReceivedMessage
from azsession.protocol.wire import decode_envelope, encode_envelope

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
EVERYTHING: dict[str, Any] = {
    "session_id": "tenant-é/1",
    "message_id": "m-1",
    "subject": "created",
    "content_type": "application/json",
    "correlation_id": "c-1",
    "reply_to": "answers",
    "reply_to_session_id": "r-1",
    "to": "somewhere",
    "time_to_live": timedelta(hours=1),
    "scheduled_enqueue_time": datetime(2026, 5, 6, 7, 8, 9, 123000, timezone.utc),
    "attributes": {"text": "é", "number": 2**62, "small": -1, "ratio": 0.1, "yes": True, "no": False},
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
attributes = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
    st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)),
    max_size=6,
)


def there_and_back(message: Message) -> PeekedMessage:
    return peeked(decode_message(to_amqp(message, NOW)))


def delivered(message: AmqpMessage) -> ReceivedMessage:
    receipt = ReceiptHandle("token", NOW, queue_name="q", session_id="s")
    return received(message, receipt, session_id="s", delivered_at=NOW)


def test_every_property_survives_the_round_trip() -> None:
    back = there_and_back(Message(b"body", **EVERYTHING))
    for name, value in EVERYTHING.items():
        assert getattr(back, name) == value, name
    assert back.body == b"body"
    assert {name: type(value) for name, value in back.attributes.items()} == {
        "text": str, "number": int, "small": int, "ratio": float, "yes": bool, "no": bool
    }  # fmt: skip


@given(st.binary(max_size=70000))
def test_a_body_survives_the_round_trip(body: bytes) -> None:
    assert there_and_back(Message(body)).body == body


@given(attributes)
def test_attributes_keep_their_types_in_the_round_trip(given_attributes: dict[str, Any]) -> None:
    back = there_and_back(Message(b"", attributes=given_attributes)).attributes
    assert back == given_attributes
    assert [type(value) for value in back.values()] == [type(value) for value in given_attributes.values()]


@given(texts, st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=3, max_size=128))
def test_text_of_any_script_survives_the_round_trip(text: str, session_id: str) -> None:
    back = there_and_back(Message(b"", subject=text, to=text, reply_to=text, session_id=session_id))
    assert (back.subject, back.to, back.reply_to, back.session_id) == (text, text, text, session_id)


def test_the_sdk_reads_what_we_send() -> None:
    raw = decode_payload(memoryview(to_amqp(Message(b"body", **EVERYTHING))))
    message: Any = ServiceBusReceivedMessage(raw, receiver=None)  # type: ignore[arg-type]
    assert b"".join(message.body) == b"body"
    assert (message.session_id, message.message_id, message.subject) == ("tenant-é/1", "m-1", "created")
    assert (message.content_type, message.correlation_id) == ("application/json", "c-1")
    assert (message.reply_to, message.reply_to_session_id, message.to) == ("answers", "r-1", "somewhere")
    assert message.time_to_live == timedelta(hours=1)
    assert message.scheduled_enqueue_time_utc == EVERYTHING["scheduled_enqueue_time"]
    assert message.application_properties == {
        name.encode(): value.encode() if isinstance(value, str) else value for name, value in EVERYTHING["attributes"].items()
    }


def test_we_read_what_the_sdk_sends() -> None:
    sent = ServiceBusMessage(
        b"body",
        session_id="s",
        message_id="m",
        subject="x",
        content_type="text/plain",
        correlation_id="c",
        reply_to="r",
        reply_to_session_id="rs",
        to="t",
        time_to_live=timedelta(minutes=5),
        scheduled_enqueue_time_utc=EVERYTHING["scheduled_enqueue_time"],
        application_properties={"text": "é", "number": 5, "ratio": 0.5, "yes": True, "id": uuid.UUID(int=7)},
    )
    message: Any = sent
    message._message = PyamqpTransport.to_outgoing_amqp_message(sent.raw_amqp_message)
    back = peeked(decode_message(PyamqpTransport.encode_message(message)))
    assert (back.body, back.session_id, back.message_id, back.subject) == (b"body", "s", "m", "x")
    assert (back.content_type, back.correlation_id, back.reply_to) == ("text/plain", "c", "r")
    assert (back.reply_to_session_id, back.to, back.time_to_live) == ("rs", "t", timedelta(minutes=5))
    assert back.scheduled_enqueue_time == EVERYTHING["scheduled_enqueue_time"]
    assert back.attributes == {"text": "é", "number": 5, "ratio": 0.5, "yes": True, "id": uuid.UUID(int=7)}


def test_a_message_without_an_id_gets_one() -> None:
    assert uuid.UUID(there_and_back(Message(b"")).message_id)


def test_a_time_to_live_sets_the_creation_time_and_the_expiry() -> None:
    message = decode_message(to_amqp(Message(b"", time_to_live=90), NOW))
    assert message.ttl_ms == 90_000
    assert message.creation_time is not None
    assert message.absolute_expiry == message.creation_time + 90_000


@pytest.mark.parametrize("lasts", [timedelta(days=50), timedelta(days=400), timedelta(milliseconds=1)])
def test_a_time_to_live_that_the_header_cannot_hold_survives_the_round_trip(lasts: timedelta) -> None:
    assert there_and_back(Message(b"", time_to_live=lasts)).time_to_live == lasts


def test_the_longest_time_to_live_ends_at_the_latest_time_of_azure() -> None:
    message = decode_message(to_amqp(Message(b"", time_to_live=timedelta(days=10_000_000)), NOW))
    assert message.absolute_expiry == 253402243199000


def test_a_time_to_live_below_a_millisecond_is_rounded_up() -> None:
    assert there_and_back(Message(b"", time_to_live=0.0001)).time_to_live == timedelta(milliseconds=1)


def test_a_scheduled_time_is_rounded_up() -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 1, timezone.utc)
    assert there_and_back(Message(b"", scheduled_enqueue_time=at)).scheduled_enqueue_time == at.replace(microsecond=1000)


def test_an_attribute_of_more_than_64_bits_is_refused() -> None:
    message = Message(b"")
    message.attributes["n"] = 2**64
    with pytest.raises(ValidationError, match="'n' does not fit into 64 bits"):
        to_amqp(message)


def test_a_received_message_has_the_annotations_of_azure() -> None:
    annotations = {
        "x-opt-sequence-number": Long(2**50 + 1),
        "x-opt-enqueued-time": Timestamp(1_700_000_000_123),
        "x-opt-message-state": 1,
    }
    raw = encode_message(AmqpMessage(annotations=annotations, group_id="s", data=b"x"))
    message = delivered(decode_message(raw)._replace(delivery_count=2))
    assert message.sequence_number == 2**50 + 1
    assert message.enqueued_at == datetime(2023, 11, 14, 22, 13, 20, 123000, timezone.utc)
    assert (message.delivery_count, message.state, message.delivered_at) == (3, "Deferred", NOW)
    assert (message.receipt.handle, message.receipt.expires_at) == ("token", NOW)
    assert (message.receipt.queue_name, message.receipt.session_id, message.session_id) == ("q", "s", "s")


def test_a_first_delivery_counts_one_and_a_peeked_message_none() -> None:
    message = decode_message(to_amqp(Message(b"")))
    assert delivered(message).delivery_count == 1
    assert peeked(message).delivery_count == 0


@pytest.mark.parametrize(
    ("annotations", "dead_letter", "state"),
    [
        ({}, False, "Active"),
        ({"x-opt-message-state": 0}, False, "Active"),
        ({"x-opt-message-state": 1}, False, "Deferred"),
        ({"x-opt-message-state": 2}, False, "Scheduled"),
        ({"x-opt-message-state": 0}, True, "DeadLettered"),
        ({"x-opt-message-state": "?"}, False, "Active"),
    ],
)
def test_a_peeked_message_has_a_state(annotations: dict[str, Any], dead_letter: bool, state: str) -> None:
    assert peeked(AmqpMessage(annotations=annotations), dead_letter=dead_letter).state == state


def test_the_reason_of_a_dead_letter_is_not_an_attribute() -> None:
    properties = {"DeadLetterReason": "broken", "DeadLetterErrorDescription": "no id", "mine": 1}
    message = peeked(AmqpMessage(application_properties=properties), dead_letter=True)
    assert (message.dead_letter_reason, message.dead_letter_description) == ("broken", "no id")
    assert message.attributes == {"mine": 1}


def test_attributes_of_other_types_become_text() -> None:
    foreign = {
        "far": Timestamp(2**62),
        "decimal": Decimal("1.50"),
        "nan": float("nan"),
        "infinite": float("-inf"),
        "list": [1, "a"],
        "described": Described("com.microsoft:timespan", 5),
        7: "number",
    }
    message = peeked(AmqpMessage(application_properties=foreign))  # type: ignore[arg-type]
    assert message.attributes == {
        "far": str(2**62),
        "decimal": "1.50",
        "nan": "nan",
        "infinite": "-inf",
        "list": '[1,"a"]',
        "described": "5",
        "7": "number",
    }
    assert decode_envelope(encode_envelope([message]))[0]["attributes"] == message.attributes


def test_attributes_of_other_senders_keep_their_types() -> None:
    foreign = {
        "uuid": uuid.UUID(int=1),
        "time": Timestamp(1_700_000_000_123),
        "binary": b"\xff\x00",
        "none": None,
        "ubyte": 255,
        "ulong": Ulong(2**64 - 1),
    }
    message = peeked(decode_message(encode_message(AmqpMessage(application_properties=foreign))))
    assert message.attributes == {
        **foreign,
        "time": datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=timezone.utc),
    }
    again = decode_message(to_amqp(Message(b"", attributes=message.attributes))).application_properties
    assert again == foreign
    assert type(again["time"]) is Timestamp
    assert decode_envelope(encode_envelope([message]))[0]["attributes"] == message.attributes


@pytest.mark.parametrize(
    ("message_id", "text"),
    [(uuid.UUID(int=3), str(uuid.UUID(int=3))), (42, "42"), (b"abc", "abc"), (b"\xff", "/w=="), (True, "true")],
)
def test_an_id_of_any_type_becomes_text(message_id: Any, text: str) -> None:
    message = peeked(AmqpMessage(message_id=message_id, correlation_id=message_id))
    assert (message.message_id, message.correlation_id) == (text, text)


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=9), st.uuids(), st.decimals(),
        st.integers().map(Timestamp),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@given(st.lists(anything, min_size=14, max_size=14), st.dictionaries(texts, anything, max_size=5))
def test_no_message_raises_an_error(values: list[Any], properties: dict[str, Any]) -> None:
    annotations = {
        "x-opt-sequence-number": values[0],
        "x-opt-enqueued-time": values[1],
        "x-opt-message-state": values[2],
    }
    names = ["ttl_ms", "delivery_count", "message_id", "to", "subject", "reply_to", "correlation_id", "content_type"]
    names += ["absolute_expiry", "creation_time", "group_id"]
    fields = dict(zip(names, values[3:], strict=True))
    message = AmqpMessage(annotations=annotations, application_properties=properties, value=values[0], **fields)
    for shown in (peeked(message), delivered(message)):
        assert isinstance(encode_envelope([shown]), bytes)


def test_a_boolean_is_not_a_count_or_a_sequence_number() -> None:
    # With a boolean there, clients would refuse the answer, and nobody could receive the message.
    strange = AmqpMessage(delivery_count=True, annotations={"x-opt-sequence-number": True}, data=b"x")
    looked_at = peeked(strange)
    assert (looked_at.delivery_count, looked_at.sequence_number) == (0, 0)
    assert type(looked_at.delivery_count) is int
    assert decode_envelope(encode_envelope([looked_at]))[0]["delivery_count"] == 0


def test_a_lock_token_is_the_guid_of_the_delivery_tag() -> None:
    token = uuid.uuid4()
    assert token_of(token.bytes_le) == str(token)


@pytest.mark.parametrize("tag", [b"", b"short", bytes(17)])
def test_a_tag_that_is_not_a_guid_is_refused(tag: bytes) -> None:
    with pytest.raises(ValueError, match="16"):
        token_of(tag)


@given(st.uuids())
def test_a_lock_token_is_the_guid_in_the_delivery_tag(token: uuid.UUID) -> None:
    assert token_of(token.bytes_le) == str(token)


@pytest.mark.parametrize("tag", [b"", b"x" * 15, b"x" * 17])
def test_a_delivery_tag_that_is_no_guid_is_an_error(tag: bytes) -> None:
    with pytest.raises(ValueError, match="lock token"):
        token_of(tag)
