"""AMQP as bytes: what is sent is read back by us and by the SDK, and what arrives broken is told as such.

The tests of the contract with the SDK's private layer come first: each names what moved, should it have moved.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus._pyamqp._encode import encode_value
from azure.servicebus._pyamqp.outcomes import Accepted, Modified, Rejected, Released
from azure.servicebus._pyamqp.performatives import DetachFrame, DispositionFrame, EndFrame, FlowFrame
from hypothesis import given
from hypothesis import strategies as st

from azsession.amqp import codec
from azsession.amqp.codec import (
    ABSENT,
    Attach,
    Begin,
    Condition,
    Detach,
    Disposition,
    Flow,
    Open,
    Transfer,
    decode_frame,
)

from .amqp_bytes import body, by_the_sdk, from_the_sdk, read

uints = st.integers(0, 2**32 - 1)
uint16 = st.integers(0, 65535)


# The contract with the SDK


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("_encode", "describe_performative"),
        ("_encode", "encode_frame"),
        ("_encode", "encode_value"),
        ("endpoints", "Source"),
        ("endpoints", "Target"),
        ("error", "AMQPError"),
        ("outcomes", "Modified"),
        ("outcomes", "Rejected"),
        ("performatives", "AttachFrame"),
        ("performatives", "BeginFrame"),
        ("performatives", "OpenFrame"),
        ("performatives", "SASLInit"),
        ("types", "AMQPTypes"),
        ("types", "TYPE"),
        ("types", "VALUE"),
    ],
)
def test_the_sdk_has_the_name(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(f"azure.servicebus._pyamqp.{module}"), name), f"_pyamqp.{module}.{name} moved"


@pytest.mark.parametrize(
    ("module", "name", "fields"),
    [
        ("endpoints", "Source", ["address", "filters"]),
        ("endpoints", "Target", ["address"]),
        ("error", "AMQPError", ["condition", "description", "info"]),
        ("outcomes", "Modified", ["delivery_failed", "undeliverable_here"]),
        ("outcomes", "Rejected", ["error"]),
        ("performatives", "AttachFrame", ["name", "handle", "role", "send_settle_mode", "rcv_settle_mode", "source"]),
        ("performatives", "AttachFrame", ["target", "initial_delivery_count", "max_message_size", "properties"]),
        ("performatives", "BeginFrame", ["next_outgoing_id", "incoming_window", "outgoing_window", "handle_max"]),
        ("performatives", "OpenFrame", ["container_id", "hostname", "max_frame_size", "channel_max", "idle_timeout"]),
        ("performatives", "SASLInit", ["mechanism", "initial_response", "hostname"]),
    ],
)
def test_the_sdks_tuple_has_the_fields(module: str, name: str, fields: list[str]) -> None:
    kind = getattr(importlib.import_module(f"azure.servicebus._pyamqp.{module}"), name)
    missing = [field for field in fields if field not in kind._fields]
    assert not missing, f"_pyamqp.{module}.{name} lost its fields {missing}"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (codec.uint(300), "7000 00012c"),
        (codec.long(300), "81000000000000012c"),
        (codec.timestamp(5), "830000000000000005"),
        (codec.symbol("ab"), "a3026162"),
        (codec.array([codec.long(300)]), "e00a01 81 000000000000012c"),
        (codec.array([uuid.UUID(int=1)]), "e012 01 98 00000000000000000000000000000001"),
        ("ab", "a1026162"),
        (b"ab", "a0026162"),
        (bytearray(b"ab"), "a0026162"),
        (5, "5405"),
        (True, "5601"),
        (0.5, "823fe0000000000000"),
        (None, "40"),
        (uuid.UUID(int=1), "9800000000000000000000000000000001"),
        (datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc), "8300000000000003e8"),
    ],
)
def test_the_sdk_encodes_a_value_of_the_type_meant(value: Any, encoded: str) -> None:
    output = bytearray()
    encode_value(output, value)
    assert output == bytes.fromhex(encoded)


def test_a_missing_sdk_is_named_with_the_extra(tmp_path: Path) -> None:
    assert "azsession[servicebus]" in import_with("sys.modules['azure.servicebus'] = None")


def test_an_sdk_whose_private_layer_moved_is_told_with_the_versions_that_work() -> None:
    moved = "import azure.servicebus._pyamqp.outcomes as o; del o.Modified"
    message = import_with(moved)
    assert "7.12 to 7.15" in message
    assert "Modified" in message


def import_with(change: str) -> str:
    """Return the ConfigurationError that importing the codec raises in a process where something was changed."""
    program = f"""
