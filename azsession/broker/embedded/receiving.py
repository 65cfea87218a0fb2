"""Receive, alone or after settlements: take a session lock, deliver messages, and wait for them.

`EmbeddedBroker` forwards its methods to `Receiving`, which also makes the accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import attrs

from ...errors import ProviderError, QueueError
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..calls import (
    RECEIVE_REFUSED,
    AcceptRequest,
    CallContext,
    Delivery,
    ReceiveRequest,
    Settled,
    Settlement,
    SupersededError,
)
from .accepting import AcceptCall
from .core import Core
from .database_file import DEFERRED
from .deliveries import deliver, lock_for
from .jobs import Job, Transaction, Unfinished, WithdrawnError
from .message_keys import find_key
from .queue_state import Queue
from .session_locks import SessionLock, Waiter
from .settle_call import SettleCall
from .store import STEP_BYTES
from .stored_message import Row


class Receiving:
    """Delivers messages and sessions."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def receive(self, request: ReceiveRequest, context: CallContext) -> Future[Delivery]:
        """Take the lock and messages. Wait for the first message; see `Broker.receive`."""
        call = ReceiveCall(self._core, request, context)
        return call.submit()

    def accept(self, request: AcceptRequest, context: CallContext) -> Future[Delivery | None]:
        """Take the lock of a session, or of the next free one; see `Broker.accept`."""
        call = AcceptCall(self._core, request, context)
        return call.submit()

    def settle_and_receive(
        self, settlements: Sequence[Settlement], request: ReceiveRequest, context: CallContext
    ) -> Future[Settled]:
        """Settle messages, then receive those that are there, in one transaction; see `Broker.settle_and_receive`."""
        call = _SettleAndReceive(self._core, settlements, request, context)
        return call.submit()

    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int], context: CallContext
    ) -> Future[list[ReceivedMessage]]:
        """Deliver deferred messages, all or none. A message that the holder already has keeps its lock token."""

        def job(tx: Transaction) -> list[ReceivedMessage] | Unfinished:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue, session_id):
                return Unfinished.CONTINUE
            lock = self._core.held_lock(tx, queue, session_id, lock_id)
            if lock is None:
                lock = self._core.take_lock(tx, queue, session_id, lock_id)
            rows = self._deferred_rows(queue, session_id, sequence_numbers)
            in_hand = {message.key: token for token, message in lock.tokens.items()}
            lock.save_for_rollback(tx)
            expires_at = self._core.lock_expiry(lock)
            messages = []
            for row in rows:
                token = in_hand.get(row.key)
                if token is None:
                    messages += self._core.hand_out(lock, [row], expires_at, context=context, deferred=True)
                else:
                    lock.tokens[token].count_answers(tx, 1)
                    messages.append(self._core.received(lock, row, token, lock.tokens[token], expires_at, context))
            return messages

        return self._core.submit(job, context)

    def _deferred_rows(self, queue: Queue, session_id: str, sequence_numbers: Sequence[int]) -> list[Row]:
        rows: list[Row] = []
        total = 0
        for number in dict.fromkeys(sequence_numbers):
            key = find_key(queue.id, number)
            home = self._core.store.session_of(key)
            row = self._core.store.message(key) if total <= STEP_BYTES or not rows else None
            if home is None or home[1] != session_id or (row is not None and row.status != DEFERRED):
                raise ProviderError(f"the session has no deferred message {number}", code=MESSAGE_NOT_FOUND, status=404)
            if row is not None:
                total += row.size
                if not rows or total <= STEP_BYTES:
                    rows.append(row)
        return rows


