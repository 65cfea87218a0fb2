"""`BoundedResponse`: an HTTP response that must be complete, and within the time and the size that its request allows.

The connections of `http_connections` make these. `http.client` and urllib3 do not limit how long a response takes and how
large it is, and accept a response that is cut off in its headers.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from http.client import HTTPMessage, HTTPResponse, RemoteDisconnected
from typing import Any

from .cancellation import RequestInFlight, ResponseTooLargeError, current_request
from .http_heads import ResponseHead, response_head

#: Bytes a second at which a body may arrive after the deadline of its request. A slower one is given up.
SLOWEST_RATE = 16 * 1024
#: The largest headers, in bytes, and the largest overhead of an encoded body.
_HEADERS_SIZE = 8 * 1024 * 1024


class _HeaderFile:
    """The file of a response while `http.client` reads the headers. The end of the file is an error."""

    __slots__ = ("close", "flush", "readline")

    def __init__(self, file: io.BufferedIOBase) -> None:
        read = file.readline

        # A closure is faster than a method, and this runs for each header.
        def readline(limit: int = -1) -> bytes:
            line: bytes = read(limit)
            if not line:
                raise RemoteDisconnected("the connection was closed before the end of the response's headers")
            return line

        self.readline: Callable[[int], bytes] = readline
        self.close: Callable[[], None] = file.close
        self.flush: Callable[[], None] = file.flush


class _BoundedFile(io.RawIOBase):
    """The bytes of one response from a socket, up to the deadline and the size that its request allows.

    The timeout of a socket does not limit the whole response, because it starts again with each byte.

    Attributes:
        in_body: The headers are complete.
    """

    #: `None` if an interrupt came before `__init__` set it: the finalizer calls `close` of such an object, too.
    _raw: Any = None

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, request: RequestInFlight, deadline: float) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._request = request
        self._deadline = deadline
        self._received = 0
        self._unread = b""
        self.in_body: bool = False

    def unread(self, data: bytes) -> None:
        """Put back bytes that were read from the socket. They are read first."""
        self._unread = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds_left = self._deadline + (self._received / SLOWEST_RATE if self.in_body else 0.0) - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError("the response did not end in time")
        count: int | None
        if self._unread:
            count = min(len(buffer), len(self._unread))
            buffer[:count], self._unread = self._unread[:count], self._unread[count:]
        else:
            self._sock.settimeout(seconds_left)
            count = self._raw.readinto(buffer)
        self._received += count or 0
        if self._received > _HEADERS_SIZE + (self._request.max_body_size if self.in_body else 0):
            if self.in_body:
                raise ResponseTooLargeError(f"the response has more than {self._request.max_body_size} bytes")
            raise ResponseTooLargeError(f"the response has more than {_HEADERS_SIZE} bytes of headers")
        return count

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
        super().close()


class BoundedResponse(HTTPResponse):
    """A response that must be complete, alone on its connection, and within the limits of its request.

    Attributes:
        head: The head of a plain response, see `http_heads`. `None` for other responses.
    """

    head: ResponseHead | None = None
    headers: HTTPMessage
    msg: HTTPMessage
    version: int
    status: int
    code: int
    reason: str
    length: int | None
    chunked: bool
    will_close: bool
    #: The file of the response, or `None`. After an interrupt at any place, the finalizer can close it.
    fp: Any = None

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        request = current_request()
        self._bounded: _BoundedFile | None = None
        if request is not None and request.deadline is not None:
            file, self.fp = self.fp, None  # A file cannot be closed once it is detached.
            self._bounded = _BoundedFile(file.detach(), sock, request, request.deadline)
            self.fp = io.BufferedReader(self._bounded)

    def unread(self, data: bytes) -> None:
        """Put back bytes of the response that were read from the socket. `begin` reads them first."""
        if self._bounded is not None:
            self._bounded.unread(data)

    def begin(self) -> None:
        if self._bounded is None or self._method == "HEAD" or not self._begin_plainly(self._bounded):  # type: ignore[attr-defined]
            self._begin_with_any_headers()

    def _begin_plainly(self, bounded: _BoundedFile) -> bool:
        """Read the status and the headers in one step. Return `False`, and read nothing, if they are not plain."""
        if self.headers is not None:
            return True
        buffered = self.fp.peek()
        end = buffered.find(b"\r\n\r\n")
        head = response_head(buffered[:end]) if end > 0 else None
        if head is None:
            return False
        message = HTTPMessage()
        for name, value in head.headers.fields:
            message.set_raw(name, value)
        self.fp.read(end + 4)
        self.version, self.reason, self.length = 11, head.reason, head.length
        self.code = self.status = head.status
        self.chunked = self.will_close = False
        self.headers = self.msg = message
        self.head = head
        bounded.in_body = True
        return True

    def _begin_with_any_headers(self) -> None:
        file = self.fp
        self.fp = _HeaderFile(file)
        try:
            super().begin()
        finally:
            # `http.client` sets `fp` to `None` if it closed the response over a malformed status line.
            self.fp = self.fp and file
        if self._may_have_more():
            self.will_close = True
        if self._bounded is not None:
            self._bounded.in_body = True

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        # Any number of 1xx responses may precede the final one (RFC 9110, section 15.2). `http.client` skips only 100, and
        # would return 103 as the final response.
        return version, 100 if 100 < status < 200 and status != 101 else status, reason

    def _may_have_more(self) -> bool:
        """Return whether bytes may follow the response, which the next request must not take for its own response."""
        length, coding = self.headers.get("Content-Length"), self.headers.get("Transfer-Encoding")
        if self.status in (101, 204, 304):
            # These have no body (RFC 9112, section 6.3). A server that announces one may also send it.
            return self.status == 101 or coding is not None or length not in (None, "0")
        return coding is not None and length is not None
