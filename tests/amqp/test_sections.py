"""A message that is stored and delivered keeps the sender's parts byte by byte."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from azsession.amqp import AmqpMessage, MalformedFrameError, Timestamp, decode_message, delivered, encode_message, stored
from azsession.amqp.encoding import descriptor, encode_value
from azsession.amqp.sections import each_section
from azsession.amqp.types import Symbol

PLAIN = encode_message(
    AmqpMessage(
        durable=True,
        priority=7,
        ttl_ms=1000,
        annotations={"x-opt-partition-key": "k", "x-opt-sequence-number": 5},
        message_id=uuid.uuid4(),
        group_id="s",
        application_properties={"one": 1, "DeadLetterReason": "older"},
        data=b"body",
    )
)
VALUE = descriptor(0x77) + encode_value({"a": [1, None, Timestamp(5)]})
SEQUENCES = descriptor(0x76) + encode_value([1, "b"]) + descriptor(0x76) + encode_value([2])
TWO_DATA = descriptor(0x75) + encode_value(b"a") + descriptor(0x75) + encode_value(b"b")
FOOTER = descriptor(0x78) + encode_value({})
SUBJECT = descriptor(0x73) + encode_value([None, b"user", "to", "placed", None, "correlation", None, None, None, None, "s"])


def sent_again(kept: bytes, body: bytes, **changes: Any) -> bytes:
    given: dict[str, Any] = {"failed_deliveries": 3, "annotations": {"x-opt-enqueued-time": Timestamp(9)}, "properties": {}}
    return delivered(kept, body, **{**given, **changes})


def bare(payload: bytes) -> list[bytes]:
    """Return the sections of the bare message (§3.2): those that nobody may change."""
    return [payload[each.start : each.end] for each in each_section(payload) if 0x73 <= each.code <= 0x77]


@pytest.mark.parametrize(
    "body", [VALUE, SEQUENCES, TWO_DATA, TWO_DATA + FOOTER, descriptor(0x75) + encode_value(b"a") + FOOTER]
)
def test_bodies_of_all_kinds_are_kept(body: bytes) -> None:
    payload = encode_message(AmqpMessage(message_id=5, group_id="s")) + body
    again = sent_again(stored(payload), b"the mapped body")
    assert bare(again) == bare(payload)
    assert again.endswith(body)


def test_a_body_of_one_data_section_is_kept_once() -> None:
    kept = stored(PLAIN)
    assert b"body" not in kept
    assert bare(sent_again(kept, b"body")) == bare(PLAIN)


def test_the_header_and_the_annotations_are_those_of_sender_and_broker() -> None:
    token = uuid.uuid4()
    message = decode_message(sent_again(stored(PLAIN), b"body", lock_token=token))
    assert message[:4] == (True, 7, 1000, 3)
    assert message.annotations == {"x-opt-partition-key": "k", "x-opt-enqueued-time": 9}
    assert token.bytes in sent_again(stored(PLAIN), b"body", lock_token=token)


def test_delivery_annotations_are_kept_wherever_they_stand_but_not_the_sender_s_lock_token() -> None:
    noted = descriptor(0x71) + encode_value({Symbol("x-own"): 1, Symbol("x-opt-lock-token"): 2})
    for payload in (noted + PLAIN, PLAIN + noted):
        again = sent_again(stored(payload), b"body", lock_token=uuid.UUID(int=7))
        (found,) = (each.content for each in each_section(again) if each.code == 0x71)
        assert found == {"x-own": 1, "x-opt-lock-token": uuid.UUID(int=7)}
        assert bare(again) == bare(PLAIN)
    with pytest.raises(MalformedFrameError, match="2 sections of delivery annotations"):
        stored(noted + PLAIN + noted)


@pytest.mark.parametrize(
    "properties", [b"", descriptor(0x73) + encode_value(None), descriptor(0x73) + encode_value([]), SUBJECT], ids=repr
)
def test_a_message_without_an_id_has_the_id_of_the_broker_and_its_other_properties(properties: bytes) -> None:
    before = decode_message(properties + VALUE)
    assert (
        decode_message(sent_again(stored(properties + VALUE), b"", message_id="given"))[5:]
        == (before._replace(message_id="given")[5:])
    )


@pytest.mark.parametrize("own", ["m", "", 0, uuid.UUID(int=5), b"m"])
def test_an_id_of_the_sender_stays(own: Any) -> None:
    payload = encode_message(AmqpMessage(message_id=own, subject="placed", group_id="s", value=1))
    assert bare(sent_again(stored(payload), b"", message_id="given")) == bare(payload)


@pytest.mark.parametrize("footer", [b"", FOOTER])
def test_a_message_without_a_body_has_the_value_null(footer: bytes) -> None:
    payload = encode_message(AmqpMessage(group_id="s", value=5)).removesuffix(descriptor(0x77) + encode_value(5))
    again = sent_again(stored(payload + footer), b"")
    assert again.endswith(descriptor(0x77) + encode_value(None) + footer)


def test_application_properties_of_the_broker_replace_those_of_the_sender() -> None:
    message = decode_message(sent_again(stored(PLAIN), b"body", properties={"DeadLetterReason": "newer"}))
    assert message.application_properties == {"one": 1, "DeadLetterReason": "newer"}
    assert message.data == b"body"


def test_a_message_with_nothing_but_a_body_is_delivered() -> None:
    payload = descriptor(0x75) + encode_value(b"x")
    message = decode_message(sent_again(stored(payload), b"x", properties={"DeadLetterReason": "r"}))
    assert (message.data, message.delivery_count, message.application_properties) == (b"x", 3, {"DeadLetterReason": "r"})


@pytest.mark.parametrize(
    "payload", [VALUE + VALUE, TWO_DATA + PLAIN, descriptor(0x79) + encode_value([]), descriptor(0x6F) + encode_value([])]
)
def test_sections_that_are_unknown_or_out_of_order_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedFrameError, match="section"):
        stored(payload)


@pytest.mark.parametrize("payload", [b"x", PLAIN[:-1], descriptor(0x72) + b"\xc1\x05", descriptor(0x70) + encode_value(5)])
def test_malformed_messages_are_refused(payload: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        delivered(stored(payload), b"", failed_deliveries=0, annotations={}, properties={})
