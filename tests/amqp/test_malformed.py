"""Malformed frames and messages: each ends in `MalformedFrameError` and in nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.amqp import MalformedFrameError, decode_frame, decode_message, decode_response

from .samples import FRAMES, MESSAGE


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_that_is_cut_short_is_malformed(frame: bytes) -> None:
    for length in range(1, len(frame) - 8):
        with pytest.raises(MalformedFrameError):
            decode_frame(frame[8 : 8 + length])


@given(st.binary(max_size=200))
def test_random_bytes_raise_no_other_error(data: bytes) -> None:
    for read_it in (decode_frame, decode_message, decode_response):
        with contextlib.suppress(MalformedFrameError):
            read_it(data)


@given(st.sampled_from([*[frame[8:] for frame in FRAMES], MESSAGE]), st.data())
def test_changed_bytes_raise_no_other_error(good: bytes, data: st.DataObject) -> None:
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
        pytest.param(b"\x00\x53\x77\x73\xff\xff\xff\xff", id="a character beyond Unicode"),
        pytest.param(b"\x00\x53\x77\x3f", id="an unknown type"),
        pytest.param(b"\x00\x53\x77\xc0\x02\x01\xa1\x03abc", id="an element longer than its list"),
        pytest.param(b"\x00\x53\x77\xc1\x03\x02\x43\xa1\x03abc", id="a value longer than its map"),
        pytest.param(b"\x00\x53\x77\xe0\x03\x01\xa1\x03abc", id="an element longer than its array"),
        pytest.param(b"\x00\x53\x72\x45", id="annotations that are a list"),
        pytest.param(b"\x00\x53\x75\xa1\x01a", id="data that is text"),
    ],
)
def test_an_impossible_message_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        decode_message(data)
