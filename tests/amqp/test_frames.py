"""Frames that azsession writes are read back by azsession and by the SDK, and mean the same as the SDK's own frames."""

from __future__ import annotations

from typing import Any

import pytest
from azure.servicebus._pyamqp.endpoints import Source, Target
from azure.servicebus._pyamqp.outcomes import Accepted, Modified, Released
from azure.servicebus._pyamqp.performatives import (
    AttachFrame,
    BeginFrame,
    CloseFrame,
    DetachFrame,
    DispositionFrame,
    EndFrame,
    FlowFrame,
    OpenFrame,
    SASLInit,
)
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp import ABSENT, Begin, Detach, Flow, Transfer, decode_frame

from .amqp_bytes import body, by_the_sdk, from_the_sdk, read

uints = st.integers(0, 2**32 - 1)
uint16 = st.integers(0, 65535)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
names = texts.filter(bool)


def sdk_frame(kind: Any, **fields: Any) -> list[Any]:
    """Return the fields of the SDK's own frame of this kind; fields that are not given are null."""
    given: dict[str, Any] = dict.fromkeys(kind._fields)
    return by_the_sdk(from_the_sdk(kind(**{**given, **fields})))


def test_protocol_headers_have_the_standard_bytes() -> None:
    assert amqp.AMQP_HEADER == b"AMQP\x00\x01\x00\x00"
    assert amqp.SASL_HEADER == b"AMQP\x03\x01\x00\x00"
    assert decode_frame(body(amqp.EMPTY_FRAME)) == (amqp.HEARTBEAT, None)


@given(names, names, uints, uint16, uints)
def test_an_open_frame_means_the_same_as_the_sdks(
    container_id: str, hostname: str, max_frame_size: int, channel_max: int, idle: int
) -> None:
    frame = amqp.open_frame(
        container_id=container_id,
        hostname=hostname,
        max_frame_size=max_frame_size,
        channel_max=channel_max,
        idle_timeout_ms=idle,
    )
    assert read(frame)[:3] == (max_frame_size, channel_max, idle)
    assert by_the_sdk(frame) == sdk_frame(
        OpenFrame,
        container_id=container_id,
        hostname=hostname,
        max_frame_size=max_frame_size,
        channel_max=channel_max,
        idle_timeout=idle,
    )


def test_an_open_frame_without_an_idle_timeout_ends_with_the_channel_maximum() -> None:
    frame = amqp.open_frame(container_id="c", hostname="h", max_frame_size=512, channel_max=7, idle_timeout_ms=None)
    assert read(frame)[:3] == (512, 7, None)
    assert by_the_sdk(frame) == [b"c", b"h", 512, 7]


@given(uint16, uints, uints, uints, uints)
def test_a_begin_frame_means_the_same_as_the_sdks(
    channel: int, next_id: int, incoming: int, outgoing: int, most: int
) -> None:
    windows = {"next_outgoing_id": next_id, "incoming_window": incoming, "outgoing_window": outgoing, "handle_max": most}
    frame = amqp.begin_frame(channel, **windows)
    assert read(frame, channel) == Begin(None, next_id, incoming, outgoing, most)
    assert by_the_sdk(frame) == sdk_frame(BeginFrame, **windows)


