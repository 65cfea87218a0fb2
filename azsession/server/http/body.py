"""Reads the body of a request from an ASGI server, or discards it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ...errors import MessageTooLargeError, ValidationError
from .asgi import ClientGoneError, Receive
from .framing import Head


class Body:
    """The body of a request.

    Args:
        receive: Returns the next event of the request.
        on_bytes: Called with the number of bytes of each piece.
        head: The head of the request; `None` if it was refused, so that nothing is known about the body.

    Attributes:
        length: The length that the request announces, or `None`.
        complete: Whether there are no more bytes to read.
        awaits_consent: Whether the client sends the body only after a status 100. It is sent when the body is read.
    """

    def __init__(self, receive: Receive, on_bytes: Callable[[int], None], head: Head | None) -> None:
        self._receive = receive
        self._on_bytes = on_bytes
        self.length: int | None = None if head is None else head.length
        self.complete: bool = head is None or not head.has_body
        self.awaits_consent: bool = head is not None and head.awaits_consent

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
        """Read the rest of the body without keeping it, or the first `limit` bytes of it. Return early if the client left."""
        with suppress(ClientGoneError):
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
