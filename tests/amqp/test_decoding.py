"""AMQP as it arrives: frames, types and messages, whole and broken."""

from __future__ import annotations

import contextlib
import importlib
import uuid
from decimal import Decimal
from typing import Any

import pytest
from azure.servicebus._pyamqp import _decode as sdk
from azure.servicebus._pyamqp._encode import encode_value
from azure.servicebus._pyamqp.endpoints import Source, Target
from hypothesis import given
from hypothesis import strategies as st

from azsession.amqp import codec
from azsession.amqp.codec import (
    ABSENT,
    AmqpMessage,
    Begin,
    Condition,
    Described,
    Disposition,
    MalformedFrameError,
    Open,
    SaslMechanisms,
    SaslOutcome,
    Timestamp,
    decode_frame,
    decode_message,
    decode_response,
    encode_message,
)
from azsession.amqp.values import READERS

from .amqp_bytes import from_the_sdk

uints = st.integers(0, 2**32 - 1)


def described(code: int, *fields: Any) -> bytes:
    output = bytearray()
    encode_value(output, {"TYPE": "DESCRIBED", "VALUE": ({"TYPE": "ULONG", "VALUE": code}, list(fields))})
    return bytes(output)


def test_fields_left_out_have_the_standards_defaults() -> None:
    assert decode_frame(described(codec.OPEN, "c"))[1] == Open(0xFFFFFFFF, 65535, None)
    assert decode_frame(described(codec.BEGIN, 1, 2, 3, 4))[1] == Begin(1, 2, 3, 4, 0xFFFFFFFF)
    assert decode_frame(described(codec.DISPOSITION, True, 5))[1] == Disposition(True, 5, 5, False, None, None)
    assert decode_frame(b"\x00\x53\x18\x45") == (codec.CLOSE, (None,))


def test_a_refused_attach_has_neither_source_nor_target() -> None:
    attach = decode_frame(described(codec.ATTACH, "n", 1, False))[1]
    assert (attach.has_source, attach.has_target, attach.session_id) == (False, False, ABSENT)


def test_an_accepted_session_is_named_by_the_filter_and_its_lock_by_the_properties() -> None:
    source = Source(address="q", filters={b"com.microsoft:session-filter": "given"})
    performative = importlib.import_module("azure.servicebus._pyamqp.performatives").AttachFrame(
        "n", 1, False, 0, 1, source, Target(address="t"), None, None, 0, 262144, None, None,
        {"com.microsoft:locked-until-utc": codec.long(638000000000000000)},
    )  # fmt: skip
    attach = decode_frame(from_the_sdk(performative)[8:])[1]
    assert (attach.session_id, attach.max_message_size) == ("given", 262144)
    assert attach.properties == {"com.microsoft:locked-until-utc": 638000000000000000}


@pytest.mark.parametrize("code", [codec.DETACH, codec.END, codec.CLOSE])
def test_an_error_says_its_condition(code: int) -> None:
    output = bytearray(b"\x00\x53" + bytes([code]))
    error = {
        "TYPE": "DESCRIBED",
        "VALUE": ({"TYPE": "ULONG", "VALUE": 0x1D}, [codec.symbol("amqp:not-found"), "gone", {"a": 1}]),
    }
    encode_value(output, [1, True, error] if code == codec.DETACH else [error])
    assert decode_frame(bytes(output))[1].error == Condition("amqp:not-found", "gone", {"a": 1})


def test_mechanisms_come_as_an_array_or_alone() -> None:
    assert decode_frame(described(0x40, codec.array([codec.symbol("PLAIN")])))[1] == SaslMechanisms(["PLAIN"])
    assert decode_frame(described(0x40, codec.symbol("ANONYMOUS")))[1] == SaslMechanisms(["ANONYMOUS"])
    assert decode_frame(described(0x44, 0))[1] == SaslOutcome(0)


