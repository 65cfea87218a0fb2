"""The operations of a session's holder, except receiving: settle, renew, release, state, dead-letter the session.

`EmbeddedBroker` forwards its methods to `Settling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import islice

from ...protocol.error_codes import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ..calls import CallContext, Disposition, Settlement
from ..dead_letter_reasons import MAX_DELIVERY_EXCEEDED, counted_as
from .core import Core, lost_error
from .database_file import DEFERRED
from .jobs import Transaction, Unfinished
from .lock_tokens import token_key
from .queue_state import Queue
from .session_locks import LockedMessage, SessionLock
from .store import STEP_BYTES

#: Messages that one step settles.
STEP_SETTLEMENTS = 500
#: Seconds for which a lock lasts at least between two steps.
BETWEEN_STEPS = 1.0


class Settling:
    """Settles messages, and renews and releases session locks."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], context: CallContext
    ) -> Future[list[str | None]]:
        """Settle messages. The future gets an error code or `None` for each; see `Broker.settle`."""
        codes: list[str | None] = []

        def job(tx: Transaction) -> list[str | None] | Unfinished:
            before = len(codes)
            tx.on_rollback(lambda: codes.__delitem__(slice(before, None)))
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue, session_id):
                return Unfinished.CONTINUE
            lock = self._core.current_lock(tx, (queue.id, session_id))
            if lock is not None:
                lock.save_for_rollback(tx)
            done: list[tuple[Settlement, LockedMessage]] = []
            size = 0
            for settlement in settlements[before : before + STEP_SETTLEMENTS]:
                known = len(done)
                codes.append(self._claim(queue, lock, settlement, done))
                size += sum(message.size for _, message in done[known:])
                if size > STEP_BYTES:
                    break
            if lock is not None and done:
                self._apply(tx, queue, lock, done)
            if len(codes) == len(settlements):
                return codes
            if lock is not None:
                # A settlement that arrived in time must not lose the lock between two of its steps.
                self._core.locks.extend(lock, max(lock.expires, self._core.clock.monotonic() + BETWEEN_STEPS))
            return Unfinished.CONTINUE

        # The counts of messages that are taken must survive the death of this process only, as after a receive.
        durable = any(one.disposition is not Disposition.TAKE for one in settlements)
        return self._core.submit(job, context, durable=durable)

    def _claim(
        self, queue: Queue, lock: SessionLock | None, settlement: Settlement, done: list[tuple[Settlement, LockedMessage]]
    ) -> str | None:
        """Move a message from its lock to `done`, or return the error code."""
        if lock is not None and settlement.disposition is Disposition.TAKE and settlement.lock_token in lock.tokens:
            done.append((settlement, lock.tokens[settlement.lock_token]))
            return None
        in_hand = None if lock is None else lock.tokens.pop(settlement.lock_token, None)
        if in_hand is not None:
            done.append((settlement, in_hand))
            return None
        key = token_key(queue.id, settlement.lock_token)
        before = None if key is None else self._core.remembered.settled_disposition(key, settlement.lock_token)
        if before is None:
            earlier = next((one for one, _ in done if one.lock_token == settlement.lock_token), None)
            before = None if earlier is None else earlier.disposition.value
        if before is None:
            return SESSION_LOCK_LOST if lock is None else MESSAGE_LOCK_LOST
        return None if before == settlement.disposition.value else CONFLICT

    def _apply(self, tx: Transaction, queue: Queue, lock: SessionLock, done: list[tuple[Settlement, LockedMessage]]) -> None:
        store = self._core.store
        gone: list[int] = []
        deferred: list[int] = []
        dead: list[tuple[str | None, str | None, int]] = []
        for settlement, message in done:
            disposition = settlement.disposition
            if disposition is Disposition.COMPLETE:
                gone.append(message.key)
            elif disposition is Disposition.DEFER:
                deferred.append(message.key)
            elif disposition is Disposition.DEAD_LETTER:
                dead.append((settlement.reason, settlement.description, message.key))
            elif disposition is Disposition.ABANDON and message.count >= queue.settings.max_delivery_count:
                why = f"The message was delivered {message.count} times and abandoned."
                dead.append((MAX_DELIVERY_EXCEEDED, why, message.key))
            else:
                if disposition is Disposition.ABANDON and settlement.delay > 0:
                    self._core.thread.act_at(self._core.delays.add(tx, lock.key, settlement.delay))
                if disposition is not Disposition.TAKE and not message.deferred:
                    lock.give_back(message.key)
        self._count(tx, lock, done)
        store.delete_messages(gone)
        store.set_status(deferred, DEFERRED)
        self._core.due.dead_letter(tx, dead)
        settled = [(one, message) for one, message in done if one.disposition is not Disposition.TAKE]
        self._core.remembered.remember_settled(
            [(message.key, one.lock_token, one.disposition.value) for one, message in settled], self._core.clock.steady()
        )
        found = store.session(*lock.key)
        if found is not None and (gone or deferred or dead):
            store.update_session(found[0])
        if len(gone) + len(dead) < len(settled):
            self._core.due.schedule_expiries(tx)
        if lock.returned:
            tx.after_commit(lock.wake_waiters)

    def _count(self, tx: Transaction, lock: SessionLock, done: list[tuple[Settlement, LockedMessage]]) -> None:
        """Correct the stored delivery counts of messages that were settled or taken."""
        counts: dict[int, int] = {}
        for settlement, message in done:
            is_uncounted = settlement.disposition in (Disposition.DEFER, Disposition.RELEASE)
            if is_uncounted and not message.ahead:
                counts[message.key] = message.count_before
            elif message.ahead and not is_uncounted:
                message.take(tx)
                counts[message.key] = message.count
        following = lock.first_ahead()
        if following is not None:
            # The messages before it are settled, so the holder uses this one next.
            following.take(tx)
            counts[following.key] = following.count
        self._core.store.set_delivery_counts(counts.items())

    def renew(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> Future[float]:
        """Renew the lock: it expires after the queue's lock duration."""

        def job(tx: Transaction) -> float:
            queue = self._core.queue(entity)
            lock = self._core.held_lock(tx, queue, session_id, lock_id)
            if lock is None:
                raise lost_error()
            lock.save_for_rollback(tx)
            self._core.extend_lock(queue, lock)
            return lock.expires - self._core.clock.monotonic()

        return self._core.submit(job, context)

    def release(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> Future[None]:
        """Release the lock if this holder has it. A receive of this holder that is still under way must not take it again."""

        def job(tx: Transaction) -> Unfinished | None:
            queue = self._core.queue(entity)
            key = (queue.id, session_id)
            lock = self._core.current_lock(tx, key)
            if lock is None or lock.holder != lock_id:
                self._core.locks.refuse(key, lock_id)
                return None
            lock.save_for_rollback(tx)
            returned = [lock.tokens.pop(token) for token in list(islice(lock.tokens, STEP_SETTLEMENTS))]
            self._core.uncount(returned)
            for message in returned:
                if not message.deferred:
                    lock.give_back(message.key)
            if returned:
                self._core.due.schedule_expiries(tx)
            if lock.tokens:
                self._core.locks.extend(lock, max(lock.expires, self._core.clock.monotonic() + BETWEEN_STEPS))
                return Unfinished.CONTINUE
            self._core.end_lock(tx, lock)
            return None

        return self._core.submit(job, context)

    def give_back(
        self, entity: str, session_id: str, lock_id: str, lock_tokens: Sequence[str], context: CallContext
    ) -> Future[None]:
        """Return messages to their places, as if they had not been delivered."""

        def job(tx: Transaction) -> None:
            queue = self._core.queue(entity)
            lock = self._core.current_lock(tx, (queue.id, session_id))
            if lock is None or lock.holder != lock_id:
                return
            lock.save_for_rollback(tx)
            returned = {}
            for token in lock_tokens:
                message = lock.tokens.get(token)
                if message is not None:
                    message.count_answers(tx, -1)
                    if message.answers == 0:
                        returned[token] = lock.tokens.pop(token)
            self._core.uncount(returned.values())
            for message in returned.values():
                if not message.deferred:
                    lock.give_back(message.key)
            lock.forget_answers(returned)
            if returned:
                self._core.due.schedule_expiries(tx)
                tx.after_commit(lock.wake_waiters)

        return self._core.submit(job, context)

    def undo_accept(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> Future[None]:
        """Give back the lock that an accept took, unless the accept was repeated."""

        def job(tx: Transaction) -> None:
            queue = self._core.queue(entity)
            lock = self._core.current_lock(tx, (queue.id, session_id))
            if lock is not None and lock.holder == lock_id and lock.accepts > 0:
                lock.count_accepts(tx, -1)
                if lock.accepts == 0 and not lock.tokens and not lock.waiters:
                    self._core.undo_take_lock(tx, lock)

        return self._core.submit(job, context)

    def get_state(self, entity: str, session_id: str, lock_id: str, context: CallContext) -> Future[bytes | None]:
        """Return the session state; see `Broker.get_state`."""

        def job(tx: Transaction) -> bytes | None:
            queue = self._core.queue(entity)
            self._core.held_lock(tx, queue, session_id, lock_id)
            return self._core.store.state(queue.id, session_id)

        return self._core.submit(job, context)

    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, context: CallContext
    ) -> Future[None]:
        """Store the session state; see `Broker.set_state`."""

        def job(tx: Transaction) -> None:
            queue = self._core.creation.find_to_write(tx, entity)
            lock = self._core.held_lock(tx, queue, session_id, lock_id)
            self._core.store.set_state(queue.id, session_id, state, lock is not None, self._core.clock.now())

        return self._core.submit(job, context, durable=True)

    def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str,
        context: CallContext,
    ) -> Future[int]:
        """Dead-letter all active and deferred messages of a session, including unsettled ones.

        The first step decides it, durably. Further steps move the messages, and the future is resolved after the last one.
        """
        counts: list[int] = []

        def job(tx: Transaction) -> int | Unfinished:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue, session_id):
                return Unfinished.CONTINUE
            if counts:
                return counts[0]
            lock = self._core.held_lock(tx, queue, session_id, lock_id)
            if lock is not None and request_id in lock.dead_lettered:
                return lock.dead_lettered[request_id]
            found = self._core.store.session(queue.id, session_id)
            if found is None:
                return 0
            unsettled: list[tuple[int, str]] = []
            if lock is not None:
                lock.save_for_rollback(tx)
                unsettled = [(message.key, token) for token, message in lock.tokens.items()]
                lock.tokens, lock.returned = {}, []
            count = self._core.due.begin_dead_lettering(tx, (queue.id, found[0]), reason, description, unsettled)
            self._core.events.session_dead_lettered(tx, queue.name, session_id, count, reason)
            tx.after_commit(lambda: self._core.due.dead_letter_counts.update({counted_as(reason): count}))
            if lock is not None and request_id:
                lock.dead_lettered = {request_id: count}
            tx.on_rollback(counts.clear)
            counts.append(count)
            return Unfinished.CONTINUE

        return self._core.submit(job, context, durable=True)
