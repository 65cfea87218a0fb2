"""Remembers whether the broker answers a processor, so that each outage is reported once and probes can ask."""

from __future__ import annotations

import threading


class Reachability:
    """Whether the latest request to the broker was answered. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards _is_answered, which is None before the first answer or error.
        self._is_answered: bool | None = None

    @property
    def is_reached(self) -> bool:
        """Whether there was an answer, and no error since."""
        return self._is_answered is True

    def answered(self) -> bool:
        """Record an answer. Return whether it ends an outage."""
        if self._is_answered:
            return False
        with self._lock:
            before, self._is_answered = self._is_answered, True
        return before is False

    def failed(self) -> bool:
        """Record that there was no answer. Return whether an outage begins with it."""
        with self._lock:
            before, self._is_answered = self._is_answered, False
        return before is not False

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
