"""`Operation`: one call of the broker: the future that the caller gets, and what its coroutine knows about the caller."""

from __future__ import annotations

import time
from typing import Any

import attrs

from ..calls import BLOCKING, CallContext
from .transport.task import Task, WithdrawnError


def seconds_left(context: CallContext, seconds: float) -> float:
    """Return `seconds`, or less if the caller gives up before."""
    return seconds if context.deadline is None else max(0.0, min(seconds, context.deadline - time.monotonic()))


class Operation(Task[Any]):
    """One call.

    Args:
        context: How the caller called the broker.

    Attributes:
        context: How the caller called the broker.
        started: When the call began, on the monotonic clock.
        needs_slot: Whether the call needs a place to wait, and has none.
    """

    def __init__(self, context: CallContext = BLOCKING) -> None:
        super().__init__()
        self.context = context
        self.started: float = time.monotonic()
        self.needs_slot: bool = context.slots is not None

    def left(self, seconds: float) -> float:
        """Return `seconds`, or less if the caller gives up before."""
        return seconds_left(self.context, seconds)

    def commit(self) -> None:
        """Commit to an effect, or to giving a result: the caller cannot cancel the call any more. Idempotent.

        Raises:
            WithdrawnError: The caller has cancelled the call.
        """
        if not self.claim():
            raise WithdrawnError

    def take_slot(self) -> None:
        """Take one of the places for calls that wait, until the call ends. Idempotent.

        Raises:
            ThrottledError: All places are taken.
        """
        if self.needs_slot and self.context.slots is not None:
            self.context.slots.acquire(self)
            self.needs_slot = False

    def part(self) -> Operation:
        """Return an operation with the same deadline that is a step of this one. Its caller cannot cancel it."""
        return Operation(attrs.evolve(self.context, slots=None))
