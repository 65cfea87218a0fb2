"""Connections of urllib3 that report to the `RequestInFlight` of the thread that uses them. `http_pools` opens them."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.response import HTTPResponse

from . import cancellation
from .bounded_response import BoundedResponse
from .cancellation import RequestInFlight, current_request
from .http_heads import ResponseHead, ResponseHeaders, host_of, request_head, response_head
from .originals import Methods

#: The method and the target of a request, and the options of its response.
_Sent = tuple[str, str, Mapping[str, Any]]

#: The largest body, in bytes, that is read together with the headers.
WHOLE_SIZE = 65536
#: The methods whose requests need no length if they have no body.
_WITHOUT_BODY = frozenset({"GET", "DELETE"})

#: The open connections of this process, for `http_pools.forget_inherited`.
connections: weakref.WeakSet[TrackedConnection] = weakref.WeakSet()

#: The methods that `PlainConnection` does not call. In version 1 of urllib3, whose connections return other responses,
#: `getresponse` is that of `http.client`, so that its connections are used as they are.
_PASSED_BY = Methods(
    *((HTTPConnection, name) for name in ("request", "putrequest", "putheader", "getresponse")),
    *((http.client.HTTPConnection, name) for name in ("putrequest", "putheader", "endheaders", "getresponse")),
)
#: The `id` of the connection that this thread has put into a pool last, until it takes one again.
returned: threading.local = threading.local()


class TrackedConnection:
    """A connection that belongs to the request of the thread that uses it.

    Attributes:
        in_flight: That request.
        opening: A duplicate of the socket during the TLS handshake.
        sock: The socket, or a TLS object around it.
    """

    #: 0 even if somebody sets it for all connections: `http.client` would print tokens and bodies.
    debuglevel = 0
    response_class: Any = BoundedResponse
    in_flight: RequestInFlight | None = None
    opening: socket.socket | None = None
    sock: Any = None

    def __del__(self) -> None:
        # An interrupt can come after urllib3 took the connection out of its pool. Nobody else closes it then.
        if self.sock is not None:
            self.sock.close()

    def close(self) -> None:
        # An interrupted thread can have put the connection into the pool already. It is another thread's then.
        if getattr(returned, "connection", None) != id(self):
            super().close()  # type: ignore[misc]

    def connect(self) -> None:
        request = current_request()
        if request is not None:
            request.use_connection(self)
        connections.add(self)
        super().connect()  # type: ignore[misc]

    def request(self, *args: Any, **kwargs: Any) -> None:
        request = current_request()
        if request is not None:
            self._begin(request)
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _begin(self, request: RequestInFlight) -> None:
        if self.sock is None:
            self.connect()
        # Only after connecting: a request that was cancelled in between had no socket to shut down.
        request.use_connection(self)
        request.written = True


class PlainConnection(TrackedConnection):
    """A connection of urllib3's own class. It writes and reads the head of plain requests and responses in one step."""

    host: str
    port: int | None
    default_port: int
    timeout: float | None
    #: The request that was sent in one step.
    _sent: _Sent | None = None

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self._sent = None
        request = current_request()
        data = None if request is None else self._whole(method, url, body, headers, options)
        if request is None or data is None:
            super().request(method, url, body, headers, **options)
            return
        self._begin(request)
        self.sock.settimeout(self.timeout)
        self._sent = (method, url, options)
        # A server that closes the connection early may have answered: urllib3 reads the response after this error.
        self.send(data)  # type: ignore[attr-defined]

    def _whole(
        self, method: str, url: str, body: Any, headers: Mapping[str, str] | None, options: Mapping[str, Any]
    ) -> bytes | None:
        """Return all bytes of a request. `None` if it is not plain, or another program watches urllib3's own way."""
        host = host_of(self.host, self.port, self.default_port)
        if host is None or headers is None or options.get("chunked") or getattr(self, "proxy", None) is not None:
            return None
        if body is None and method not in _WITHOUT_BODY:
            return None
        if body is not None and not (isinstance(body, bytes) and "Content-Length" in headers):
            return None
        if not _PASSED_BY.are_original():
            return None
        head = request_head(method, url, host, headers)
        return head + body if head is not None and body else head

    def getresponse(self) -> Any:
        sent, self._sent = self._sent, None
        if sent is None:
            return super().getresponse()  # type: ignore[misc]
        request = current_request()
        begun = b"" if request is None else self._receive(request)
        head = None if request is None else _whole_head(begun, request.max_body_size)
        if head is not None:
            return WholeResponse(head, begun[len(begun) - head.length :], sent, self)
        self.sock.settimeout(self.timeout)
        response = self.response_class(self.sock, method=sent[0])
        try:
            response.unread(begun)
            response.begin()
            if response.will_close:
                self.close()
            if request is not None and request.takes_whole and _is_small(response.head, request.max_body_size):
                return WholeResponse(response.head, response.read(), sent, self, response)
            return _as_urllib3(response, sent)
        except BaseException as error:
            if isinstance(error, ConnectionError):
                self.close()
            response.close()
            raise

    def _receive(self, request: RequestInFlight) -> bytes:
        """Return the first bytes of the response, mostly all of it. Read none if the caller takes the body in parts."""
        if not request.takes_whole or request.deadline is None:
            return b""
        seconds_left = request.deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError("the response did not begin in time")
        self.sock.settimeout(seconds_left)
        received: bytes = self.sock.recv(WHOLE_SIZE)
        return received


