"""The locks on dead letters that clients of the endpoint received.

Brokers give dead letters to everybody and lock none of them. So the endpoint keeps these locks for its own clients.
"""

from __future__ import annotations

import time
import uuid
from typing import Protocol

import attrs


class LockHolder(Protocol):
    """A receiver of dead letters."""

    @property
    def entity(self) -> str: ...

    def unlocked(self, token: str) -> None:
        """Handle that one of the receiver's locks was ended, by a settlement or by its end."""

    def look_again(self, sequence_number: int | None) -> None:
        """Handle that a dead letter can be received, or, with `None`, that there may be new ones."""


@attrs.define
class DeadLetterLock:
    """A locked dead letter: its entity and number, and when the lock ends, on the monotonic clock."""

    token: uuid.UUID
    entity: str
    sequence_number: int
    ends_at: float
    holder: LockHolder


class DeadLetterLocks:
    """All locks on dead letters. Only the event loop uses it."""

    def __init__(self) -> None:
        self._by_token: dict[str, DeadLetterLock] = {}
        self._by_number: dict[tuple[str, int], DeadLetterLock] = {}
        self._receivers: dict[str, set[LockHolder]] = {}

    def add_receiver(self, receiver: LockHolder) -> None:
        """Let a receiver know when dead letters of its entity can be received."""
        self._receivers.setdefault(receiver.entity, set()).add(receiver)

    def remove_receiver(self, receiver: LockHolder) -> None:
        """Forget a receiver. One that was not added is ignored."""
        of_entity = self._receivers.get(receiver.entity)
        if of_entity is not None:
            of_entity.discard(receiver)
            if not of_entity:
                del self._receivers[receiver.entity]

    def announce(self, entity: str, sequence_number: int | None = None) -> None:
        """Let the receivers of an entity know that a dead letter can be received, or that there may be new ones."""
        for receiver in list(self._receivers.get(entity, ())):
            receiver.look_again(sequence_number)

    def is_locked(self, entity: str, sequence_number: int) -> bool:
        """Return whether a dead letter is locked."""
        lock = self._by_number.get((entity, sequence_number))
        if lock is not None and lock.ends_at <= time.monotonic():
            self._remove(lock)
            return False
        return lock is not None

    def lock(self, holder: LockHolder, sequence_number: int, seconds: float) -> DeadLetterLock:
        """Lock a dead letter that is not locked, for a receiver of its entity."""
        entity = holder.entity
        lock = DeadLetterLock(uuid.uuid4(), entity, sequence_number, time.monotonic() + seconds, holder)
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

    def unlock(self, token: str, *, is_gone: bool = False) -> None:
        """End a lock. A token without a lock is ignored. `is_gone` says that the dead letter was deleted."""
        lock = self._by_token.get(token)
        if lock is not None:
            self._remove(lock)
            lock.holder.unlocked(token)
            if not is_gone:
                self.announce(lock.entity, lock.sequence_number)

    def _remove(self, lock: DeadLetterLock) -> None:
        self._by_token.pop(str(lock.token), None)
        self._by_number.pop((lock.entity, lock.sequence_number), None)
