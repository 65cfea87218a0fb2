"""Whose turn it is to fetch messages ahead: one receive of a session at a time. `SessionLock` has one `FetchTurns`."""

from __future__ import annotations

import threading

from ..events import Event


class Turn(Event):
    """The turn of one receive. It is set when the receive no longer fetches ahead.

    Attributes:
        is_prompt: The receive does not wait for messages, so that its answer comes at once.
    """

    def __init__(self, *, is_prompt: bool = False) -> None:
        super().__init__()
        self.is_prompt: bool = is_prompt


class FetchTurns:
    """The receive that fetches ahead at the moment, if there is one. Safe to use from many threads."""

    def __init__(self) -> None:
        self._guard = threading.RLock()  # Guards _current. A signal handler may interrupt the thread that holds it.
        self._current: Turn | None = None

    def begin(self, own: Turn | None) -> Turn | None:
        """Take the turn, and return `None`. If another receive has it, return the event that is set when that ends.

        Args:
            own: Set by `end`. `None`: only look whether another receive has the turn.
        """
        with self._guard:
            if self._current is None:
                self._current = own
                return None
            return self._current

    def end(self, own: Turn) -> None:
        """Give the turn back, if `begin` gave it, and wake the threads that wait for it."""
        with self._guard:
            if self._current is own:
                self._current = None
        own.set()
