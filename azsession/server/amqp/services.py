"""`Services`: the objects that all connections of an endpoint share."""

from __future__ import annotations

import asyncio
import uuid

import attrs

from ...broker.base import Broker
from ..authorization import Guard
from .dead_letter_locks import DeadLetterLocks


@attrs.frozen
class Services:
    """The broker, and the limits and names that the links need.

    Attributes:
        broker: The broker. The caller closes it.
        guard: Checks tokens and keys.
        max_message_size: Bytes of a message, of a batch, and of a session state, at most.
        dead_letter_locks: The locks on dead letters.
        tasks: The tasks that outlive their links.
        container_id: The name of the server for its clients.
    """

    broker: Broker
    guard: Guard
    max_message_size: int
    dead_letter_locks: DeadLetterLocks = attrs.field(factory=DeadLetterLocks)
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set)
    container_id: str = attrs.field(factory=lambda: uuid.uuid4().hex)
