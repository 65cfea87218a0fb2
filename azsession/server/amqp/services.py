"""`Services`: the objects that all connections of an endpoint share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Hashable
from typing import Protocol

import attrs

from ...broker.base import Broker
from ..authorization import Guard
from .conditions import RefusedError
from .dead_letter_locks import DeadLetterLocks
from .reporter import Reporter


class StolenLink(Protocol):
    """A link, as another link of the same name ends it."""

    def fail(self, refusal: RefusedError) -> None: ...


@attrs.frozen
class Services:
    """The broker, and the limits and names that the links need.

    Attributes:
        broker: The broker. The caller closes it.
        guard: Checks tokens and keys.
        max_message_size: Bytes of a message, of a batch, and of a session state, at most.
        reporter: Reports the operations of clients.
        dead_letter_locks: The locks on dead letters.
        tasks: The tasks that outlive their links.
        container_id: The name of the server for its clients.
        named_links: The links of all connections by client and name. A client that lost its connection attaches such a link
            again, which ends the former one; see `Link.can_be_stolen`.
    """

    broker: Broker
    guard: Guard
    max_message_size: int
    reporter: Reporter = attrs.field(factory=Reporter)
    dead_letter_locks: DeadLetterLocks = attrs.field(factory=DeadLetterLocks)
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set)
    container_id: str = attrs.field(factory=lambda: uuid.uuid4().hex)
    named_links: dict[Hashable, StolenLink] = attrs.field(factory=dict)
