"""The frames that go with every message, and parts of messages, packed as the AMQP 1.0 standard has them, for `codec`.

The SDK's encoder takes ten times as long for these.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

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
    """Return the frame that tells the windows of an AMQP session and, with a handle, the credit of a link."""
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
        # Size and count of the list, then nulls for handle, delivery count, credit and available.
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
) -> list[bytes]:
    """Return the frames that send one delivery: as many as the peer's frame size needs."""
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
        + _FORMAT.pack(_UINT, message_format, _FALSE, _TRUE if rest else _FALSE)
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
    """Return the frame that settles deliveries `first` to `last` with an outcome, as the receiver or as the sender."""
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


_DETACH = struct.Struct(">IBBH3sBBBBIB")
_EMPTY = struct.Struct(">IBBH3s4s")
#: A list of one null: no error.
_NO_ERROR = b"\xc0\x02\x01\x40"


def detach_frame(channel: int, *, handle: int, closed: bool = True) -> bytes:
    """Return the frame that detaches a link."""
    return _DETACH.pack(20, 2, 0, channel, b"\x00\x53\x16", _LIST8, 7, 2, _UINT, handle, _TRUE if closed else _FALSE)


def end_frame(channel: int) -> bytes:
    """Return the frame that ends an AMQP session."""
    return _EMPTY.pack(15, 2, 0, channel, b"\x00\x53\x17", _NO_ERROR)


def close_frame() -> bytes:
    """Return the frame that closes a connection."""
    return _EMPTY.pack(15, 2, 0, 0, b"\x00\x53\x18", _NO_ERROR)


#: The encoded null.
NULL = b"\x40"
_LENGTH, _SIZE_AND_COUNT = struct.Struct(">I"), struct.Struct(">BII")


def sized(short: int, data: bytes) -> bytes:
    """Return text, a symbol or binary: `short` is its constructor for up to 255 bytes."""
    if len(data) < 256:
        return bytes((short, len(data))) + data
    return bytes((short + 0x10,)) + _LENGTH.pack(len(data)) + data


def compound(short: int, items: list[bytes]) -> bytes:
    """Return a list (`short` is 0xC0) or map (0xC1) of encoded items."""
    content, count = b"".join(items), len(items)
    if len(content) < 255 and count < 256:
        return bytes((short, len(content) + 1, count)) + content
    return _SIZE_AND_COUNT.pack(short + 0x10, len(content) + 4, count) + content


def fields_of(values: Sequence[bytes]) -> bytes:
    """Return a list of fields, those at the end left out that are null."""
    fields = list(values)
    while fields and fields[-1] == NULL:
        fields.pop()
    return compound(0xC0, fields)
