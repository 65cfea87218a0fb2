"""Splits the bytes of a connection into protocol headers and frames (AMQP 1.0 §2.2, §2.3.1), without I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .types import MalformedFrameError

#: The length of a protocol header, and of the smallest frame.
HEADER_SIZE = 8


class RawFrame(NamedTuple):
    """A frame that is not decoded. `kind` is 0 for AMQP and 1 for SASL."""

    kind: int
    channel: int
    body: bytes


class FrameSplitter:
    """Collects received bytes, and returns whole headers and frames. It keeps less than one frame of bytes.

    Args:
        max_frame_size: The largest frame that is accepted, in bytes.

    Attributes:
        awaits_header: Whether a protocol header comes next. The owner sets it.
    """

    def __init__(self, max_frame_size: int) -> None:
        self.awaits_header: bool = True
        self._max_frame_size = max_frame_size
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes | RawFrame]:
        """Yield the headers, as bytes, and the frames that are complete. Between two items the owner may stop.

        Raises:
            MalformedFrameError: A frame is too small, too large, or has a wrong data offset.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        try:
            while end - at >= HEADER_SIZE:
                if self.awaits_header:
                    at += HEADER_SIZE
                    yield data[at - HEADER_SIZE : at]
                    continue
                size = int.from_bytes(data[at : at + 4], "big")
                if not HEADER_SIZE <= size <= self._max_frame_size:
                    raise MalformedFrameError(f"a frame of {size} bytes; 8 to {self._max_frame_size} are allowed")
                if end - at < size:
                    break
                offset = 4 * data[at + 4]
                if not HEADER_SIZE <= offset <= size:
                    raise MalformedFrameError(f"a frame of {size} bytes with a data offset of {offset}")
                frame = RawFrame(data[at + 5], int.from_bytes(data[at + 6 : at + 8], "big"), data[at + offset : at + size])
                at += size
                yield frame
        finally:
            self._rest = data[at:]
