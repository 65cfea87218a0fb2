"""The reader of WebSocket frames, without a server."""

from __future__ import annotations

from typing import Any

from azsession.broker.azure.transport.stream import MAX_WEBSOCKET_FRAME, _WebSocket


class Pieces:
    """A socket that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[start : start + size] for start in range(0, len(data), size)][::-1]

    def read(self) -> bytes | None:
        return self._pieces.pop() if self._pieces else None


def test_a_large_frame_in_small_pieces_is_read_in_linear_time() -> None:
    # A copy of all earlier bytes for each piece would take many minutes.
    content = bytes(MAX_WEBSOCKET_FRAME)
    stream: Any = _WebSocket.__new__(_WebSocket)
    stream._in, stream._replies, stream._ended = bytearray(), b"", False
    stream._stream = Pieces(b"\x82\x7f" + len(content).to_bytes(8, "big") + content, 64)
    assert stream.read() == content
    assert stream.read() is None
