"""The operations of a session's holder, except receiving: settle, renew, release, state, dead-letter the session.

`EmbeddedBroker` forwards its methods to `Settling`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from itertools import islice

from ..calls import AcceptRequest, CallContext, Delivery, Settlement
from ..dead_letter_reasons import counted_as
from .core import Core, lost_error
from .jobs import Transaction, Unfinished
from .session_locks import LockedMessage, SessionLock
from .settle_call import BETWEEN_STEPS, STEP_SETTLEMENTS, SettleCall


class Settling:
    """Settles messages, and renews and releases session locks."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], context: CallContext
    ) -> Future[list[str | None]]:
        """Settle messages. The future gets an error code or `None` for each; see `Broker.settle`."""
        call = SettleCall(self._core, entity, session_id, settlements)
        return self._core.submit(call.step, context, durable=call.is_durable)

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

    def release(
        self, entity: str, session_id: str, lock_id: str, settlements: Sequence[Settlement], context: CallContext
    ) -> Future[Sequence[str | None]]:
        """Settle messages, then release the lock if this holder has it, in one transaction; see `Broker.release`."""
        call = SettleCall(self._core, entity, session_id, settlements)

        def job(tx: Transaction) -> Sequence[str | None] | Unfinished:
            if not call.is_finished and call.step(tx) is Unfinished.CONTINUE:
                return Unfinished.CONTINUE
            return self._release(tx, entity, session_id, lock_id) or call.codes

        return self._core.submit(job, context, durable=call.is_durable)

    def _release(self, tx: Transaction, entity: str, session_id: str, lock_id: str) -> Unfinished | None:
        """Release a lock. A receive of this holder that is still under way must not take it again."""
        queue = self._core.queue(entity)
        key = (queue.id, session_id)
        lock = self._core.current_lock(tx, key)
        if lock is None or lock.holder != lock_id:
            self._core.locks.refuse(key, lock_id)
            return None
        lock.save_for_rollback(tx)
        self._return(tx, lock, [lock.tokens.pop(token) for token in list(islice(lock.tokens, STEP_SETTLEMENTS))])
        if lock.tokens:
            self._core.locks.extend(lock, max(lock.expires, self._core.clock.monotonic() + BETWEEN_STEPS))
            return Unfinished.CONTINUE
        self._core.end_lock(tx, lock)
        return None

    def _return(self, tx: Transaction, lock: SessionLock, messages: Collection[LockedMessage]) -> None:
        """Return messages to their places. Their deliveries do not count."""
        self._core.uncount(messages)
        for message in messages:
            if not message.deferred:
                lock.give_back(message.key)
        if messages:
            self._core.due.schedule_expiries(tx)

    def give_back(
        self, entity: str, session_id: str, lock_id: str, lock_tokens: Sequence[str], context: CallContext
    ) -> Future[None]:
        """Return messages to their places, as if they had not been delivered."""

        def job(tx: Transaction) -> None:
            lock = self._lock_of(tx, entity, session_id, lock_id)
            if lock is not None:
                self._give_back(tx, lock, lock_tokens)

        return self._core.submit(job, context)

    def undo_accept(self, request: AcceptRequest, delivery: Delivery, context: CallContext) -> Future[None]:
        """Give back the messages and the lock that an accept took, unless the accept was repeated."""

        def job(tx: Transaction) -> None:
            lock = self._lock_of(tx, request.entity, delivery.session_id, request.lock_id)
            if lock is None:
                return
            self._give_back(tx, lock, [message.receipt.handle for message in delivery.messages])
            if lock.accepts > 0:
                lock.count_accepts(tx, -1)
                if lock.accepts == 0 and not lock.tokens and not lock.waiters:
                    self._core.undo_take_lock(tx, lock)

        return self._core.submit(job, context)

    def _lock_of(self, tx: Transaction, entity: str, session_id: str, lock_id: str) -> SessionLock | None:
        """Return the lock of a session if this holder has it."""
        queue = self._core.queue(entity)
        lock = self._core.current_lock(tx, (queue.id, session_id))
        return lock if lock is not None and lock.holder == lock_id else None

    def _give_back(self, tx: Transaction, lock: SessionLock, lock_tokens: Sequence[str]) -> None:
        """Return the messages of an answer that its caller did not get, unless another answer has them."""
        lock.save_for_rollback(tx)
        returned = {}
        for token in lock_tokens:
            message = lock.tokens.get(token)
            if message is not None:
                message.count_answers(tx, -1)
                if message.answers == 0:
                    returned[token] = lock.tokens.pop(token)
        self._return(tx, lock, returned.values())
        lock.forget_answers(returned)
        if returned:
            tx.after_commit(lock.wake_waiters)

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
