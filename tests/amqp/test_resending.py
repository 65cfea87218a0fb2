"""Messages to send again: the sender's parts stay as they are."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp import AmqpMessage, MalformedFrameError, Symbol, Timestamp, Uint, Ulong
from azsession.amqp.encoding import compound, described, encode_value, string, symbol_map

NOW = 1_700_000_000_000
#: A section "properties" with all 13 fields: user-id, content-encoding and group-sequence, too.
PROPERTIES = described(
    0x73,
    compound(
        0xC0,
        [
            encode_value(uuid.UUID(int=5)),
            encode_value(b"user"),
            string("to"),
            string("x" * 5000),
            string("reply"),
            encode_value(Ulong(7)),
            encode_value(Symbol("text/plain")),
            encode_value(Symbol("gzip")),
            encode_value(Timestamp(NOW + 5000)),
            encode_value(Timestamp(NOW - 5000)),
            string("s1"),
            encode_value(Uint(12)),
            string("g"),
        ],
    ),
)
HEADER = described(0x70, compound(0xC0, [b"\x41", b"\x50\x09", encode_value(Uint(60000)), b"\x40", encode_value(Uint(3))]))
ADDED = described(
    0x72,
    symbol_map(
        {
            "x-opt-sequence-number": amqp.Long(5),
            "x-opt-enqueued-time": Timestamp(NOW),
            "x-opt-partition-key": "s1",
            "x-opt-deadletter-source": "orders",
            "mine": 5,
        }
    ),
)
APPLICATION: dict[str, Any] = {"a": Uint(5), "DeadLetterReason": "why", "b": None, "DeadLetterErrorDescription": "so"}
BODIES = {
    "data": b"\x00\x53\x75\xa0\x03abc" * 2,
    "value": described(0x77, encode_value({"a": [1, None]})),
    "sequence": described(0x76, encode_value([1, "x"])) * 2,
}


def application(entries: dict[str, Any]) -> bytes:
    return described(
        0x74, compound(0xC1, [part for key, value in entries.items() for part in (string(key), encode_value(value))])
    )


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_the_bare_message_stays_as_it_is(body: bytes) -> None:
    found = amqp.resent(HEADER + ADDED + PROPERTIES + application(APPLICATION) + body, NOW)
    assert PROPERTIES in found
    assert found.endswith(application({"a": Uint(5), "b": None}) + body)
    message = amqp.decode_message(found)
    assert (message.durable, message.priority, message.ttl_ms, message.delivery_count) == (True, 9, 60000, 0)
    assert message.annotations == {"x-opt-partition-key": "s1", "mine": 5}


def test_application_properties_that_are_only_the_senders_are_not_encoded_anew() -> None:
    # A map with 32-bit sizes, which this package would write with 8 bits.
    entries = string("a") + encode_value(1)
    wide = b"\x00\x53\x74\xd1" + (len(entries) + 4).to_bytes(4, "big") + (2).to_bytes(4, "big") + entries
    assert amqp.resent(wide + BODIES["data"], NOW) == wide + BODIES["data"]


def test_an_expiry_that_is_over_begins_anew() -> None:
    message = AmqpMessage(
        message_id="m", absolute_expiry=NOW - 1, creation_time=NOW - 1001, group_id="s1", ttl_ms=1000, data=b"x"
    )
    back = amqp.decode_message(amqp.resent(amqp.encode_message(message), NOW))
    assert back == message._replace(absolute_expiry=NOW + 1000, creation_time=NOW)
    without = message._replace(creation_time=None)
    assert amqp.decode_message(amqp.resent(amqp.encode_message(without), NOW)) == without._replace(absolute_expiry=None)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_malformed(payload: bytes) -> None:
    for data in (payload, b"\x00\x53\x72" + payload, b"\x00\x53\x73" + payload, b"\x00\x53\x70" + payload):
        with suppress(MalformedFrameError):
            amqp.resent(data, NOW)
