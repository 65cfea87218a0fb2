"""Reads the body of a request from an ASGI server, or discards it."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import MessageTooLargeError, ValidationError
from .asgi import Receive
from .framing import RawHeaders


class ClientGoneError(Exception):
    """The client closed the connection."""


class Body:
    """The body of a request.

    Args:
        receive: Returns the next event of the request.
        on_bytes: Called with the number of bytes of each piece.
        headers: The headers of the request, which `framing_error` has accepted.
        is_http1: Whether only these headers can announce a body.

    Attributes:
        length: The length that the request announces, or `None`.
        complete: Whether there are no more bytes to read.
        awaits_consent: Whether the client sends the body only after a status 100 (RFC 9110, section 10.1.1). The server sends
            this status when the body is read.
    """

    def __init__(self, receive: Receive, on_bytes: Callable[[int], None], headers: RawHeaders, *, is_http1: bool) -> None:
        self._receive = receive
        self._on_bytes = on_bytes
        self.length: int | None = None
        self.awaits_consent: bool = False
        announced = not is_http1
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
                announced = announced or self.length > 0
            elif name == b"transfer-encoding":
                announced = True
            elif name == b"expect":
                self.awaits_consent = value.lower() == b"100-continue"
        self.complete: bool = not announced

    async def read(self, limit: int, too_large: Callable[[int | None], MessageTooLargeError]) -> bytes:
        """Return the complete body.

        Args:
            limit: Bytes at most.
            too_large: Makes the error for a larger body.

        Raises:
            MessageTooLargeError: The body is larger than `limit`. The rest is not read.
            ValidationError: The body has another length than the request announces.
            ClientGoneError: The connection was closed before the end of the body.
        """
        if self.length is not None and self.length > limit:
            raise too_large(self.length)
        self.awaits_consent = self.awaits_consent and self.complete
        parts: list[bytes] = []
        size = 0
        while not self.complete:
            part = await self._next()
            size += len(part)
            if size > limit:
                raise too_large(None)
            parts.append(part)
        if self.length is not None and size != self.length:
            raise ValidationError(f"the body has {size} bytes, but Content-Length is {self.length}")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def discard(self, limit: int) -> None:
        """Read the rest of the body without keeping it, or the first `limit` bytes of it.

        Raises:
            ClientGoneError: The connection was closed.
        """
        while not self.complete and limit > 0:
            limit -= len(await self._next())

    async def _next(self) -> bytes:
        event = await self._receive()
        if event["type"] != "http.request":
            raise ClientGoneError
        self.complete = not event.get("more_body", False)
        part: bytes = event.get("body", b"")
        self._on_bytes(len(part))
        return part
