"""Bytes become protocol headers and frames, however they are cut, and frames that are too large are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.amqp import AMQP_HEADER, EMPTY_FRAME, FrameSplitter, MalformedFrameError, RawFrame, close_frame

CLOSE = close_frame()


def split(splitter: FrameSplitter, data: bytes) -> list[bytes | RawFrame]:
    found = []
    for item in splitter.feed(data):
        splitter.awaits_header = False
        found.append(item)
    return found


@given(cuts=st.lists(st.integers(0, 40)))
def test_the_cuts_of_the_bytes_do_not_matter(cuts: list[int]) -> None:
    splitter, data, found, at = FrameSplitter(512), AMQP_HEADER + EMPTY_FRAME + CLOSE + EMPTY_FRAME, [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += split(splitter, data[at:cut])
        at = max(at, cut)
    assert found == [AMQP_HEADER, RawFrame(0, 0, b""), RawFrame(0, 0, CLOSE[8:]), RawFrame(0, 0, b"")]


@pytest.mark.parametrize("head", ["0000000702000000", "0000020102000000", "0000000801000000", "0000000803000000"])
def test_wrong_sizes_are_refused_from_the_head_of_the_frame(head: str) -> None:
    splitter = FrameSplitter(512)
    splitter.awaits_header = False
    with pytest.raises(MalformedFrameError):
        split(splitter, bytes.fromhex(head))