def test_a_descriptor_may_be_a_symbol_or_a_long_number() -> None:
    assert decode_frame(b"\x00\xa3\x0famqp:close:list\x45")[0] == codec.CLOSE
    assert decode_frame(b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x18\x45")[0] == codec.CLOSE


FRAMES = [
    codec.open_frame(container_id="c", hostname="h", max_frame_size=65536, channel_max=7, idle_timeout_ms=None),
    codec.attach_receiver(0, name="n", handle=1, address="q", session_id="s", properties={"a": 1}),
    codec.transfer_frames(0, handle=1, delivery_id=1, delivery_tag=b"12", payload=b"", max_frame_size=512)[0],
    codec.disposition_frame(0, first=1, last=1, outcome=codec.dead_lettered("r", "d")),
    codec.detach_frame(0, handle=1),
]
MESSAGE = encode_message(
    AmqpMessage(
        ttl_ms=1,
        message_id="m",
        annotations={"x-opt-sequence-number": codec.long(1)},
        application_properties={"a": "b", "n": codec.long(5)},
        data=b"body",
    )
)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_that_was_cut_short_is_malformed(frame: bytes) -> None:
    for length in range(1, len(frame) - 8):
        with pytest.raises(MalformedFrameError):
            decode_frame(frame[8 : 8 + length])


@given(st.binary(max_size=200))
def test_random_bytes_are_malformed_or_read_and_nothing_else(data: bytes) -> None:
    for read_it in (decode_frame, decode_message, decode_response):
        with contextlib.suppress(MalformedFrameError):
            read_it(data)


@given(st.sampled_from([*[frame[8:] for frame in FRAMES], MESSAGE]), st.data())
def test_a_changed_byte_is_malformed_or_read_and_nothing_else(good: bytes, data: st.DataObject) -> None:
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    for read_it in (decode_frame, decode_message):
        with contextlib.suppress(MalformedFrameError):
            read_it(bytes(changed))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00\x53\x10" + b"\xc0\xff\x01" * 500, id="nested lists"),
        pytest.param(b"\x00\x53\x77" + b"\x00" * 5000, id="nested descriptors"),
        pytest.param(b"\x00\x53\x77\xd0\xff\xff\xff\xff\xff\xff\xff\xff", id="a list of 4 billion"),
        pytest.param(b"\x00\x53\x77\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40", id="an array of 4 billion nulls"),
        pytest.param(b"\x00\x53\x77\xc1\x04\x01\x43", id="a key without a value"),
        pytest.param(b"\x00\x53\x77\xc1\x04\x02\x45\x43", id="a list as a key"),
        pytest.param(b"\x00\x53\x77\x73\xff\xff\xff\xff", id="no such character"),
        pytest.param(b"\x00\x53\x77\x3f", id="no such type"),
        pytest.param(b"\x00\x53\x77\xc0\x02\x01\xa1\x03abc", id="an element longer than its list"),
        pytest.param(b"\x00\x53\x77\xc1\x03\x02\x43\xa1\x03abc", id="a value longer than its map"),
        pytest.param(b"\x00\x53\x77\xe0\x03\x01\xa1\x03abc", id="an element longer than its array"),
        pytest.param(b"\x00\x53\x72\x45", id="annotations that are a list"),
        pytest.param(b"\x00\x53\x75\xa1\x01a", id="data that is text"),
    ],
)
def test_what_no_peer_would_send_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        decode_message(data)


# Types


def value_of(encoded: str) -> Any:
    buf = bytes.fromhex(encoded)
    value, pos = READERS[buf[0]](buf, 1, 0)
    assert pos == len(buf)
    return value


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("40", None), ("41", True), ("42", False), ("5600", False), ("5601", True), ("43", 0), ("44", 0), ("45", []),
        ("50ff", 255), ("51ff", -1), ("52ff", 255), ("53ff", 255), ("54ff", -1), ("55ff", -1),
        ("60ffff", 65535), ("61ffff", -1), ("70ffffffff", 2**32 - 1), ("71ffffffff", -1),
        ("80ffffffffffffffff", 2**64 - 1), ("81ffffffffffffffff", -1), ("723f000000", 0.5), ("823fe0000000000000", 0.5),
        ("730001f600", "\U0001f600"), ("83ffffffffffffffff", Timestamp(-1)),
        ("9800000000000000000000000000000001", uuid.UUID(int=1)),
        ("a0026162", b"ab"), ("a1026162", "ab"), ("a3026162", "ab"),
        ("b0000000026162", b"ab"), ("b1000000026162", "ab"), ("b3000000026162", "ab"), ("a101ff", "\ufffd"),
        ("c00302 5401", None), ("c0050254015402", [1, 2]), ("d000000008000000025401 5402", [1, 2]),
        ("c10702a101615401", None), ("c10602a101615401", {"a": 1}), ("d10000000900000002a101615401", {"a": 1}),
        ("e00402540102", [1, 2]), ("f00000000702000000540102", None), ("f00000000700000002540102", [1, 2]), ("e0020040", []),
        ("e0020340", [None] * 3), ("0053245401", Described(36, 1)),
        ("e0060100531d5401", [Described(29, 1)]),
        ("7432800001", Decimal("1")), ("74b2800001", Decimal("-1")), ("7431 80000f", Decimal("0.15")),
        ("7478000000", Decimal("Infinity")), ("74f8000000", Decimal("-Infinity")),
        ("8431c0000000000001", Decimal("1")),
        ("9430400000000000000000000000000001", Decimal("1")), ("94303c0000000000000000000000000096", Decimal("1.50")),
    ],
)  # fmt: skip
def test_every_type_is_read(encoded: str, value: Any) -> None:
    if value is None and encoded != "40":
        with pytest.raises((MalformedFrameError, IndexError)):
            value_of(encoded)
        return
    got = value_of(encoded)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("encoded", ["c00201a103616263", "c1030243a103616263", "e00301a103616263"])
