"""The locks on dead letters that clients of the endpoint received.

Brokers give dead letters to everybody and lock none of them. So the endpoint keeps these locks for its own clients.
"""

from __future__ import annotations

import time
import uuid

import attrs


@attrs.define
class DeadLetterLock:
    """A locked dead letter: its entity and number, and when the lock ends, on the monotonic clock."""

    token: uuid.UUID
    entity: str
    sequence_number: int
    ends_at: float


class DeadLetterLocks:
    """All locks on dead letters. Only the event loop uses it."""

    def __init__(self) -> None:
        self._by_token: dict[str, DeadLetterLock] = {}
        self._by_number: dict[tuple[str, int], DeadLetterLock] = {}

    def is_locked(self, entity: str, sequence_number: int) -> bool:
        """Return whether a dead letter is locked."""
        lock = self._by_number.get((entity, sequence_number))
        if lock is not None and lock.ends_at <= time.monotonic():
            self._remove(lock)
            return False
        return lock is not None

    def lock(self, entity: str, sequence_number: int, seconds: float) -> DeadLetterLock:
        """Lock a dead letter that is not locked."""
        lock = DeadLetterLock(uuid.uuid4(), entity, sequence_number, time.monotonic() + seconds)
        self._by_token[str(lock.token)] = self._by_number[entity, sequence_number] = lock
        return lock

    def find(self, entity: str, token: str) -> DeadLetterLock | None:
        """Return the lock with a token, unless it has ended."""
        lock = self._by_token.get(token)
        if lock is None or lock.entity != entity or not self.is_locked(entity, lock.sequence_number):
            return None
        return lock

    def renew(self, lock: DeadLetterLock, seconds: float) -> None:
        """Let a lock end in so many seconds."""
        lock.ends_at = time.monotonic() + seconds

    def unlock(self, token: str) -> None:
        """End a lock. A token without a lock is ignored."""
        lock = self._by_token.get(token)
        if lock is not None:
            self._remove(lock)

    def _remove(self, lock: DeadLetterLock) -> None:
        self._by_token.pop(str(lock.token), None)
        self._by_number.pop((lock.entity, lock.sequence_number), None)
