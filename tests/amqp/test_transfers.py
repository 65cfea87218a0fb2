"""Transfer frames: the usual form and all other forms are read alike."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp.decoding import READERS
from azsession.amqp.performatives import TRANSFER
from azsession.amqp.transfers import any_transfer, usual_transfer

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


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("flags", [(False, False, False), (True, False, False), (False, True, False), (False, False, True)])
def test_each_flag_is_read(flags: tuple[bool, bool, bool], wide: bool) -> None:
    settled, more, aborted = [TRUE if flag else FALSE for flag in flags]
    frame = frame_of([b"\x43", b"\x52\x07", TAG, NULL, settled, more, NULL, NULL, NULL, aborted], wide=wide)
    assert amqp.decode_frame(frame) == (TRANSFER, amqp.Transfer(0, 7, bytes(range(16)), None, *flags, PAYLOAD))


@pytest.mark.parametrize("number", [b"\x43", b"\x70\xff\xff\xff\xff"])
def test_all_numbers_of_handles_and_deliveries_take_the_short_way(number: bytes) -> None:
    frame = frame_of([number, number, TAG])
    read = usual_transfer(frame, 4)
    assert read is not None
    assert read.handle == read.delivery_id == int.from_bytes(number[1:], "big")


@pytest.mark.parametrize("payload", [PAYLOAD, b""])
@pytest.mark.parametrize("count", range(3, 11))
def test_the_usual_form_takes_the_short_way(count: int, payload: bytes) -> None:
    fields = [b"\x70\xff\xff\xff\xff", b"\x52\x07", TAG, b"\x43", FALSE, TRUE, NULL, NULL, NULL, TRUE]
    frame = frame_of(fields[:count]).removesuffix(PAYLOAD) + payload
    read = usual_transfer(frame, 4)
    assert read is not None
    assert (TRANSFER, read) == expected(frame)


@pytest.mark.parametrize(
    "fields",
    [
        [b"\x43", b"\x43"],
        [NULL, b"\x43", TAG],
        [TRUE, b"\x43", TAG],
        [b"\x54\xff", b"\x43", TAG],
        [b"\x80\x00\x00\x00\x01\x00\x00\x00\x00", b"\x43", TAG],
        [b"\x43", NULL, TAG],
        [b"\x43", FALSE, TAG],
        [b"\x43", b"\x54\xff", TAG],
        [b"\x43", b"\x80\x00\x00\x00\x01\x00\x00\x00\x00", TAG],
        [b"\x43", b"\x43", NULL],
        [b"\x43", b"\x43", b"\xa1\x01x"],
        [NULL, NULL, NULL],
    ],
)
def test_another_form_takes_the_long_way(fields: Sequence[bytes]) -> None:
    assert usual_transfer(frame_of(fields) + b"\xa0\x01x", 4) is None


def test_a_list_of_a_wrong_size_takes_the_long_way() -> None:
    frame = bytearray(frame_of([b"\x43", b"\x52\x07", TAG]))
    for size in (frame[4] - 1, len(frame) - 4):
        frame[4] = size
        assert usual_transfer(bytes(frame), 4) is None


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
