"""`Call`, a request of the protocol, and `ServerResponse`, the answer to it.

`operations` makes a `Call` for each operation of the protocol. `Transport` sends it, and its `read` turns the response into
the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs

from ..events import Event
from ..messages import PeekedMessage
from ..protocol import LOCK_ID_HEADER, ROUTE_HEADER
from ..protocol.error_codes import ABOUT_QUEUE
from ..protocol.routes import session_path
from .cancellation import RequestInFlight
from .http_heads import ResponseHeaders
from .response_sink import ResponseSink

T = TypeVar("T")

#: The largest body, in bytes, of a response that has no messages.
MAX_RESPONSE_SIZE = 16 * 1024 * 1024


class SessionTarget:
    """The session that a call is about, and the lock under which the caller holds it. Immutable.

    Args:
        entity: The queue or subscription.
        session_id: The id of the session.
        lock_id: The id of the caller's lock.
        route: The value of ``Azsession-Route``.
        escaped: Write the session id in the escaped form of version 1.
    """

    __slots__ = ("entity", "escaped", "lock_id", "route", "session_id")

    def __init__(self, entity: str, session_id: str, lock_id: str, route: str, *, escaped: bool = False) -> None:
        self.entity: str = entity
        self.session_id: str = session_id
        self.lock_id: str = lock_id
        self.route: str = route
        self.escaped: bool = escaped

    @property
    def path(self) -> str:
        """The path of the session."""
        return session_path(self.entity, self.session_id, escaped=self.escaped)

    def headers(self) -> dict[str, str]:
        """Return the headers that name the lock and its route."""
        return {LOCK_ID_HEADER: self.lock_id, ROUTE_HEADER: self.route}


class ServerResponse:
    """A response of the server. Immutable.

    Args:
        status: The HTTP status.
        headers: The headers.
        body: The body.
        sent_at: When the request was sent, on the monotonic clock.
        messages: The messages of the response if the server runs in this process. They are not encoded then.
        extensions: The value of ``Azsession-Extensions``, also if the server runs in this process.
    """

    __slots__ = ("body", "extensions", "headers", "messages", "sent_at", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        sent_at: float,
        messages: Sequence[PeekedMessage] | None = None,
        extensions: str = "",
    ) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body
        self.sent_at: float = sent_at
        self.messages: Sequence[PeekedMessage] | None = messages
        self.extensions: str = extensions

    @property
    def items(self) -> Iterable[tuple[str, str]]:
        """The headers as pairs. The names have the case that the server sent. Values of one name are joined."""
        if isinstance(self.headers, ResponseHeaders):
            return self.headers.pairs()
        merged = getattr(self.headers, "itermerged", self.headers.items)  # urllib3's `items` does not join them.
        pairs: Iterable[tuple[str, str]] = merged()
        return pairs


# Without a `repr`, which makes `import azsession` faster. rich shows the fields of attrs classes nevertheless, so that those
# with lock tokens and bodies are marked.
@attrs.define(eq=False, repr=False, kw_only=True)
class Call(Generic[T]):
    """A request of the protocol.

    Args:
        method: The HTTP method.
        path: The encoded path below the base URL.
        entity: The queue that the request is about. The token is made out to it.
        read: Returns the result for a response. Raises `MalformedError` if the response is malformed.
        about: `ABOUT_SESSION`, `ABOUT_RECEIPT` or `ABOUT_QUEUE`: the thing that a 404 or 410 says is missing.
        query: Returns the query string. Its argument is the number of seconds that the server may still wait.
        wait: Seconds that the server may wait before it responds. Retries end with this time. `None`: it does not wait.
        headers: Headers besides those of every request.
        body: The body.
        missing_is_success: The operation removes something, so that 404 on a retry means that an earlier attempt removed it.
        repeatable: The plain dialect allows a retry although the first attempt may have taken effect.
        response_timeout: Seconds to wait for the response, if less than the configuration's.
        retry_within: Seconds after the first failure in which the call is retried, if less than the configuration's.
        max_response_size: The largest body of a response, in bytes.
        success_statuses: The statuses that `read` accepts.
        completes: The session and the lock token of a message, if the request completes it and does nothing else. A server in
            this process then needs no encoded request.
        sink: Takes the body of a success, which can be larger than memory. `None`: the response has the body.
        in_flight: The attempt that is running. `Transport` sets it.
        stopped: Ends the pauses between attempts when it is set. `PendingCalls` sets it.
    """

    method: str
    path: str = attrs.field(repr=False)
    entity: str
    read: Callable[[ServerResponse], T]
    about: str = ABOUT_QUEUE
    query: Callable[[float], str] | None = None
    wait: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    missing_is_success: bool = False
    repeatable: bool = False
    response_timeout: float | None = None
    retry_within: float | None = None
    max_response_size: int = MAX_RESPONSE_SIZE
    success_statuses: frozenset[int] = frozenset({200, 201, 204})
    completes: tuple[SessionTarget, str] | None = attrs.field(default=None, repr=False)
    sink: ResponseSink | None = None
    in_flight: RequestInFlight | None = None
    stopped: Event | None = None

    def cancel(self) -> None:
        """End the wait of the call, from another thread."""
        if self.stopped is not None:
            self.stopped.set()
        in_flight = self.in_flight
        if in_flight is not None:
            in_flight.cancel()
