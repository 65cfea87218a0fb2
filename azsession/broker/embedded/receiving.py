"""Receive and accept: take a session lock, deliver messages, and wait for messages or for a session.

`EmbeddedBroker` forwards its methods to `Receiving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import TypeVar

from ...errors import ProviderError, QueueError
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..calls import AcceptRequest, CallContext, Delivery, ReceiveRequest, superseded_error
from .core import MAX_ACCEPTS, Core, lost_error
from .database_file import DEFERRED
from .jobs import Job, Transaction, Unfinished, WithdrawnError
from .message_keys import find_key
from .next_messages import take_rows
from .queue_state import Queue
from .rows import to_datetime
from .session_locks import SessionLock, Waiter
from .store import STEP_BYTES
from .stored_message import Row

T = TypeVar("T")


class Receiving:
    """Delivers messages and sessions."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def receive(self, request: ReceiveRequest, context: CallContext) -> Future[Delivery]:
        """Take the lock and messages. Wait for the first message; see `Broker.receive`."""
        call = _Receive(self._core, request, context)
        return call.submit()

    def accept(self, request: AcceptRequest, context: CallContext) -> Future[Delivery | None]:
        """Take the lock of a session, or of the next free one; see `Broker.accept`."""
        call = _Accept(self._core, request, context)
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


