"""Transfer frames: the usual form and all other forms are read alike."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp.decoding import READERS
from azsession.amqp.performatives import TRANSFER
from azsession.amqp.transfers import any_transfer

NULL, TRUE, FALSE = b"\x40", b"\x41", b"\x42"
TAG = b"\xa0\x10" + bytes(range(16))
PAYLOAD = b"\x00\x53\x75\xa0\x01x"

NUMBERS = [b"\x43", b"\x52\x07", b"\x70\x00\x01\x02\x03", NULL, b"\x54\xff", b"\x80\x00\x00\x00\x01\x00\x00\x00\x00", TRUE]
TAGS = [TAG, b"\xb0\x00\x00\x00\x02ab", NULL, b"\xa1\x01x"]
FORMATS = [NULL, b"\x43", b"\x70\x80\x01\x37\x00", b"\xa1\x01x"]
FLAGS = [NULL, TRUE, FALSE]


def frame_of(fields: Sequence[bytes], *, wide: bool = False) -> bytes:
    """Return the body of a transfer frame with these encoded fields."""
    content = b"".join(fields)
    if wide:
        head = b"\xd0" + (len(content) + 4).to_bytes(4, "big") + len(fields).to_bytes(4, "big")
    else:
        head = bytes((0xC0, len(content) + 1, len(fields)))
    return b"\x00\x53\x14" + head + content + PAYLOAD


def decoded(frame: bytes) -> object:
    try:
        return amqp.decode_frame(frame)
    except amqp.MalformedFrameError:
        return "malformed"


def expected(frame: bytes) -> object:
    """Return what `any_transfer` reads from a frame."""
    fields, pos = READERS[frame[3]](frame, 4, 0)
    try:
        return TRANSFER, any_transfer(fields, frame[pos:])
    except amqp.MalformedFrameError:
        return "malformed"


@given(
    st.tuples(*map(st.sampled_from, (NUMBERS, NUMBERS, TAGS, FORMATS)), *[st.sampled_from(FLAGS)] * 6),
    st.integers(1, 10),
    st.booleans(),
)
def test_a_transfer_of_any_form_is_read(fields: Sequence[bytes], count: int, wide: bool) -> None:
    frame = frame_of(fields[:count], wide=wide)
    assert decoded(frame) == expected(frame)


def test_the_usual_form_is_read() -> None:
    frame = frame_of([b"\x43", b"\x52\x07", TAG, b"\x43", FALSE, TRUE])
    assert amqp.decode_frame(frame) == (TRANSFER, amqp.Transfer(0, 7, bytes(range(16)), 0, False, True, False, PAYLOAD))


@pytest.mark.parametrize("cut", range(3, 30))
def test_a_transfer_that_is_cut_short_is_refused(cut: int) -> None:
    fields = frame_of([b"\x52\x01", b"\x52\x07", TAG, b"\x43", FALSE, TRUE])[: -len(PAYLOAD)]
    with pytest.raises(amqp.MalformedFrameError):
        amqp.decode_frame(fields[: min(cut, len(fields) - 1)])


def test_fields_that_are_longer_than_their_list_are_refused() -> None:
    frame = bytearray(frame_of([b"\x43", b"\x52\x07", TAG, b"\x70\x00\x00\x00\x00", FALSE]))
    for size in range(5, frame[4]):
        frame[4] = size
        assert decoded(bytes(frame)) == "malformed"
