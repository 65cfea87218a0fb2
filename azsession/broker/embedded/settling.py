"""What a session's holder does besides receiving: settle, renew, release, keep state, dead-letter the rest."""

from __future__ import annotations

from collections.abc import Sequence

from ...protocol.error_codes import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ..base import Disposition, Settlement
from .core import MAX_DELIVERY_EXCEEDED, Core, Queue, lost_error, token_key
from .database_file import DEFERRED
from .group_commit import Turn
from .session_locks import InHand, SessionLock


class Settling:
    """The part of the embedded broker that takes messages back."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def settle(self, entity: str, session_id: str, settlements: Sequence[Settlement]) -> list[str | None]:
        """Settle each message; return the codes of those that could not be."""

        def job(turn: Turn) -> list[str | None]:
            queue = self._core.queue(turn, entity)
            lock = self._core.locks.get((queue.id, session_id))
            if lock is not None:
                lock.protect(turn)
            done: list[tuple[Settlement, InHand]] = []
            codes = [self._claim(queue, lock, settlement, done) for settlement in settlements]
            if lock is not None and done:
                self._apply(turn, queue, lock, done)
            return codes

        return self._core.perform(job, durable=True)

    def _claim(
        self, queue: Queue, lock: SessionLock | None, settlement: Settlement, done: list[tuple[Settlement, InHand]]
    ) -> str | None:
        """Take a message out of its holder's hands into `done`, or return the code of why not."""
        in_hand = None if lock is None else lock.tokens.pop(settlement.lock_token, None)
        if in_hand is not None:
            done.append((settlement, in_hand))
            return None
        key = token_key(queue.id, settlement.lock_token)
        before = None if key is None else self._core.store.how_settled(key, settlement.lock_token)
        if before is None:
            earlier = next((one for one, _ in done if one.lock_token == settlement.lock_token), None)
            before = None if earlier is None else earlier.disposition.value
        if before is None:
            return SESSION_LOCK_LOST if lock is None else MESSAGE_LOCK_LOST
        return None if before == settlement.disposition.value else CONFLICT

    def _apply(self, turn: Turn, queue: Queue, lock: SessionLock, done: list[tuple[Settlement, InHand]]) -> None:
        store = self._core.store
        gone: list[int] = []
        deferred: list[int] = []
        dead: list[tuple[str | None, str | None, int]] = []
        for settlement, message in done:
            if settlement.disposition is Disposition.COMPLETE:
                gone.append(message.key)
            elif settlement.disposition is Disposition.DEFER:
                deferred.append(message.key)
            elif settlement.disposition is Disposition.DEAD_LETTER:
                dead.append((settlement.reason, settlement.description, message.key))
            elif message.count >= queue.settings.max_delivery_count:
                why = f"The message was delivered {message.count} times and abandoned."
                dead.append((MAX_DELIVERY_EXCEEDED, why, message.key))
            elif not message.deferred:
                lock.give_back(message.key)
        store.delete_messages(gone)
        store.set_status(deferred, DEFERRED)
        store.dead_letter(dead)
        store.remember_settled(
            [(message.key, one.lock_token, one.disposition.value) for one, message in done], self._core.clock.now()
        )
        found = store.session(*lock.key)
        if found is not None and (gone or deferred or dead):
            store.refresh_session(found[0])
        if len(gone) + len(dead) < len(done):
            self._core.expect_expiries(turn)
        if lock.returned:
            turn.after_commit(lock.wake_waiters)

    def renew(self, entity: str, session_id: str, lock_id: str) -> float:
        """Set the lock's expiry to now + the queue's lock duration."""

        def job(turn: Turn) -> float:
            queue = self._core.queue(turn, entity)
            lock = self._core.held_lock(queue, session_id, lock_id)
            if lock is None:
                raise lost_error()
            lock.protect(turn)
            self._core.extend_lock(queue, lock)
            return lock.expires - self._core.clock.monotonic()

        return self._core.perform(job)

    def release(self, entity: str, session_id: str, lock_id: str) -> None:
        """End the lock, if this holder has it; a receive of it that is still under way must not take it again."""

        def job(turn: Turn) -> None:
            queue = self._core.queue(turn, entity)
            key = (queue.id, session_id)
            lock = self._core.locks.get(key)
            if lock is not None and lock.holder == lock_id:
                self._core.end_lock(turn, lock)
            else:
                self._core.locks.note_ended(key, lock_id)

        self._core.perform(job)

    def get_state(self, entity: str, session_id: str, lock_id: str) -> bytes | None:
        def job(turn: Turn) -> bytes | None:
            queue = self._core.queue(turn, entity)
            self._core.held_lock(queue, session_id, lock_id)
            return self._core.store.state(queue.id, session_id)

        return self._core.perform(job)

    def set_state(self, entity: str, session_id: str, lock_id: str, state: bytes | None) -> None:
        def job(turn: Turn) -> None:
            queue = self._core.queue(turn, entity)
            self._core.held_lock(queue, session_id, lock_id)
            self._core.store.set_state(queue.id, session_id, state)

        self._core.perform(job, durable=True)

    def dead_letter_session(
        self, entity: str, session_id: str, lock_id: str, reason: str, description: str | None, request_id: str = ""
    ) -> int:
        """Dead-letter all active and deferred messages of a session, those in hand included."""

        def job(turn: Turn) -> int:
            queue = self._core.queue(turn, entity)
            lock = self._core.held_lock(queue, session_id, lock_id)
            if lock is not None and request_id in lock.buried:
                return lock.buried[request_id]
            found = self._core.store.session(queue.id, session_id)
            if found is None:
                return 0
            count = self._core.store.dead_letter_session(found[0], reason, description)
            self._core.store.refresh_session(found[0])
            if lock is not None:
                lock.protect(turn)
                settled = [(message.key, token, Disposition.DEAD_LETTER.value) for token, message in lock.tokens.items()]
                self._core.store.remember_settled(settled, self._core.clock.now())
                lock.tokens, lock.returned = {}, []
                if request_id:
                    lock.buried = {request_id: count}
            return count

        return self._core.perform(job, durable=True)
