"""`Event`: an event without a lock, which signal handlers may set."""

from __future__ import annotations

import threading
from contextlib import suppress


class Event:
    """An event that threads wait for, like `threading.Event`.

    `threading.Event` has a lock. A signal handler that sets the event would wait for ever if it interrupted the thread that
    holds this lock, and an exception of a signal handler could leave the lock taken. This class uses atomic operations only.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[threading.Lock] = []  # One lock for each thread that waits. `set` releases it.

    def __repr__(self) -> str:
        return f"<Event: {'set' if self._is_set else 'unset'}>"

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def set(self) -> None:
        """Set the event, and wake all threads that wait. After an interrupt, a second call continues."""
        self._is_set = True
        for lock in self._waiting.copy():
            with suppress(RuntimeError):  # Released already.
                lock.release()

    def clear(self) -> None:
        """Unset the event."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set.

        Args:
            timeout: Seconds to wait at most. `None`: any time.

        Returns:
            `True` if the event is set, `False` if the time is over.
        """
        if self._is_set:
            return True
        lock = threading.Lock()
        lock.acquire()
        try:
            self._waiting.append(lock)
            # `set` does these steps in the opposite order, so that at least one of the two threads sees the other's change.
            if not self._is_set:
                lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))
            return self._is_set
        finally:
            with suppress(ValueError):
                self._waiting.remove(lock)
