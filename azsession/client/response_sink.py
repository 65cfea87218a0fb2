"""`ResponseSink`: takes the body of a response that can be larger than memory. `Call` has one, `send_prepared` fills it."""

from __future__ import annotations

from typing import BinaryIO, Protocol

#: Bytes that are copied at once.
_PIECE = 1024 * 1024


class ResponseSink(Protocol):
    """Takes the body of a success, piece by piece. An error that it raises ends the call, without a retry."""

    def begin(self) -> None:
        """A body begins. The body of an earlier attempt is forgotten."""

    def write(self, piece: bytes) -> None:
        """Take the next piece of the body."""


def copy_file(file: BinaryIO, sink: ResponseSink) -> None:
    """Give the rest of a file to a sink, and close the file."""
    with file:
        sink.begin()
        for piece in iter(lambda: file.read(_PIECE), b""):
            sink.write(piece)
