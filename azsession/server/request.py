"""A request as `app` hands it to `handlers`, read and authorized, and the answer as they hand it back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..broker.base import CallContext
from ..errors import ValidationError
from ..messages import PeekedMessage
from ..protocol import COUNT_HEADER, ENVELOPE_TYPE, JSON_TYPE, LOCK_ID_HEADER, REQUEST_ID_HEADER
from ..protocol.routes import Route
from ..protocol.wire import encode_envelope, encode_single, fits_headers

#: Seconds that a receive or accept may ask to wait.
MAX_TIMEOUT = 86400.0
#: Seconds that a receive or accept waits that does not say.
DEFAULT_TIMEOUT = 60.0
#: What a lock id or a request id looks like: a UUID, in whatever way it is written.
IDENTIFIER = r"[A-Za-z0-9._{}-]{0,64}"


@attrs.frozen
class Request:
    """A request: its route, its query, its headers (as WSGI has them), its body, who made it, and how long they wait."""

    route: Route
    query: Mapping[str, str]
    headers: Mapping[str, Any]
    body: bytes
    context: CallContext

    def header(self, name: str) -> str | None:
        """Return a header of the request."""
        key = name.upper().replace("-", "_")
        value = self.headers.get(key if key == "CONTENT_TYPE" else f"HTTP_{key}")
        return None if value is None else str(value)

    def identifier(self, name: str) -> str:
        """Return a header that holds a UUID or the like; ``""`` where it is not there."""
        value = self.header(name) or ""
        if not re.fullmatch(IDENTIFIER, value):
            raise ValidationError(f"{name} is a UUID")
        return value

    @property
    def lock_id(self) -> str:
        return self.identifier(LOCK_ID_HEADER)

    @property
    def request_id(self) -> str:
        return self.identifier(REQUEST_ID_HEADER)

    @property
    def timeout(self) -> float:
        """The seconds to wait that the query asks for."""
        text = self.query.get("timeout")
        if text is None:
            return self._bounded(DEFAULT_TIMEOUT)
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) or float(text) > MAX_TIMEOUT:
            raise ValidationError(f"timeout is a number of seconds, 0 to {MAX_TIMEOUT:.0f}")
        return self._bounded(float(text))

    def _bounded(self, timeout: float) -> float:
        """Bound a wait, so that it does not outlast its caller's."""
        deadline = self.context.deadline
        return timeout if deadline is None else max(0.0, min(timeout, deadline - time.monotonic()))

    def number(self, name: str, default: int, highest: int, *, lowest: int = 0) -> int:
        """Return a whole number of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,19}", text) or not lowest <= int(text) <= highest:
            raise ValidationError(f"{name} is a whole number from {lowest} to {highest}")
        return int(text)


@attrs.frozen
class Answer:
    """An answer: its status, its headers, its body.

    Attributes:
        messages: What it brings, instead of a body: `encoded` makes headers and body of them, for those who are not in this
            process.
        single: One message goes in the form of its own, where headers can carry it; else there is an envelope.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes | None = None
    messages: Sequence[PeekedMessage] | None = None
    single: bool = False

    @classmethod
    def json(cls, status: int, value: Any) -> Answer:
        """Return an answer with a JSON body."""
        return cls(status, {"Content-Type": JSON_TYPE}, json.dumps(value, separators=(",", ":")).encode())

    def encoded(self) -> Answer:
        """Return the answer as it goes over the wire."""
        messages = self.messages
        if messages is None:
            return self
        # A receive of many that is made again for one has the same answer: all of it is in its caller's hands.
        if self.single and len(messages) == 1:
            own, body = encode_single(messages[0])
            if fits_headers(own):
                return Answer(self.status, {**own, **self.headers}, body)
        described = {"Content-Type": ENVELOPE_TYPE, COUNT_HEADER: str(len(messages)), **self.headers}
        return Answer(self.status, described, encode_envelope(messages))
