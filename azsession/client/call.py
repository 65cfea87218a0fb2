"""What is asked of the server, and what it answered: `calls` makes a `Call` of each operation, `Transport` sends it and
gives the `Answer` to its `read`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import attrs

from ..messages import PeekedMessage
from ..protocol.error_codes import ABOUT_QUEUE
from .cancellation import Flight

T = TypeVar("T")

#: Bytes of an answer's body, where it brings no messages.
ANSWER_SIZE = 16 * 1024 * 1024


@attrs.frozen(eq=False)
class Answer:
    """An answer: its status, headers and body, and when its request was sent, on the monotonic clock.

    Attributes:
        messages: What it brings, where it comes from this process and was not encoded.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    sent: float
    messages: Sequence[PeekedMessage] | None = None

    @property
    def items(self) -> Iterable[tuple[str, str]]:
        """The headers, each with the name that it was sent with."""
        return self.headers.items()


@attrs.define(eq=False, kw_only=True)
class Call(Generic[T]):
    """What is asked of the server.

    Args:
        method: The HTTP method.
        path: The path below the namespace's URL, encoded.
        entity: The queue that it is about; a token is made out to it.
        read: Makes the result of an answer; raises `MalformedError` where it cannot.
        about: What a 404 or 410 is about.
        query: The query, given the seconds that the server may still wait.
        wait: Seconds that the server may wait before it answers; a failed request is sent again within them. `None` where it
            does not wait.
        headers: Headers besides the usual ones.
        body: The body.
        gone_is_done: What it asks for is that something be gone: found gone by a second try, it was done by the first.
        repeatable: The plain dialect allows it to be sent again when its answer was lost.
        answer_within: Seconds in which the answer is of use, if fewer than the configuration's.
        patience: Seconds from the first failure in which it is sent again, if fewer than the configuration's.
        room: Bytes that the body of its answer may have.
        succeeds: The statuses that its `read` is for.
        flight: Set while a request is under way, so that its wait can be ended.
        stopped: Ends the pauses between attempts.
    """

    method: str
    path: str = attrs.field(repr=False)
    entity: str
    read: Callable[[Answer], T]
    about: str = ABOUT_QUEUE
    query: Callable[[float], str] | None = None
    wait: float | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    gone_is_done: bool = False
    repeatable: bool = False
    answer_within: float | None = None
    patience: float | None = None
    room: int = ANSWER_SIZE
    succeeds: frozenset[int] = frozenset({200, 201, 204})
    flight: Flight | None = None
    stopped: threading.Event | None = None

    def cancel(self) -> None:
        """End its wait, from another thread."""
        if self.stopped is not None:
            self.stopped.set()
        flight = self.flight
        if flight is not None:
            flight.cancel()
