"""Messages: azsession reads its own back, and the SDK reads them, too."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from azure.servicebus._pyamqp import _decode as sdk
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp import AmqpMessage, MalformedFrameError, Timestamp, decode_message, encode_message

uints = st.integers(0, 2**32 - 1)
simple = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False), st.uuids(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.binary(max_size=300),
)  # fmt: skip
maybe_text = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
messages = st.builds(
    AmqpMessage,
    durable=st.none() | st.booleans(),
    priority=st.none() | st.integers(0, 255),
    ttl_ms=st.none() | uints,
    annotations=st.dictionaries(st.text("abc-", min_size=1), simple, max_size=3),
    message_id=st.none() | st.text("abc") | st.uuids() | st.binary(max_size=9) | st.integers(0, 2**64 - 1),
    to=maybe_text,
    subject=maybe_text,
    reply_to=maybe_text,
    correlation_id=st.none() | st.text("abc"),
    content_type=st.none() | st.text("abc/"),
    absolute_expiry=st.none() | st.integers(0, 2**63 - 1).map(Timestamp),
    creation_time=st.none() | st.integers(0, 2**63 - 1).map(Timestamp),
    group_id=maybe_text,
    reply_to_group_id=maybe_text,
    application_properties=st.dictionaries(st.text("abc", min_size=1), simple, max_size=6),
    data=st.binary(max_size=1000),
    delivery_count=st.just(0),
    value=st.none(),
)


@given(messages)
def test_a_decoded_message_equals_the_encoded_one(message: AmqpMessage) -> None:
    assert decode_message(memoryview(encode_message(message))) == message


@given(messages)
def test_the_sdk_decodes_a_message(message: AmqpMessage) -> None:
    back = sdk.decode_payload(memoryview(encode_message(message)))
    assert list(back.data or []) == [message.data]
    assert len(back.application_properties or {}) == len(message.application_properties)
    if message.subject is not None:
        assert back.properties is not None
        assert back.properties.subject == message.subject.encode()


def test_data_sections_are_joined() -> None:
    batch = amqp.encode_batch([b"ab", b"", b"c" * 300])
    assert decode_message(batch).body == b"ab" + b"c" * 300
    assert sdk.decode_payload(memoryview(batch)).data == [b"ab", b"", b"c" * 300]


@pytest.mark.parametrize(
    ("value", "as_body"),
    [
        ("é", "é".encode()),
        (b"\x00\xff", b"\x00\xff"),
        ({"a": [1, True, None, 0.5]}, b'{"a":[1,true,null,0.5]}'),
        (7, b"7"),
        (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        ([b"x", "y"], b'["x","y"]'),
    ],
)
def test_a_body_that_is_a_value_is_given_as_bytes(value: Any, as_body: bytes) -> None:
    assert decode_message(encode_message(AmqpMessage(value=value))).body == as_body


def test_sequence_sections_are_joined_to_one_list() -> None:
    assert decode_message(b"\x00\x53\x76\xc0\x03\x01\x54\x01" + b"\x00\x53\x76\xc0\x03\x01\x54\x02").body == b"[1,2]"


def test_an_array_of_very_many_nulls_is_malformed() -> None:
    # Ten bytes are enough for an array of 65,536 nulls, and a message could hold 100,000 such arrays.
    array = b"\xf0" + (5).to_bytes(4, "big") + (65536).to_bytes(4, "big") + b"\x40"
    with pytest.raises(MalformedFrameError, match="array"):
        decode_message(b"\x00\x53\x77" + array)
    assert decode_message(b"\x00\x53\x77\xe0\x02\x05\x40").value == [None] * 5


def test_a_message_of_very_many_sections_is_decoded_in_linear_time() -> None:
    # One section for each byte: a copy of all earlier bytes for each section would take minutes.
    count = 1_000_000
    assert decode_message(b"\x00\x53\x75\xa0\x01a" * count).data == b"a" * count
    assert decode_message(b"\x00\x53\x76\xc0\x03\x01\x54\x01" * (count // 10)).value == [1] * (count // 10)


def test_half_of_a_surrogate_pair_becomes_the_replacement_character() -> None:
    assert decode_message(b"\x00\x53\x77\x73\x00\x00\xd8\x00").value == "\ufffd"
    assert decode_message(b"\x00\x53\x77\x73\x00\x01\xf6\x00").value == "\U0001f600"


def test_a_message_without_a_body_has_no_bytes() -> None:
    assert decode_message(b"").body == b""


def test_a_sections_descriptor_may_be_a_symbol() -> None:
    assert decode_message(b"\x00\xa3\x10amqp:data:binary\xa0\x02ab").body == b"ab"


@pytest.mark.parametrize("entries", [1, 40])
def test_delivery_annotations_are_skipped(entries: int) -> None:
    annotations = amqp.encode_message(
        AmqpMessage(annotations={f"x-{number}": uuid.UUID(int=number) for number in range(entries)})
    ).replace(b"\x00\x53\x72", b"\x00\x53\x71", 1)
    message = encode_message(AmqpMessage(message_id="m", data=b"x"))
    found = decode_message(annotations + message)
    assert (found.annotations, found.message_id, found.data) == ({}, "m", b"x")


def test_delivery_annotations_that_end_behind_the_message_are_malformed() -> None:
    with pytest.raises(MalformedFrameError):
        decode_message(b"\x00\x53\x71\xc1\xff\x00")