import sys
from azsession.errors import ConfigurationError
{change}
try:
    import azsession.amqp.codec
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Frames that are sent


def test_the_headers_are_those_of_the_standard() -> None:
    assert codec.AMQP_HEADER == b"AMQP\x00\x01\x00\x00"
    assert codec.SASL_HEADER == b"AMQP\x03\x01\x00\x00"
    assert decode_frame(body(codec.EMPTY_FRAME)) == (codec.HEARTBEAT, None)


def test_an_open_says_what_we_take() -> None:
    frame = codec.open_frame(
        container_id="c",
        hostname="h",
        max_frame_size=65536,
        channel_max=7,
        idle_timeout_ms=60000,
        properties={"product": "p"},
    )
    assert read(frame) == Open(65536, 7, 60000)
    fields = by_the_sdk(frame)
    assert fields[:2] == [b"c", b"h"]
    assert fields[9] == {b"product": b"p"}


def test_a_begin_says_the_windows() -> None:
    frame = codec.begin_frame(3, next_outgoing_id=1, incoming_window=2, outgoing_window=4, handle_max=5)
    assert read(frame, 3) == Begin(None, 1, 2, 4, 5)


@pytest.mark.parametrize("session_id", ["s-é", None, ABSENT])
def test_a_receiver_asks_for_its_session(session_id: Any) -> None:
    frame = codec.attach_receiver(
        2,
        name="n",
        handle=9,
        address="q",
        session_id=session_id,
        properties={"com.microsoft:timeout": codec.uint(5000)},
        max_message_size=1000,
    )
    expected = Attach("n", 9, True, True, True, session_id, 0, 1000, {"com.microsoft:timeout": 5000})
    assert read(frame, 2) == expected


def test_a_session_filter_is_what_the_sdk_sends() -> None:
    fields = by_the_sdk(codec.attach_receiver(0, name="n", handle=0, address="q", session_id="s"))
    assert fields[5][7] == {b"com.microsoft:session-filter": b"s"}
    assert fields[3:5] == [0, 1]
    fields = by_the_sdk(codec.attach_receiver(0, name="n", handle=0, address="q", session_id=None))
    assert fields[5][7] == {b"com.microsoft:session-filter": None}
    # Its value is a string that has no descriptor, its name a symbol.
    assert b"\xa3\x1ccom.microsoft:session-filter\xa1\x01s" in codec.attach_receiver(
        0, name="n", handle=0, address="q", session_id="s"
    )


def test_a_link_of_management_settles_first() -> None:
    assert by_the_sdk(codec.attach_receiver(0, name="n", handle=0, address="$cbs", settle_second=False))[4] == 0


def test_a_sender_begins_its_count() -> None:
    frame = codec.attach_sender(1, name="n", handle=4, address="q")
    assert read(frame, 1) == Attach("n", 4, False, True, True, ABSENT, 0, None, {})
    assert by_the_sdk(frame)[9] == 0
    assert by_the_sdk(frame)[6][0] == b"q"


@given(uint16, uints, uints, uints, uints, uints, uints, uints, st.booleans(), st.booleans())
def test_a_links_flow_is_what_the_sdk_would_send(
    channel: int, a: int, b: int, c: int, d: int, handle: int, count: int, credit: int, drain: bool, echo: bool
) -> None:
    frame = codec.flow_frame(
        channel,
        next_incoming_id=a,
        incoming_window=b,
        next_outgoing_id=c,
        outgoing_window=d,
        handle=handle,
        delivery_count=count,
        link_credit=credit,
        drain=drain,
        echo=echo,
    )
    assert read(frame, channel) == Flow(a, b, c, d, handle, count, credit, drain, echo)
    assert by_the_sdk(frame) == by_the_sdk(
        from_the_sdk(FlowFrame(a, b, c, d, handle, count, credit, None, drain, echo, None))
    )


def test_a_sessions_flow_names_no_link() -> None:
    frame = codec.flow_frame(1, next_incoming_id=1, incoming_window=2, next_outgoing_id=3, outgoing_window=4, echo=True)
    assert read(frame, 1) == Flow(1, 2, 3, 4, None, None, None, False, True)
    assert by_the_sdk(frame) == [1, 2, 3, 4, None, None, None, None, False, True]


