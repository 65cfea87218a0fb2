"""`Operation`: one call of the broker, as the coroutine that carries it out sees it."""

from __future__ import annotations

import time
from typing import Any

import attrs

from ..base import BLOCKING, CallContext
from .transport.task import TaskFuture, WithdrawnError


class Operation:
    """One call: its context, and the future of its result.

    Args:
        context: How the caller called the broker.

    Attributes:
        future: Gets the result.
        started: When the call began, on the monotonic clock.
        context: How the caller called the broker.
    """

    def __init__(self, context: CallContext = BLOCKING) -> None:
        self.future: TaskFuture[Any] = TaskFuture()
        self.started: float = time.monotonic()
        self.context = context
        self._has_slot = False

    def left(self, seconds: float) -> float:
        """Return `seconds`, or less if the caller gives up before."""
        if self.context.deadline is None:
            return seconds
        return max(0.0, min(seconds, self.context.deadline - time.monotonic()))

    def claim(self) -> None:
        """Commit to an effect, or to giving a result: the caller cannot cancel the call any more. Idempotent.

        Raises:
            WithdrawnError: The caller has cancelled the call.
        """
        if not self.future.claim():
            raise WithdrawnError

    @property
    def needs_slot(self) -> bool:
        """Whether the call needs a place to wait, and has none."""
        return self.context.slots is not None and not self._has_slot

    def take_slot(self) -> None:
        """Take one of the places for calls that wait, until the call ends. Idempotent.

        Raises:
            ThrottledError: All places are taken.
        """
        if self.context.slots is not None and not self._has_slot:
            self.context.slots.acquire(self.future)
            self._has_slot = True

    def part(self) -> Operation:
        """Return an operation with the same deadline that is a step of this one. Its caller cannot cancel it."""
        return Operation(attrs.evolve(self.context, slots=None))
