"""The standard streams of a command: those that were closed, and output that cannot be written."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import NoReturn


class ClosedStream(io.TextIOBase):
    """Takes the place of a standard stream that was closed when the process started. Reading and writing fail.

    Python sets such a stream to `None`, and click then drops the output without an error. A command would delete messages
    that it never showed.

    Args:
        name: The name of the stream in the error.
    """

    encoding: str = "utf-8"
    errors: str = "replace"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name: str = name

    @property
    def buffer(self) -> ClosedStream:
        """The stream of bytes. It fails, too."""
        return self

    def write(self, text: object) -> NoReturn:
        """Fail."""
        raise self._error()

    def read(self, size: int | None = -1) -> NoReturn:
        """Fail."""
        raise self._error()

    def readline(self, size: int = -1) -> NoReturn:  # type: ignore[override]
        """Fail."""
        raise self._error()

    def _error(self) -> OSError:
        return OSError(errno.EBADF, f"{self.name} is closed")


def prepare_streams() -> None:
    """Make the standard streams usable, also those that were closed when the process started."""
    for number in (0, 1, 2):
        _keep_open(number)
    # Python's types do not say that a standard stream can be `None`.
    streams = vars(sys)
    if streams["stdin"] is None:
        sys.stdin = ClosedStream("standard input")
    if streams["stdout"] is None:
        sys.stdout = ClosedStream("standard output")
    if streams["stderr"] is None:
        # Nobody reads notes and errors. The exit status still tells about an error.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows a replacement for it.
            stream.reconfigure(errors="replace")


def _keep_open(number: int) -> None:
    """Open the null device as file `number` if that file is closed.

    Otherwise the next file has this number, for example the data file, and libraries in C write their output into it.
    """
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def discard_output() -> None:
    """Send unwritten output to the null device. Otherwise the interpreter fails to flush it at exit."""
    if isinstance(sys.stdout, ClosedStream):
        return
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        pass