class ReceiveCall:
    """One receive, from its first attempt to its result.

    Args:
        core: The broker's state.
        request: The receive.
        context: How the operation is called.

    Attributes:
        waiter: The waiter of its job.
    """

    def __init__(self, core: Core, request: ReceiveRequest, context: CallContext) -> None:
        self._core = core
        self._request = request
        self._context = context
        self._started = core.clock.monotonic()
        self.waiter: Waiter = Waiter(
            request.request_id,
            self._started + request.timeout,
            core.commits.requeue,
            lambda: core.tidy(self._leave),
        )
        #: The lock that this receive took, if it did, and the lock in which it waits.
        self._taken: SessionLock | None = None
        self._waits_in: SessionLock | None = None
        self._has_slot = False

    def submit(self) -> Future[Delivery]:
        return self._core.submit(self.attempt, self._context, waiter=self.waiter)

    def attempt(self, tx: Transaction) -> Delivery | Unfinished:
        """Receive if there are messages or the time is over; else wait."""
        core, waiter, request = self._core, self.waiter, self._request
        job = waiter.job
        if job is None or job.future.withdrawn:
            self._leave(tx)
            return Unfinished.WAITING
        queue = core.queue(request.entity)
        if waiter.superseded:
            self._leave(tx)
            raise SupersededError()
        if core.due.continue_dead_lettering(tx, queue, request.session_id):
            return Unfinished.CONTINUE
        before = core.current_lock(tx, (queue.id, request.session_id))
        lock = lock_for(core, tx, queue, request.session_id, request.lock_id, holds=request.holds_lock)
        # The client can be another one than before: a lock handle passes the session on.
        lock.client = request.client or lock.client
        if lock is not before:
            tx.on_rollback(lambda: setattr(self, "_taken", None))
            self._taken = lock
        self._remove(tx, lock)
        # A repeated request returns its former messages only. It must not wait for later ones if all are settled.
        is_known = waiter.request_id in lock.answers or waiter.request_id in lock.empty
        is_last = is_known or not core.may_wait(waiter)
        messages = deliver(core, tx, queue, lock, request, self._context)
        if isinstance(messages, Unfinished):
            self._add(tx, lock)
            return messages
        if not messages and not is_last:
            self._wait(tx, job, lock)
            return Unfinished.WAITING
        if not job.claim(tx):
            # The caller went away while this attempt ran. The rollback gives the messages back.
            raise WithdrawnError
        if not is_known and not messages:
            lock.remember_empty(waiter.request_id)
        core.extend_lock(queue, lock)
        now = core.clock.monotonic()
        return Delivery(request.session_id, messages, lock.expires - now, now - self._started)

    def _wait(self, tx: Transaction, job: Job[Delivery], lock: SessionLock) -> None:
        if not self._has_slot and self._context.slots is not None:
            try:
                self._context.slots.acquire(job.future)
                self._has_slot = True
            except QueueError:
                self._undo_take(tx, lock)
                raise
        self._add(tx, lock)
        self._core.due.wait(tx, self.waiter)

    def _undo_take(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo that this receive took the lock, if its caller does not know that it has the lock, and nothing uses it."""
        is_current = self._core.locks.get(lock.key) is lock
        if lock is self._taken and is_current and not (lock.confirmed or lock.waiters or lock.tokens):
            self._core.undo_take_lock(tx, lock)

    def _add(self, tx: Transaction, lock: SessionLock) -> None:
        tx.on_rollback(lambda: _discard(lock.waiters, self.waiter))
        self._waits_in = lock
        lock.waiters.append(self.waiter)

    def _remove(self, tx: Transaction, lock: SessionLock) -> None:
        if self.waiter in lock.waiters:
            # The heap of expiries may have no entry for a lock with a waiting receive.
            tx.on_rollback(lambda: self._core.locks.extend(lock, lock.expires))
            lock.waiters.remove(self.waiter)
            self._core.locks.extend(lock, lock.expires)

    def _leave(self, tx: Transaction) -> None:
        """Stop waiting, without a result."""
        if self._waits_in is not None:
            self._remove(tx, self._waits_in)
            self._undo_take(tx, self._waits_in)


class _SettleAndReceive:
    """Settlements and the receive that follows them.

    The caller cannot withdraw it, as it cannot withdraw settlements.
    """

    def __init__(self, core: Core, settlements: Sequence[Settlement], request: ReceiveRequest, context: CallContext) -> None:
        self._core = core
        self._context = context
        self._settle = SettleCall(core, request.entity, request.session_id, settlements)
        self._receive = ReceiveCall(core, attrs.evolve(request, timeout=0.0) if request.timeout else request, context)

    def submit(self) -> Future[Settled]:
        return self._core.submit(self._attempt, self._context, durable=self._settle.is_durable, waiter=self._receive.waiter)

    def _attempt(self, tx: Transaction) -> Settled | Unfinished:
        job = self._receive.waiter.job
        if job is None or not job.claim(tx):
            return Unfinished.WAITING
        if not self._settle.is_finished and self._settle.step(tx) is Unfinished.CONTINUE:
            return Unfinished.CONTINUE
        codes = self._settle.codes
        if any(code is not None for code in codes):
            return Settled(codes, None)
        try:
            delivery = self._receive.attempt(tx)
        except RECEIVE_REFUSED:
            return Settled(codes, None)
        return delivery if isinstance(delivery, Unfinished) else Settled(codes, delivery)


def _discard(waiters: list[Waiter], waiter: Waiter) -> None:
    if waiter in waiters:
        waiters.remove(waiter)
