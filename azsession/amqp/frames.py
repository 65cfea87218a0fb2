"""AMQP 1.0 frames as bytes, ready to send (AMQP 1.0 §2.3, §2.7, §5.3.3). Clients and servers send them.

The frames that go with every message (flow, transfer, disposition) are packed by one `struct` call each: this is ten times
as fast as joining encoded fields.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from .encoding import FALSE, NULL, TRUE, described, encode_value, fields_of, symbol_map, ubyte, ushort
from .outcomes import encode_error
from .performatives import (
    ABSENT,
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    END,
    OPEN,
    RECEIVER_FIRST,
    RECEIVER_SECOND,
    SASL_INIT,
    SENDER_UNSETTLED,
    SESSION_FILTER,
    Absent,
    Condition,
)
from .types import Symbol, Uint, Ulong

#: The protocol headers (§2.2, §5.3), which come before the frames.
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
#: A frame without a body, which keeps a connection alive (§2.4.5).
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
#: The message format of a delivery that holds many messages, each in a data section of its own (Service Bus).
BATCH_FORMAT = 0x80013700

#: Frame types (§2.3.1).
AMQP_FRAME, SASL_FRAME = 0, 1
_FRAME_HEADER = struct.Struct(">IBBH")

#: Descriptors of a link's two ends (§3.5.3, §3.5.4).
SOURCE, TARGET = 0x28, 0x29


def frame(channel: int, code: int, *fields: bytes, kind: int = AMQP_FRAME) -> bytes:
    """Return a frame with the encoded fields of a performative (§2.3)."""
    body = described(code, fields_of(fields))
    return _FRAME_HEADER.pack(len(body) + 8, 2, kind, channel) + body


def sasl_init_anonymous(hostname: str) -> bytes:
    """Return the SASL frame that chooses the mechanism ANONYMOUS. Tokens authenticate the client later, over ``$cbs``."""
    fields = (encode_value(Symbol("ANONYMOUS")), encode_value(b""), encode_value(hostname))
    return frame(0, SASL_INIT, *fields, kind=SASL_FRAME)


def open_frame(
    *,
    container_id: str,
    hostname: str,
    max_frame_size: int,
    channel_max: int,
    idle_timeout_ms: int | None,
) -> bytes:
    """Return the frame that opens a connection (§2.7.1)."""
    return frame(
        0,
        OPEN,
        encode_value(container_id),
        encode_value(hostname),
        encode_value(Uint(max_frame_size)),
        ushort(channel_max),
        NULL if idle_timeout_ms is None else encode_value(Uint(idle_timeout_ms)),
    )


def begin_frame(
    channel: int,
    *,
    next_outgoing_id: int,
    incoming_window: int,
    outgoing_window: int,
    handle_max: int,
    remote_channel: int | None = None,
) -> bytes:
    """Return the frame that begins an AMQP session on a channel or, with `remote_channel`, answers a begin (§2.7.2)."""
    numbers = (next_outgoing_id, incoming_window, outgoing_window, handle_max)
    answered = NULL if remote_channel is None else ushort(remote_channel)
    return frame(channel, BEGIN, answered, *(encode_value(Uint(number)) for number in numbers))


def attach_receiver(
    channel: int,
    *,
    name: str,
    handle: int,
    address: str,
    session_id: str | Absent | None = ABSENT,
    settle_second: bool = True,
    properties: Mapping[str, Any] | None = None,
    max_message_size: int | None = None,
) -> bytes:
    """Return the frame that attaches a receiving link (§2.7.3).

    Args:
        channel: The channel of the AMQP session.
        name: The link's name, unique in its connection.
        handle: The link's number in the AMQP session.
        address: The node to receive from.
        session_id: The message session to lock, `None` for the next available one, `ABSENT` for no session filter.
        settle_second: Whether the peer answers each disposition with the result (§2.8.3, mode "second").
        properties: Link properties, for example ``com.microsoft:timeout`` (a `Uint`, milliseconds).
        max_message_size: The largest message that the receiver accepts, in bytes; `None` for no limit.
    """
    filters = NULL if isinstance(session_id, Absent) else symbol_map({SESSION_FILTER: session_id})
    return frame(
        channel,
        ATTACH,
        encode_value(name),
        encode_value(Uint(handle)),
        TRUE,
        ubyte(SENDER_UNSETTLED),
        ubyte(RECEIVER_SECOND if settle_second else RECEIVER_FIRST),
        terminus(SOURCE, address, filters),
        terminus(TARGET, f"receiver-link-{name}"),
        NULL,
        NULL,
        NULL,
        NULL if max_message_size is None else encode_value(Ulong(max_message_size)),
        NULL,
        NULL,
        symbol_map(properties) if properties else NULL,
    )


def attach_sender(
    channel: int, *, name: str, handle: int, address: str, properties: Mapping[str, Any] | None = None
) -> bytes:
    """Return the frame that attaches a sending link whose messages the peer acknowledges; see `attach_receiver`."""
    return frame(
        channel,
        ATTACH,
        encode_value(name),
        encode_value(Uint(handle)),
        FALSE,
        ubyte(SENDER_UNSETTLED),
        ubyte(RECEIVER_FIRST),
        terminus(SOURCE, f"sender-link-{name}"),
        terminus(TARGET, address),
        NULL,
        NULL,
        encode_value(Uint(0)),
        NULL,
        NULL,
        NULL,
        symbol_map(properties) if properties else NULL,
    )


def terminus(code: int, address: str | None, filters: bytes = NULL) -> bytes:
    """Return a source or target. Its other fields, from durability to the distribution mode, are left at their defaults."""
    return described(code, fields_of((encode_value(address), *(NULL,) * 6, filters)))


_UINT_MASK = 0xFFFFFFFF
_FALSE, _TRUE, _NULL, _UINT, _LIST8, _LIST32 = 0x42, 0x41, 0x40, 0x70, 0xC0, 0xD0

_SESSION_FLOW = struct.Struct(">IBBH3sBBBBIBIBIBI4sBB")
_LINK_FLOW = struct.Struct(">IBBH3sBBBBIBIBIBIBIBIBIBBB")


def flow_frame(
    channel: int,
    *,
    next_incoming_id: int,
    incoming_window: int,
    next_outgoing_id: int,
    outgoing_window: int,
    handle: int | None = None,
    delivery_count: int = 0,
    link_credit: int = 0,
    drain: bool = False,
    echo: bool = False,
) -> bytes:
    """Return the frame that reports the windows of an AMQP session and, with a handle, the credit of a link (§2.7.4)."""
    windows = (
        _UINT,
        next_incoming_id & _UINT_MASK,
        _UINT,
        incoming_window,
        _UINT,
        next_outgoing_id & _UINT_MASK,
        _UINT,
        outgoing_window,
    )
    drained, echoed = _TRUE if drain else _FALSE, _TRUE if echo else _FALSE
    if handle is None:
        # The four nulls are handle, delivery-count, link-credit and available.
        return _SESSION_FLOW.pack(
            40, 2, 0, channel, b"\x00\x53\x13", _LIST8, 27, 10, *windows, b"\x40\x40\x40\x40", drained, echoed
        )
    return _LINK_FLOW.pack(
        52,
        2,
        0,
        channel,
        b"\x00\x53\x13",
        _LIST8,
        39,
        10,
        *windows,
        _UINT,
        handle,
        _UINT,
        delivery_count & _UINT_MASK,
        _UINT,
        link_credit,
        _NULL,
        drained,
        echoed,
    )


_FIRST_TRANSFER = struct.Struct(">IBBH3sBBBBIBIBB")
_FORMAT = struct.Struct(">BIBB")
_NEXT_TRANSFER = struct.Struct(">IBBH3sBBBBI4sB")


def transfer_frames(
    channel: int,
    *,
    handle: int,
    delivery_id: int,
    delivery_tag: bytes,
    payload: bytes,
    max_frame_size: int,
    message_format: int = 0,
    settled: bool = False,
) -> list[bytes]:
    """Return the frames that send one delivery, each within the peer's frame size (§2.7.5).

    With `settled`, the receiver does not settle the delivery.
    """
    tag = len(delivery_tag)
    overhead = _FIRST_TRANSFER.size + tag + _FORMAT.size
    first = payload[: max_frame_size - overhead]
    rest = memoryview(payload)[len(first) :]
    frames = [
        _FIRST_TRANSFER.pack(
            overhead + len(first),
            2,
            0,
            channel,
            b"\x00\x53\x14",
            _LIST8,
            overhead - 13,
            6,
            _UINT,
            handle,
            _UINT,
            delivery_id & _UINT_MASK,
            0xA0,
            tag,
        )
        + delivery_tag
        + _FORMAT.pack(_UINT, message_format, _TRUE if settled else _FALSE, _TRUE if rest else _FALSE)
        + first
    ]
    room = max_frame_size - _NEXT_TRANSFER.size
    while rest:
        part, rest = rest[:room], rest[room:]
        frames.append(
            _NEXT_TRANSFER.pack(
                _NEXT_TRANSFER.size + len(part),
                2,
                0,
                channel,
                b"\x00\x53\x14",
                _LIST8,
                _NEXT_TRANSFER.size - 13,
                6,
                _UINT,
                handle,
                b"\x40\x40\x40\x42",
                _TRUE if rest else _FALSE,
            )
            + part
        )
    return frames


_DISPOSITION = struct.Struct(">IBBH3sBIIBBIBIB")


def disposition_frame(
    channel: int, *, first: int, last: int, outcome: bytes, settled: bool = False, receiver: bool = True
) -> bytes:
    """Return the frame that reports an encoded outcome of deliveries `first` to `last`, as receiver or sender (§2.7.6)."""
    fields = _DISPOSITION.size - 16 + len(outcome)
    return (
        _DISPOSITION.pack(
            _DISPOSITION.size + len(outcome),
            2,
            0,
            channel,
            b"\x00\x53\x15",
            _LIST32,
            fields,
            5,
            _TRUE if receiver else _FALSE,
            _UINT,
            first & _UINT_MASK,
            _UINT,
            last & _UINT_MASK,
            _TRUE if settled else _FALSE,
        )
        + outcome
    )


def detach_frame(channel: int, *, handle: int, closed: bool = True, error: Condition | None = None) -> bytes:
    """Return the frame that detaches a link (§2.7.7)."""
    return frame(channel, DETACH, encode_value(Uint(handle)), TRUE if closed else FALSE, encode_error(error))


def end_frame(channel: int, error: Condition | None = None) -> bytes:
    """Return the frame that ends an AMQP session (§2.7.8)."""
    return frame(channel, END, encode_error(error))


def close_frame(error: Condition | None = None) -> bytes:
    """Return the frame that closes a connection (§2.7.9)."""
    return frame(0, CLOSE, encode_error(error))