def test_no_element_reaches_beyond_what_holds_it(encoded: str) -> None:
    with pytest.raises(MalformedFrameError):
        value_of(encoded)


def test_a_decimal_that_is_no_number_is_read() -> None:
    assert value_of("747c000000").is_nan()


simple = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False), st.uuids(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.binary(max_size=300),
)  # fmt: skip
values = st.recursive(
    simple,
    lambda inner: st.one_of(st.lists(inner, max_size=30), st.dictionaries(st.text("abc", max_size=3), inner, max_size=30)),
    max_leaves=40,
)


@given(values)
def test_what_the_sdk_encodes_is_read(value: Any) -> None:
    output = bytearray()
    encode_value(output, value)
    buf = bytes(output)
    assert READERS[buf[0]](buf, 1, 0) == (value, len(buf))


# Messages

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
def test_a_message_comes_back_as_it_was(message: AmqpMessage) -> None:
    assert decode_message(memoryview(encode_message(message))) == message


@given(messages)
def test_the_sdk_reads_our_message(message: AmqpMessage) -> None:
    back = sdk.decode_payload(memoryview(encode_message(message)))
    assert list(back.data or []) == [message.data]
    assert len(back.application_properties or {}) == len(message.application_properties)
    if message.subject is not None:
        assert back.properties is not None
        assert back.properties.subject == message.subject.encode()


def test_data_sections_are_joined() -> None:
    batch = codec.encode_batch([b"ab", b"", b"c" * 300])
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
def test_a_body_that_is_a_value_becomes_bytes(value: Any, as_body: bytes) -> None:
    assert decode_message(encode_message(AmqpMessage(value=value))).body == as_body


def test_a_body_of_sequences_becomes_one_list() -> None:
    assert decode_message(b"\x00\x53\x76\xc0\x03\x01\x54\x01" + b"\x00\x53\x76\xc0\x03\x01\x54\x02").body == b"[1,2]"


def test_few_bytes_do_not_become_many_values() -> None:
    # An array of 65,536 nulls takes ten bytes, and a message has room for a hundred thousand of these.
    array = b"\xf0" + (5).to_bytes(4, "big") + (65536).to_bytes(4, "big") + b"\x40"
    with pytest.raises(MalformedFrameError, match="array"):
        decode_message(b"\x00\x53\x77" + array)
    assert decode_message(b"\x00\x53\x77\xe0\x02\x05\x40").value == [None] * 5


def test_a_message_in_many_sections_is_read_as_fast_as_in_one() -> None:
    # A section for each byte: to copy all of them for each one would take minutes.
    count = 1_000_000
    assert decode_message(b"\x00\x53\x75\xa0\x01a" * count).data == b"a" * count
    assert decode_message(b"\x00\x53\x76\xc0\x03\x01\x54\x01" * (count // 10)).value == [1] * (count // 10)


def test_half_of_a_surrogate_pair_is_no_character() -> None:
    assert decode_message(b"\x00\x53\x77\x73\x00\x00\xd8\x00").value == "\ufffd"
    assert decode_message(b"\x00\x53\x77\x73\x00\x01\xf6\x00").value == "\U0001f600"


def test_a_message_without_a_body_has_an_empty_one() -> None:
    assert decode_message(b"").body == b""


def test_sections_may_be_named_by_symbols() -> None:
    assert decode_message(b"\x00\xa3\x10amqp:data:binary\xa0\x02ab").body == b"ab"


def test_a_request_carries_typed_properties_and_a_value() -> None:
    given_body = {"sequence-numbers": codec.array([codec.long(1), codec.long(2)]), "receiver-settle-mode": codec.uint(1)}
    message_id = uuid.uuid4()
    request = decode_message(
        codec.encode_request(message_id, "me", {"operation": "o", "com.microsoft:server-timeout": codec.uint(9)}, given_body)
    )
    assert (request.message_id, request.reply_to) == (message_id, "me")
    assert request.application_properties == {"operation": "o", "com.microsoft:server-timeout": 9}
    assert request.value == {"sequence-numbers": [1, 2], "receiver-settle-mode": 1}


@pytest.mark.parametrize(
    ("status", "description", "condition"),
    [("statusCode", "statusDescription", "errorCondition"), ("status-code", "status-description", "error-condition")],
)
def test_a_response_is_read_in_both_spellings(status: str, description: str, condition: str) -> None:
    properties = {status: 410, description: "lost", condition: codec.symbol("com.microsoft:session-lock-lost")}
    response = decode_response(
        encode_message(AmqpMessage(correlation_id="7", application_properties=properties, value={"a": b"b"}))
    )
    assert response == codec.Response("7", 410, "lost", "com.microsoft:session-lock-lost", {"a": b"b"})


def test_a_response_without_a_status_is_malformed() -> None:
    with pytest.raises(MalformedFrameError, match="status"):
        decode_response(MESSAGE)