def _whole_head(data: bytes, limit: int) -> ResponseHead | None:
    """Return the head of a response if `data` is a complete one, plain and small, that sets no cookies."""
    end = data.find(b"\r\n\r\n")
    head = response_head(data[:end]) if end > 0 else None
    if head is None or len(data) != end + 4 + head.length or "set-cookie" in head.headers:
        return None
    return head if _is_small(head, limit) else None


def _is_small(head: ResponseHead | None, limit: int) -> bool:
    """Return whether the body of a response can be read at once."""
    return head is not None and head.length <= min(limit, WHOLE_SIZE) and "content-encoding" not in head.headers


class WholeResponse:
    """A plain response whose body is read. For all but the attributes below it makes the response of urllib3.

    `HTTPConnectionPool.urlopen` reads and sets some of them.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The body.
    """

    version_string: str = "HTTP/1.1"
    length_remaining: int = 0

    def __init__(
        self,
        head: ResponseHead,
        body: bytes,
        sent: _Sent,
        connection: PlainConnection,
        original: BoundedResponse | None = None,
    ) -> None:
        self._head = head
        self._original_response = original
        self._sent = sent
        self._own_connection = connection
        self.status: int = head.status
        self.headers: ResponseHeaders = head.headers
        self.body: bytes = body

    def release_to(self, pool: Any) -> None:
        """Put the connection back into its pool."""
        pool._put_conn(self._own_connection)

    def close(self) -> None:
        """Close the connection."""
        self._own_connection.close()

    def __getattr__(self, name: str) -> Any:
        head, original = self._head, self._original_response
        made = _urllib3_response(self._sent, head.status, head.reason, head.headers.fields, 11, self.body, original)
        return getattr(made, name)


def _as_urllib3(response: BoundedResponse, sent: _Sent) -> HTTPResponse:
    """Return a response as urllib3 gives it to its callers."""
    if response.head is not None:
        fields = response.head.headers.fields
    else:
        # A value can span several lines (RFC 9112, section 5.2).
        fields = [(name, re.sub(r"\r?\n[ \t]+", " ", value)) for name, value in response.headers.items()]
    return _urllib3_response(sent, response.status, response.reason, fields, response.version, response, response)


def _urllib3_response(
    sent: _Sent,
    status: int,
    reason: str,
    fields: list[tuple[str, str]],
    version: int,
    body: BoundedResponse | bytes,
    original: BoundedResponse | None,
) -> HTTPResponse:
    method, url, options = sent
    found = HTTPResponse(
        body=body,
        headers=fields,  # type: ignore[arg-type]
        status=status,
        version=version,
        reason=reason,
        original_response=original,
        request_method=method,
        request_url=url,
        preload_content=options.get("preload_content", True),
        decode_content=options.get("decode_content", True),
        enforce_content_length=options.get("enforce_content_length", True),
    )
    found.version_string = "HTTP/1.1" if version == 11 else "HTTP/1.0"
    return found


class TrackedTLSConnection(TrackedConnection):
    opening: socket.socket | None = None

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            with cancellation.connection_owners:
                if self.opening is not None:
                    self.opening.close()
                    self.opening = None

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        # The handshake detaches the socket from its descriptor. `cancel` can shut down the duplicate in the meantime.
        self.opening = sock.dup()
        return sock
