"""`copy_file` gives a file to a sink in pieces, and closes it."""

from __future__ import annotations

import io

from azsession.client.response_sink import copy_file


class Pieces:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = [b"of an earlier attempt"]

    def begin(self) -> None:
        self.pieces = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)


def test_a_file_is_copied_in_pieces_and_closed() -> None:
    content = bytes(range(256)) * 10_000
    file, sink = io.BytesIO(content), Pieces()
    copy_file(file, sink)
    assert b"".join(sink.pieces) == content
    assert max(map(len, sink.pieces)) <= 1024 * 1024
    assert file.closed