class _Receive:
    """One receive, from its first attempt to its result."""

    def __init__(self, core: Core, request: ReceiveRequest, context: CallContext) -> None:
        self._core = core
        self._request = request
        self._context = context
        self._started = core.clock.monotonic()
        self._waiter = Waiter(
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
        return self._core.submit(self._attempt, self._context, waiter=self._waiter)

    def _attempt(self, tx: Transaction) -> Delivery | Unfinished:
        core, waiter, request = self._core, self._waiter, self._request
        job = waiter.job
        if job is None or job.future.withdrawn:
            self._leave(tx)
            return Unfinished.WAITING
        queue = core.queue(request.entity)
        if waiter.superseded:
            raise superseded_error()
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
        messages = self._take(tx, queue, lock)
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
        self._core.due.wait(tx, self._waiter)

    def _undo_take(self, tx: Transaction, lock: SessionLock) -> None:
        """Undo that this receive took the lock, if its caller does not know that it has the lock, and nothing uses it."""
        is_current = self._core.locks.get(lock.key) is lock
        if lock is self._taken and is_current and not (lock.confirmed or lock.waiters or lock.tokens):
            self._core.undo_take_lock(tx, lock)

    def _add(self, tx: Transaction, lock: SessionLock) -> None:
        tx.on_rollback(lambda: _discard(lock.waiters, self._waiter))
        self._waits_in = lock
        lock.waiters.append(self._waiter)

    def _remove(self, tx: Transaction, lock: SessionLock) -> None:
        if self._waiter in lock.waiters:
            # The heap of expiries may have no entry for a lock with a waiting receive.
            tx.on_rollback(lambda: self._core.locks.extend(lock, lock.expires))
            lock.waiters.remove(self._waiter)
            self._core.locks.extend(lock, lock.expires)

    def _leave(self, tx: Transaction) -> None:
        """Stop waiting, without a result."""
        if self._waits_in is not None:
            self._remove(tx, self._waits_in)
            self._undo_take(tx, self._waits_in)

    def _take(self, tx: Transaction, queue: Queue, lock: SessionLock) -> Sequence[ReceivedMessage] | Unfinished:
        """Deliver messages to the lock's holder, as many as the request asks for."""
        core, request_id = self._core, self._waiter.request_id
        lock.save_for_rollback(tx)
        if request_id:
            if request_id in lock.answers:
                return self._repeat(tx, lock, lock.answers[request_id])
            if request_id in lock.empty:
                return []
            for other in lock.waiters:
                if other.request_id == request_id:
                    # The caller has repeated the request. Nobody reads the answer of its former attempt.
                    other.superseded = True
                    other.wake()
        rows, is_complete = take_rows(core, tx, queue, lock, self._request.max_count)
        if not rows:
            return [] if is_complete else Unfinished.CONTINUE
        expires_at = to_datetime(core.clock.now() + queue.settings.lock_duration)
        messages = core.hand_out(lock, rows, expires_at, context=self._context, taken=self._request.taken)
        lock.remember(request_id, tuple(one.receipt.handle for one in messages))
        return messages

    def _repeat(self, tx: Transaction, lock: SessionLock, tokens: Sequence[str]) -> list[ReceivedMessage]:
        """Return the messages of a former receive that are not settled, with the same lock tokens."""
        messages: list[ReceivedMessage] = []
        for token in tokens:
            message = lock.tokens.get(token)
            row = None if message is None else self._core.store.message(message.key)
            if message is not None and row is not None:
                message.count_answers(tx, 1)
                if message.ahead and (self._request.taken is None or len(messages) < self._request.taken):
                    message.take(tx)
                    self._core.store.set_delivery_counts([(message.key, message.count)])
                expires_at = self._core.lock_expiry(lock)
                messages.append(self._core.received(lock, row, token, message, expires_at, self._context))
        return messages


class _Accept:
    """One accept, from its first attempt to its result."""

    def __init__(self, core: Core, request: AcceptRequest, context: CallContext) -> None:
        self._core = core
        self._request = request
        self._context = context
        self._started = core.clock.monotonic()
        self._waiter = Waiter(
            request.request_id,
            self._started + request.timeout,
            core.commits.requeue,
            lambda: core.tidy(self._leave),
        )
        self._has_slot = False

    def submit(self) -> Future[Delivery | None]:
        return self._core.submit(self._attempt, self._context, waiter=self._waiter)

    def _attempt(self, tx: Transaction) -> Delivery | Unfinished | None:
        core, waiter, request = self._core, self._waiter, self._request
        job = waiter.job
        queue = core.queue(request.entity)
        was_woken = waiter.woken
        if was_woken:
            tx.on_rollback(queue.acceptors.wake_next)
        queue.acceptors.leave(waiter)
        waiter.woken = False
        if waiter.superseded or job is None or job.future.withdrawn:
            if was_woken:
                tx.after_commit(queue.acceptors.wake_next)
            return None
        for other in queue.acceptors:
            if request.request_id and other.request_id == request.request_id:
                # The caller has repeated the request. Its former attempt must not consume the notification of a session.
                other.superseded = True
                other.wake()
        lock = self._take(tx, queue)
        if lock is None:
            if not core.may_wait(waiter):
                return None
            if not self._has_slot and self._context.slots is not None:
                self._context.slots.acquire(job.future)
                self._has_slot = True
            tx.on_rollback(lambda: queue.acceptors.leave(waiter))
            queue.acceptors.add(waiter)
            core.due.wait(tx, waiter)
            return Unfinished.WAITING
        if not job.claim(tx):
            # The caller went away while this attempt ran. The rollback unlocks the session again.
            raise WithdrawnError
        core.extend_lock(queue, lock)
        lock.client = request.client or lock.client
        now = core.clock.monotonic()
        return Delivery(lock.key[1], [], lock.expires - now, now - self._started)

    def _leave(self, tx: Transaction) -> None:
        """Stop waiting, without a result."""
        queue = self._core.queues.get(self._request.entity)
        if queue is not None:
            queue.acceptors.leave(self._waiter)
            if self._waiter.woken:
                tx.after_commit(queue.acceptors.wake_next)

    def _take(self, tx: Transaction, queue: Queue) -> SessionLock | None:
        core, request = self._core, self._request
        known = queue.accepts.get(request.request_id) if request.request_id else None
        if known is not None and known[1] == request.lock_id:
            lock = core.current_lock(tx, known[0])
            if lock is not None and lock.holder == request.lock_id:
                lock.count_accepts(tx, 1)
                return lock
        before = None
        if request.session_id is not None:
            before = core.locks.get((queue.id, request.session_id))
            lock = lock_for(core, tx, queue, request.session_id, request.lock_id)
        else:
            name = self._next_session(queue)
            lock = None if name is None else core.take_lock(tx, queue, name, request.lock_id)
        if lock is not None and lock is not before:
            lock.accepts = 1
        if lock is not None and request.request_id:
            self._remember(queue, lock)
        return lock

    def _remember(self, queue: Queue, lock: SessionLock) -> None:
        queue.accepts[self._request.request_id] = (lock.key, lock.holder)
        if len(queue.accepts) >= queue.clear_out_at:
            for known, (key, holder) in list(queue.accepts.items()):
                held = self._core.locks.get(key)
                if held is None or held.holder != holder:
                    del queue.accepts[known]
            queue.clear_out_at = 2 * len(queue.accepts) + 64
        while len(queue.accepts) > MAX_ACCEPTS:
            queue.accepts.popitem(last=False)

    def _next_session(self, queue: Queue) -> str | None:
        """Return the free session with the oldest first message."""
        with closing(self._core.store.free_sessions(queue.id)) as names:
            return next(
                filter(lambda name: not self._core.locks.has_ended((queue.id, name), self._request.lock_id), names), None
            )


def lock_for(core: Core, tx: Transaction, queue: Queue, session_id: str, lock_id: str, *, holds: bool = False) -> SessionLock:
    """Return the holder's lock. Take the lock if the session is free, unless the holder lost it."""
    key = (queue.id, session_id)
    lock = core.current_lock(tx, key)
    if lock is not None and lock.holder == lock_id:
        return lock
    if core.locks.has_ended(key, lock_id):
        raise lost_error()
    if lock is not None:
        raise core.locked_error(lock)
    if holds and lock_id:
        raise lost_error()
    return core.take_lock(tx, queue, session_id, lock_id)


def _discard(waiters: list[Waiter], waiter: Waiter) -> None:
    if waiter in waiters:
        waiters.remove(waiter)