def test_numbers_of_deliveries_wrap_around() -> None:
    frame = codec.flow_frame(
        0, next_incoming_id=2**32, incoming_window=1, next_outgoing_id=2**32 + 1, outgoing_window=1, handle=0,
        delivery_count=2**32 + 2, link_credit=1,
    )  # fmt: skip
    assert (read(frame).next_incoming_id, read(frame).next_outgoing_id, read(frame).delivery_count) == (0, 1, 2)


@pytest.mark.parametrize(
    ("outcome", "of_the_sdk", "state"),
    [
        (codec.ACCEPTED, Accepted(), "accepted"),
        (codec.RELEASED, Released(), "released"),
        (codec.abandoned(), Modified(True, False, None), "modified"),
        (codec.deferred(), Modified(True, True, None), "modified"),
    ],
)
@given(first=uints, last=uints, receiver=st.booleans(), settled=st.booleans())
def test_a_disposition_is_what_the_sdk_would_send(
    outcome: bytes, of_the_sdk: Any, state: str, first: int, last: int, receiver: bool, settled: bool
) -> None:
    frame = codec.disposition_frame(7, first=first, last=last, outcome=outcome, receiver=receiver, settled=settled)
    assert read(frame, 7) == Disposition(receiver, first, last, settled, state, None)
    expected = from_the_sdk(DispositionFrame(receiver, first, last, settled, of_the_sdk, None))
    assert by_the_sdk(frame) == by_the_sdk(expected)


def test_a_dead_letter_says_why_as_the_sdk_does() -> None:
    frame = codec.disposition_frame(0, first=1, last=1, outcome=codec.dead_lettered("broken", "é" * 3000))
    info = {"DeadLetterReason": "broken", "DeadLetterErrorDescription": "é" * 3000}
    assert read(frame).error == Condition("com.microsoft:dead-letter", "é" * 3000, info)
    error = importlib.import_module("azure.servicebus._pyamqp.error").AMQPError(
        condition=b"com.microsoft:dead-letter", description="é" * 3000, info=info
    )
    expected = from_the_sdk(DispositionFrame(True, 1, 1, False, Rejected(error=error), None))
    assert by_the_sdk(frame) == by_the_sdk(expected)


def test_a_dead_letter_needs_no_reason() -> None:
    frame = codec.disposition_frame(0, first=1, last=1, outcome=codec.dead_lettered(None, None))
    assert read(frame).error.condition == "com.microsoft:dead-letter"


@given(st.binary(max_size=3000), st.binary(min_size=1, max_size=32), st.integers(512, 1500), uints, uints)
def test_a_delivery_is_split_into_frames_that_the_peer_takes(
    payload: bytes, tag: bytes, max_frame_size: int, delivery_id: int, handle: int
) -> None:
    frames = codec.transfer_frames(
        5,
        handle=handle,
        delivery_id=delivery_id,
        delivery_tag=tag,
        payload=payload,
        max_frame_size=max_frame_size,
        message_format=codec.BATCH_FORMAT,
    )
    assert all(len(frame) <= max_frame_size for frame in frames)
    transfers: list[Transfer] = [read(frame, 5) for frame in frames]
    assert b"".join(transfer.payload for transfer in transfers) == payload
    assert {transfer.handle for transfer in transfers} == {handle}
    assert [transfer.more for transfer in transfers] == [True] * (len(frames) - 1) + [False]
    first = transfers[0]
    assert (first.delivery_id, first.delivery_tag, first.message_format) == (delivery_id, tag, codec.BATCH_FORMAT)
    assert by_the_sdk(frames[0])[:6] == [handle, delivery_id, tag, codec.BATCH_FORMAT, False, len(frames) > 1]


def test_ends_and_detaches_are_what_the_sdk_would_send() -> None:
    frame = codec.detach_frame(2, handle=300)
    assert read(frame, 2) == Detach(300, True, None)
    assert by_the_sdk(frame) == by_the_sdk(from_the_sdk(DetachFrame(300, True, None)))
    assert by_the_sdk(codec.end_frame(2)) == by_the_sdk(from_the_sdk(EndFrame(None)))
    assert decode_frame(body(codec.end_frame(9), 9))[0] == codec.END
    assert decode_frame(body(codec.close_frame()))[0] == codec.CLOSE


def test_we_introduce_ourselves_as_nobody() -> None:
    frame = codec.sasl_init_anonymous("host")
    assert decode_frame(body(frame, kind=1)) == (0x41, ["ANONYMOUS", b"", "host"])
