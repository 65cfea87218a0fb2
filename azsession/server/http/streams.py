"""The bytes of a connection: what came in, read ahead without a thread, and what goes out, counted as it goes.

Used by the gateway's server in place of cheroot's own files: `Front` fills a `Reader` from a socket that does not block, and
a worker thread reads on from there; both count, so that a deadline can follow the bytes.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

#: Bytes asked of a socket at once: more than a TLS record has, so that none of a record stays behind in the TLS layer.
PIECE = 65536


class Reader:
    """What a connection's peer sends. One thread at a time uses it.

    Args:
        sock: The socket.
        line_limit: Bytes of a line at most.

    Attributes:
        count: The bytes that came so far.
    """

    def __init__(self, sock: socket.socket, line_limit: int) -> None:
        self._socket = sock
        self._line_limit = line_limit
        self._buffer = bytearray()
        self._skip = 0
        self._searched = 0
        self.count: int = 0
        self.closed: bool = False

    # Without a thread

    def fill(self) -> bool:
        """Take what is there, from a socket that does not block; tell whether more may come.

        Raises:
            OSError: The connection is broken, or what came is no TLS.
        """
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return self._take()
        return True

    def has_head(self, limit: int) -> bool:
        """Tell whether a whole request head is there, or what can never become one."""
        if not self._buffer:
            return False
        start, self._searched = max(0, self._searched - 3), len(self._buffer)
        # A line that ends with no CR is malformed: there is no need to wait for more.
        return (
            self._buffer.find(b"\r\n\r\n", start) >= 0 or self._buffer.find(b"\n\n", start) >= 0 or len(self._buffer) > limit
        )

    @property
    def is_quiet(self) -> bool:
        """Whether nothing lies here, and nothing is known to be on its way."""
        return not self._buffer and not self._skip

    def skip(self, size: int) -> None:
        """Drop the next `size` bytes, those that are still to come included."""
        taken = min(size, len(self._buffer))
        del self._buffer[:taken]
        self._skip += size - taken

    def _take(self) -> bool:
        data = self._socket.recv(PIECE)
        self.count += len(data)
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            self._buffer += data[skipped:]
        else:
            self._buffer += data
        return bool(data)

    # In a thread

    def read(self, size: int) -> bytes:
        """Return `size` bytes; fewer only at the end. Blocks."""
        while len(self._buffer) < size and self._take():
            pass
        return self._cut(size)

    def readline(self, size: int = -1) -> bytes:
        """Return a line with its end, or `size` bytes of it, or what there is before the end. Blocks."""
        limit = self._line_limit if size < 0 else min(size, self._line_limit)
        searched = 0
        while True:
            at = self._buffer.find(b"\n", searched, limit)
            if at >= 0:
                return self._cut(at + 1)
            searched = len(self._buffer)
            if searched >= limit or not self._take():
                return self._cut(limit)

    def _cut(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._searched = 0
        return data

    def close(self) -> None:
        """Let go of what was not read."""
        self.closed = True
        self._buffer = bytearray()


class Writer:
    """What is sent to a connection's peer. One thread at a time uses it.

    Attributes:
        count: The bytes that the system has taken so far.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.count: int = 0

    def write(self, data: bytes) -> int:
        """Send all of `data`. Blocks while the peer does not take it."""
        left = memoryview(data)
        while left:
            sent = self._socket.send(left)
            self.count += sent
            left = left[sent:]
        return len(data)