@given(
    names,
    uints,
    names,
    st.none() | texts,
    st.booleans(),
    st.dictionaries(st.sampled_from(["com.microsoft:timeout", "p"]), uints),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_a_receivers_attach_frame_means_the_same_as_the_sdks(
    name: str,
    handle: int,
    address: str,
    session_id: str | None,
    second: bool,
    properties: dict[str, int],
    max_message_size: int | None,
) -> None:
    frame = amqp.attach_receiver(
        2,
        name=name,
        handle=handle,
        address=address,
        session_id=session_id,
        settle_second=second,
        properties={key: amqp.Uint(value) for key, value in properties.items()},
        max_message_size=max_message_size,
    )
    assert read(frame, 2)[:9] == (name, handle, True, True, True, session_id, 0, max_message_size, properties)
    assert by_the_sdk(frame) == sdk_frame(
        AttachFrame,
        name=name,
        handle=handle,
        role=True,
        send_settle_mode=0,
        rcv_settle_mode=int(second),
        source=Source(address=address, filters={b"com.microsoft:session-filter": session_id}),
        target=Target(address=f"receiver-link-{name}"),
        max_message_size=max_message_size,
        properties={key: {"TYPE": "UINT", "VALUE": value} for key, value in properties.items()},
    )


def test_a_receiver_without_a_session_sends_no_filter() -> None:
    frame = amqp.attach_receiver(0, name="n", handle=0, address="q")
    assert read(frame).session_id is ABSENT
    assert b"session-filter" not in frame


def test_the_session_filter_is_a_string_under_a_symbol() -> None:
    frame = amqp.attach_receiver(0, name="n", handle=0, address="q", session_id="s")
    assert b"\xa3\x1ccom.microsoft:session-filter\xa1\x01s" in frame


@given(names, uints, names, st.dictionaries(st.sampled_from(["a", "b"]), texts))
def test_a_senders_attach_frame_means_the_same_as_the_sdks(
    name: str, handle: int, address: str, properties: dict[str, str]
) -> None:
    frame = amqp.attach_sender(1, name=name, handle=handle, address=address, properties=properties)
    assert read(frame, 1)[:9] == (name, handle, False, True, True, ABSENT, 0, None, properties)
    assert by_the_sdk(frame) == sdk_frame(
        AttachFrame,
        name=name,
        handle=handle,
        role=False,
        send_settle_mode=0,
        rcv_settle_mode=0,
        source=Source(address=f"sender-link-{name}"),
        target=Target(address=address),
        initial_delivery_count=0,
        properties=properties,
    )


@given(uint16, uints, uints, uints, uints, uints, uints, uints, st.booleans(), st.booleans())
def test_a_flow_frame_of_a_link_means_the_same_as_the_sdks(
    channel: int, a: int, b: int, c: int, d: int, handle: int, count: int, credit: int, drain: bool, echo: bool
) -> None:
    frame = amqp.flow_frame(
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


def test_a_flow_frame_of_an_amqp_session_names_no_link() -> None:
    frame = amqp.flow_frame(1, next_incoming_id=1, incoming_window=2, next_outgoing_id=3, outgoing_window=4, echo=True)
    assert read(frame, 1) == Flow(1, 2, 3, 4, None, None, None, False, True)
    assert by_the_sdk(frame) == [1, 2, 3, 4, None, None, None, None, False, True]


def test_sequence_numbers_wrap_around_at_32_bits() -> None:
    frame = amqp.flow_frame(
        0, next_incoming_id=2**32, incoming_window=1, next_outgoing_id=2**32 + 1, outgoing_window=1, handle=0,
        delivery_count=2**32 + 2, link_credit=1,
    )  # fmt: skip
    assert (read(frame).next_incoming_id, read(frame).next_outgoing_id, read(frame).delivery_count) == (0, 1, 2)


@given(st.binary(max_size=3000), st.binary(min_size=1, max_size=32), st.integers(512, 1500), uints, uints)
def test_a_delivery_is_split_into_frames_of_the_peers_size(
    payload: bytes, tag: bytes, max_frame_size: int, delivery_id: int, handle: int
) -> None:
    frames = amqp.transfer_frames(
        5,
        handle=handle,
        delivery_id=delivery_id,
        delivery_tag=tag,
        payload=payload,
        max_frame_size=max_frame_size,
        message_format=amqp.BATCH_FORMAT,
    )
    assert all(len(frame) <= max_frame_size for frame in frames)
    transfers: list[Transfer] = [read(frame, 5) for frame in frames]
    assert b"".join(transfer.payload for transfer in transfers) == payload
    assert {transfer.handle for transfer in transfers} == {handle}
    assert [transfer.more for transfer in transfers] == [True] * (len(frames) - 1) + [False]
    first = transfers[0]
    assert (first.delivery_id, first.delivery_tag, first.message_format) == (delivery_id, tag, amqp.BATCH_FORMAT)
    assert by_the_sdk(frames[0])[:6] == [handle, delivery_id, tag, amqp.BATCH_FORMAT, False, len(frames) > 1]


@pytest.mark.parametrize(
    ("outcome", "of_the_sdk", "state"),
    [
        (amqp.ACCEPTED, Accepted(), "accepted"),
        (amqp.RELEASED, Released(), "released"),
        (amqp.ABANDONED, Modified(True, False, None), "modified"),
        (amqp.DEFERRED, Modified(True, True, None), "modified"),
    ],
)
@given(first=uints, last=uints, receiver=st.booleans(), settled=st.booleans())
def test_a_disposition_frame_means_the_same_as_the_sdks(
    outcome: bytes, of_the_sdk: Any, state: str, first: int, last: int, receiver: bool, settled: bool
) -> None:
    frame = amqp.disposition_frame(7, first=first, last=last, outcome=outcome, receiver=receiver, settled=settled)
    assert read(frame, 7)[:6] == (receiver, first, last, settled, state, None)
    expected = from_the_sdk(DispositionFrame(receiver, first, last, settled, of_the_sdk, None))
    assert by_the_sdk(frame) == by_the_sdk(expected)


def test_detach_end_and_close_frames_mean_the_same_as_the_sdks() -> None:
    frame = amqp.detach_frame(2, handle=300)
    assert read(frame, 2) == Detach(300, True, None)
    assert by_the_sdk(frame) == by_the_sdk(from_the_sdk(DetachFrame(300, True, None)))
    assert by_the_sdk(amqp.end_frame(2)) == by_the_sdk(from_the_sdk(EndFrame(None)))
    assert by_the_sdk(amqp.close_frame()) == by_the_sdk(from_the_sdk(CloseFrame(None)))
    assert decode_frame(body(amqp.end_frame(9), 9))[0] == amqp.END
    assert decode_frame(body(amqp.close_frame()))[0] == amqp.CLOSE


def test_the_sasl_init_frame_has_the_sdks_bytes() -> None:
    frame = amqp.sasl_init_anonymous("host")
    assert decode_frame(body(frame, kind=1)) == (amqp.SASL_INIT, ("ANONYMOUS", b""))
    assert frame == from_the_sdk(SASLInit(mechanism=b"ANONYMOUS", initial_response=b"", hostname="host"), b"\x01")
