"""A queue's settings, a message in it, and the boxes that messages lie in."""

from __future__ import annotations

import uuid
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.standin.wire import Content

ACTIVE, DEFERRED, SCHEDULED = 0, 1, 2


@dataclass(frozen=True)
class Options:
    """A queue's settings, in seconds and bytes."""

    lock_duration: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = True
    max_message_size: int = 256 * 1024
    dead_letter_on_expiration: bool = False
    default_time_to_live: float | None = None


@dataclass(frozen=True)
class Counts:
    """How many messages a queue has; locked ones are active (or deferred) too."""

    active: int
    dead_letter: int
    deferred: int
    scheduled: int
    locked: int


@dataclass(slots=True, eq=False)
class Message:
    """A message in a queue."""

    content: Content
    number: int
    enqueued: int
    box: Box
    expires: float | None = None
    deliveries: int = 0
    state: int = ACTIVE
    token: bytes | None = None
    locked_until: float = 0.0
    source: str | None = None
    timer: Any = None

    def encode(self, *, locked: bool = True, state: bool = False) -> bytes:
        until = self.box.locked_until if self.box.holder is not None else self.locked_until
        return self.content.encode(
            self.deliveries,
            self.number,
            self.enqueued,
            locked_until=int(until * 1000) if locked else None,
            state=self.state if state else None,
            source=self.source,
        )


class Order:
    """Messages by sequence number, for peeking: removal is lazy."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self.messages: dict[int, Message] = {}

    def add(self, message: Message) -> None:
        self.messages[message.number] = message
        if self._numbers and message.number < self._numbers[-1]:
            insort(self._numbers, message.number)
        else:
            self._numbers.append(message.number)

    def remove(self, number: int) -> None:
        self.messages.pop(number, None)
        if len(self._numbers) > 64 + 2 * len(self.messages):
            self._numbers = [each for each in self._numbers if each in self.messages]

    def since(self, number: int) -> Iterator[Message]:
        for each in self._numbers[bisect_left(self._numbers, number) :]:
            if each in self.messages:
                yield self.messages[each]


@dataclass(slots=True, eq=False)
class Box:
    """Messages that are received one after the other: a session, or a queue that has none."""

    name: str | None
    ready: list[int] = field(default_factory=list)
    #: How many messages are active and not locked.
    available: int = 0
    locked: dict[bytes, Message] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    state: bytes | None = None
    state_set: float = 0.0
    #: The link that has the session; only of sessions.
    holder: Any = None
    locked_until: float = 0.0
    lock_timer: Any = None
    #: The links that receive from a queue without sessions.
    consumers: dict[Any, None] = field(default_factory=dict)


def lock_token(token: bytes) -> uuid.UUID:
    """Return the GUID that Azure means by the bytes of a delivery tag."""
    return uuid.UUID(bytes_le=token)
