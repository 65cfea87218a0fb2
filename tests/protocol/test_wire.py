"""Messages as headers and body and as envelopes, and back."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azsession import Message, PeekedMessage, ReceiptHandle, ReceivedMessage, ValidationError
from azsession.protocol.wire import (
    MalformedError,
    decode_envelope,
    decode_single,
    encode_envelope,
    encode_single,
    format_date,
    json_object,
    message_to_send,
    parse_date,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
SESSION_IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda t: t not in (".", "..")
)
#: HTTP header names are case-insensitive, and some servers change their case. These names differ in more than case.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
VALUES = (
    TEXT
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.binary(max_size=20)
    | st.uuids()
    | st.datetimes(timezones=st.just(timezone.utc))
)
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=5).filter(
    lambda names: len({name.lower() for name in names}) == len(names)
)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda at: at.replace(tzinfo=timezone.utc))
LIFETIMES = st.none() | st.integers(1, 10**12).map(lambda ms: timedelta(milliseconds=ms))
TYPES = st.none() | st.sampled_from(["text/plain", "application/json; charset=utf-8", "a/b"])
COMMON: dict[str, Any] = {
    "body": st.binary(max_size=200) | TEXT.map(str.encode),
    "session_id": SESSION_IDS,
    "message_id": TEXT,
    "subject": st.none() | TEXT,
    "content_type": TYPES,
    "correlation_id": st.none() | TEXT,
    "reply_to": st.none() | TEXT,
    "reply_to_session_id": st.none() | TEXT,
    "to": st.none() | TEXT,
    "time_to_live": LIFETIMES,
    "scheduled_enqueue_time": st.none() | INSTANTS,
    "attributes": ATTRIBUTES,
}
MESSAGES = st.builds(Message, COMMON.pop("body"), **COMMON)
WHOLE_SECONDS = INSTANTS.map(lambda at: at.replace(microsecond=0))
PEEKED = st.builds(
    PeekedMessage,
    body=st.binary(max_size=200),
    **COMMON,
    sequence_number=st.integers(1, 2**40),
    delivery_count=st.integers(0, 2000),
    enqueued_at=st.none() | WHOLE_SECONDS,
    dead_letter_reason=st.none() | TEXT,
    dead_letter_description=st.none() | TEXT,
    state=st.sampled_from(["Active", "Deferred", "Scheduled", "DeadLettered"]),
)


def same_types(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {name: type(value) for name, value in one.items()} == {name: type(value) for name, value in other.items()}


@given(st.lists(MESSAGES, max_size=4))
@settings(deadline=None)
def test_messages_to_send_survive_conversion_to_an_envelope_and_back(messages: list[Message]) -> None:
    data = encode_envelope(messages)
    assert data.isascii()
    found = [message_to_send(fields) for fields in decode_envelope(data)]
    assert found == messages
    assert all(same_types(one.attributes, other.attributes) for one, other in zip(found, messages, strict=True))


@given(st.lists(PEEKED, max_size=4))
@settings(deadline=None)
def test_peeked_messages_survive_conversion_to_an_envelope_and_back(messages: list[PeekedMessage]) -> None:
    assert [PeekedMessage(**fields) for fields in decode_envelope(encode_envelope(messages))] == messages


@given(PEEKED)
@settings(deadline=None)
def test_a_message_survives_conversion_to_headers_and_body_and_back(message: PeekedMessage) -> None:
    headers, body = encode_single(message)
    for name, value in headers.items():
        assert name.isascii()
        assert value.isascii()
        assert not set(name + value) & {"\r", "\n", "\0"}
    found = PeekedMessage(**decode_single(headers.items(), body))
    assert found == message
    assert same_types(found.attributes, message.attributes)


@pytest.mark.parametrize(
    "name",
    [
        "Content-Type",
        "content-length",
        "Host",
        "Authorization",
        "Azsession-Lock-Id",
        "x-ms-thing",
        "BrokerProperties",
        "a:b",
        "é",
        "with space",
        "50%",
        "%41",
        "Connection",
        "Date",
        "Server",
        "X_y",
        "()",
    ],
)
def test_an_attribute_can_have_any_name_in_headers(name: str) -> None:
    headers, body = encode_single(PeekedMessage(body=b"x", session_id="s", attributes={name: "v"}))
    assert decode_single(headers.items(), body)["attributes"] == {name: "v"}
    assert not {one.lower() for one in headers} & {
        "content-length",
        "host",
        "connection",
        "authorization",
        "azsession-lock-id",
    }


def test_an_attribute_with_an_empty_name_is_left_out_of_the_headers() -> None:
    headers, body = encode_single(PeekedMessage(body=b"x", attributes={"": "v", "a": 1}))
    assert "" not in headers
    assert decode_single(headers.items(), body)["attributes"] == {"a": 1}


@pytest.mark.parametrize("content_type", ["text/plain\r\nX-Evil: 1", "état/plain", "a\0b", "\n"])
def test_a_content_type_cannot_inject_headers(content_type: str) -> None:
    headers, _ = encode_single(PeekedMessage(body=b"x", session_id="s", content_type=content_type))
    assert headers["Content-Type"] == "application/octet-stream"


def test_headers_of_servers_and_proxies_are_not_attributes() -> None:
    headers = [
        ("Date", '"x"'),
        ("Server", '"x"'),
        ("Via", '"1"'),
        ("X-Forwarded-For", "1"),
        ("Azsession-Count", "1"),
        ("ETag", '"5"'),
    ]
    assert decode_single(headers, b"")["attributes"] == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a"', "a"),
        ('"\\u00e9"', "é"),
        ('"', None),
        ("5", 5),
        ("-5.5", -5.5),
        ("1e3", 1000.0),
        ("true", True),
        ("false", False),
        ("bare", None),
        ("05", None),
        ("7" * 5000, None),
        ("NaN", None),
        ('"a"b"', 'a"b'),
        ("", None),
        ("null", None),
        ("[1]", None),
    ],
)
def test_an_attribute_in_a_header_is_quoted_text_or_an_unquoted_value(text: str, value: Any) -> None:
    found = decode_single([("Name", text)], b"")["attributes"]
    assert found == ({} if value is None else {"Name": value})


def test_missing_and_unknown_properties_are_ignored() -> None:
    fields = decode_single([("BrokerProperties", '{"LockToken": "t", "Unknown": [1], "MessageId": null}')], b"x")
    assert fields == {"body": b"x", "content_type": None, "attributes": {}, "lock_token": "t"}


@pytest.mark.parametrize(
    "properties",
    [
        "{",
        "[]",
        "5",
        '{"MessageId": 5}',
        '{"SequenceNumber": "5"}',
        '{"DeliveryCount": true}',
        '{"EnqueuedTimeUtc": 5}',
        '{"EnqueuedTimeUtc": "soon"}',
        '{"TimeToLive": "5"}',
        '{"TimeToLive": true}',
        "[" * 5000,
    ],
)
def test_malformed_properties_raise_malformed_error(properties: str) -> None:
    with pytest.raises(MalformedError):
        decode_single([("BrokerProperties", properties)], b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[5]",
        b'[{"Body": 5}]',
        b'[{"Body": "*", "BodyEncoding": "base64"}]',
        b'[{"Body": "\\u00e9", "BodyEncoding": "base64"}]',
        b'[{"UserProperties": [1]}]',
        b"\xff",
        b'[{"BrokerProperties": [1]}]',
        b'[{"ContentType": 5}]',
        b'[{"Body": "\\ud800"}]',
        b"[" + b"{}," * 1000 + b"{}]",
    ],
)
def test_a_malformed_envelope_raises_malformed_error(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_envelope(data)


@given(st.binary(max_size=100))
def test_decoding_any_bytes_raises_nothing_but_malformed_error(data: bytes) -> None:
    for form in (data, b'[{"Body": "' + data + b'"}]'):
        with contextlib.suppress(MalformedError):
            assert isinstance(decode_envelope(form), list)


def test_a_time_to_live_beyond_the_maximum_is_reduced_to_it() -> None:
    found = decode_single([("BrokerProperties", '{"TimeToLive": 1e300}')], b"")["time_to_live"]
    assert found > timedelta(days=10_000_000)


def test_only_a_received_message_has_a_lock_token() -> None:
    receipt = ReceiptHandle("token", datetime(2026, 1, 1, tzinfo=timezone.utc))
    message = ReceivedMessage(body=b"x", receipt=receipt, delivered_at=datetime.now(timezone.utc))
    properties = json.loads(encode_single(message)[0]["BrokerProperties"])
    assert (properties["LockToken"], properties["LockedUntilUtc"]) == ("token", "Thu, 01 Jan 2026 00:00:00 GMT")
    assert "LockToken" not in encode_single(PeekedMessage(body=b"x"))[0]["BrokerProperties"]


def test_the_fields_of_the_server_in_a_message_to_send_are_ignored() -> None:
    fields = decode_envelope(
        encode_envelope([PeekedMessage(body=b"x", session_id="s", sequence_number=5, delivery_count=7)])
    )[0]
    assert message_to_send({**fields, "lock_token": "t"}) == Message(b"x", session_id="s")


@pytest.mark.parametrize(
    "properties", [{"TimeToLive": 0}, {"TimeToLive": -1}, {"SessionId": "x" * 129}, {"MessageId": "x" * 129}]
)
def test_a_message_to_send_with_a_property_out_of_range_is_refused(properties: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        message_to_send(decode_single([("BrokerProperties", json.dumps({"SessionId": "s", **properties}))], b""))


@given(INSTANTS)
def test_a_date_survives_conversion_to_text_and_back(at: datetime) -> None:
    assert parse_date(format_date(at)) == at.replace(microsecond=0)
    assert parse_date(at.isoformat()) == at
    assert parse_date(at.isoformat().replace("+00:00", "Z")) == at
    assert parse_date(at.replace(tzinfo=None).isoformat()) == at


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37+00:00"),
        ("2026-01-02T03:04:05.1234567Z", "2026-01-02T03:04:05.123456+00:00"),
        ("2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.100000+00:00"),
        ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05+00:00"),
        ("2026-01-02", "2026-01-02T00:00:00+00:00"),
    ],
)
def test_a_date_is_rfc_1123_or_iso_8601(text: str, iso: str) -> None:
    assert parse_date(text).isoformat() == iso


@given(st.text(max_size=40))
def test_parsing_any_text_as_a_date_raises_nothing_but_malformed_error(text: str) -> None:
    for form in (text, f"Sun, 06 {text[:3]:3} 1994 08:49:37 GMT", f"2026-01-02T{text}"):
        with contextlib.suppress(MalformedError):
            assert parse_date(form).tzinfo is not None


def test_only_a_json_object_is_accepted_as_a_body() -> None:
    assert json_object(b"") == {}
    assert json_object(b'{"a": 1}') == {"a": 1}
    for wrong in (b"[]", b"5", b"{", b"\xff"):
        with pytest.raises(MalformedError):
            json_object(wrong)


def test_the_wire_format_covers_every_field_of_a_message() -> None:
    known = {field.name for field in attrs.fields(PeekedMessage)}
    assert known == {*COMMON, "body", "sequence_number", "delivery_count", "enqueued_at", "state"} | {
        "dead_letter_reason",
        "dead_letter_description",
    }
