"""The settings of a queue, its messages, and the boxes that hold them. `state` builds queues of them."""

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
    """The settings of a queue, in seconds and bytes."""

    lock_duration: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = True
    max_message_size: int = 256 * 1024
    dead_letter_on_expiration: bool = False
    default_time_to_live: float | None = None
    #: Whether one expired message expires all of its session, when a link receives from the session and not before.
    sessions_expire_together: bool = False
    #: Whether the entity has several partitions, and messages of one partition key are in the same one.
    partitioned: bool = False
    #: For how many seconds the ids of messages are remembered to drop duplicates, `None` for no duplicate detection.
    duplicate_detection: float | None = None
    #: The largest batch, at most the largest message. Above it, the sender's link is detached.
    max_batch_size: int = 1024 * 1024
    #: Whether senders are told `max_batch_size`, in a property of their links. Older versions of Azure do not tell it.
    announces_batch_size: bool = True
    #: The most sessions in one answer to a list, whatever the client asks for.
    session_page: int = 100
    #: An attach for a session that another link holds waits for it, as long as the client allows, before it is refused.
    waits_for_held_sessions: bool = False
    #: Whether the lock of a session is renewed while its link has credit left (Azure/azure-service-bus#694).
    credit_keeps_lock: bool = True

    @property
    def batch_limit(self) -> int:
        """The largest batch, in bytes."""
        return min(self.max_batch_size, self.max_message_size)


@dataclass(frozen=True)
class Counts:
    """How many messages a queue has. Locked messages also count as active or deferred."""

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

    def encode(self, *, locked: bool = True, state: bool = False, annotated: bool = False) -> bytes:
        """Return the encoded message, with the delivery annotation of its lock token if `annotated`."""
        until = self.box.locked_until if self.box.holder is not None else self.locked_until
        return self.content.encode(
            self.deliveries,
            self.number,
            self.enqueued,
            token=lock_token(self.token) if annotated and self.token is not None else None,
            locked_until=int(until * 1000) if locked else None,
            state=self.state if state else None,
            source=self.source,
        )


class Order:
    """Messages by sequence number, for peeks. Removed numbers stay in the list until there are many."""

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
    """Messages that are received in order: those of a session, or all of a queue without sessions."""

    name: str | None
    ready: list[int] = field(default_factory=list)
    #: How many messages are active and unlocked.
    available: int = 0
    locked: dict[bytes, Message] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    state: bytes | None = None
    state_set: float = 0.0
    #: The link that holds the session, `None` for a queue without sessions.
    holder: Any = None
    locked_until: float = 0.0
    lock_timer: Any = None
    #: The links that receive, for a queue without sessions.
    consumers: dict[Any, None] = field(default_factory=dict)

    def expired(self, now: float) -> list[Message]:
        """Return all available messages if one of them has expired."""
        found = [each for each in self.order.messages.values() if each.state == ACTIVE and each.token is None]
        return found if any(each.expires is not None and each.expires <= now for each in found) else []


def lock_token(token: bytes) -> uuid.UUID:
    """Return a delivery tag as a GUID in .NET's byte order, as Azure does."""
    return uuid.UUID(bytes_le=token)
