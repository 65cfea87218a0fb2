"""Receive and accept: take a session lock, deliver messages, and wait for messages or for a session.

`EmbeddedBroker` forwards its methods to `Receiving`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import TypeVar

from ...errors import ProviderError, ThrottledError
from ...messages import ReceivedMessage
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ..base import AcceptRequest, Caller, Delivery, ReceiveRequest, superseded_error
from .core import MAX_ACCEPTS, MAX_DELIVERY_EXCEEDED, Core, Queue, lost_error
from .database_file import ACTIVE, DEFERRED
from .group_commit import Transaction
from .session_locks import SessionLock, Waiter
from .store import Row, find_key

T = TypeVar("T")


class Receiving:
    """Delivers messages and sessions."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def receive(self, request: ReceiveRequest, caller: Caller) -> Delivery:
        """Take the lock and messages, waiting for the first."""
        started = self._core.clock.monotonic()
        session_id, request_id = request.session_id, request.request_id
        waiter = Waiter(request_id)
        taken: SessionLock | None = None

        def attempt(tx: Transaction, last: bool) -> Delivery | None:
            nonlocal taken
            queue = self._core.queue(tx, request.entity)
            if waiter.superseded:
                raise superseded_error()
            gone = caller.is_gone()
            if gone and not waiter.has_waited:
                # The client may have repeated the request. An attempt of a client that is gone must not take the lock.
                return Delivery(session_id, [], 0.0, 0.0)
            held = self._core.locks.get((queue.id, session_id))
            lock = self._lock_for(tx, queue, session_id, request.lock_id, holds=request.holds_lock)
            if lock is not held:
                taken = lock
            was_waiting = waiter in lock.waiters
            if was_waiting:
                lock.waiters.remove(waiter)
                # The heap of expiries may have no entry for a lock with a waiting receive.
                tx.on_rollback(lambda: self._core.locks.extend(lock, lock.expires))
            messages: Sequence[ReceivedMessage] = []
            # A repeated request returns its former messages only. It must not wait for later ones if all are settled.
            last = last or gone or request_id in lock.answers
            if not gone:
                messages = self._receive_now(tx, queue, lock, request.max_count, request_id)
            if not messages and not last:
                waiter.has_waited = True
                lock.waiters.append(waiter)
                tx.on_rollback(lambda: _remove(lock.waiters, waiter))
                return None
            self._core.extend_lock(queue, lock)
            left = lock.expires - self._core.clock.monotonic()
            return Delivery(session_id, messages, left, self._core.clock.monotonic() - started)

        def leave(tx: Transaction, refused: bool) -> None:
            for lock in self._core.locks:
                if waiter in lock.waiters:
                    lock.waiters.remove(waiter)
                    if refused and lock is taken and not (lock.waiters or lock.tokens):
                        # The caller gets an error and does not know that it has the lock.
                        self._core.undo_take_lock(tx, lock)
                    else:
                        self._core.locks.extend(lock, lock.expires)

        return self._wait_for(attempt, leave, waiter, started + request.timeout, caller)

    def accept(self, request: AcceptRequest, caller: Caller) -> Delivery | None:
        """Take the lock of a session, or of the next available one."""
        started = self._core.clock.monotonic()
        entity, request_id = request.entity, request.request_id
        waiter = Waiter(request_id)

        def attempt(tx: Transaction, last: bool) -> tuple[Delivery | None] | None:
            queue = self._core.queue(tx, entity)
            was_woken, waiter.woken = waiter.woken, False
            queue.acceptors.leave(waiter)
            if was_woken:
                tx.on_rollback(queue.acceptors.wake_next)
            if waiter.superseded or caller.is_gone():
                if was_woken:
                    tx.after_commit(queue.acceptors.wake_next)
                return (None,)
            for other in queue.acceptors:
                if request_id and other.request_id == request_id:
                    # The caller has repeated the request. Its former attempt must not consume the notification of a session.
                    other.superseded = True
                    other.wake()
            lock = self._accept_now(tx, queue, request.session_id, request.lock_id, request_id)
            if lock is None:
                if last:
                    return (None,)
                waiter.has_waited = True
                queue.acceptors.add(waiter)
                tx.on_rollback(lambda: queue.acceptors.leave(waiter))
                return None
            self._core.extend_lock(queue, lock)
            now = self._core.clock.monotonic()
            return (Delivery(lock.key[1], [], lock.expires - now, now - started),)

        def leave(tx: Transaction, refused: bool) -> None:
            queue = self._core.queues.get(entity)
            if queue is not None:
                queue.acceptors.leave(waiter)
                if waiter.woken:
                    tx.after_commit(queue.acceptors.wake_next)

        return self._wait_for(attempt, leave, waiter, started + request.timeout, caller)[0]

    def _wait_for(
        self,
        attempt: Callable[[Transaction, bool], T | None],
        leave: Callable[[Transaction, bool], None],
        waiter: Waiter,
        deadline: float,
        caller: Caller,
    ) -> T:
        """Call `attempt` in transactions until it returns a result, and wait to be woken in between.

        The last attempt, at the deadline, always returns a result.
        """
        watching = False
        with ExitStack() as stack:
            try:
                while True:
                    last = self._core.stopping or self._core.clock.monotonic() >= deadline
                    result = self._core.perform(lambda tx, last=last: attempt(tx, last))  # type: ignore[misc]
                    if result is not None:
                        return result
                    if not watching:
                        watching = True
                        stack.enter_context(caller.watched(waiter.wake))
                    waiter.wait(max(0.0, deadline - self._core.clock.monotonic()))
            except BaseException as error:
                if waiter.has_waited:
                    # The waiter must not stay registered after an error or an interrupt.
                    refused = isinstance(error, ThrottledError)
                    self._core.run_in_memory(lambda tx: leave(tx, refused))
                raise

    def _lock_for(self, tx: Transaction, queue: Queue, session_id: str, lock_id: str, *, holds: bool = False) -> SessionLock:
        """Return the holder's lock. Take the lock if the session is free, unless the holder lost it."""
        key = (queue.id, session_id)
        lock = self._core.locks.get(key)
        if lock is not None and lock.holder == lock_id:
            return lock
        if self._core.locks.has_ended(key, lock_id):
            raise lost_error()
        if lock is not None:
            raise self._core.locked_error(lock)
        if holds and lock_id:
            raise lost_error()
        return self._core.take_lock(tx, queue, session_id, lock_id)

    def _receive_now(
        self, tx: Transaction, queue: Queue, lock: SessionLock, max_count: int, request_id: str
    ) -> Sequence[ReceivedMessage]:
        lock.save_for_rollback(tx)
        if request_id:
            if request_id in lock.answers:
                return self._answer_again(lock, lock.answers[request_id])
            for other in lock.waiters:
                if other.request_id == request_id:
                    # The caller has repeated the request. Nobody reads the answer of its former attempt.
                    other.superseded = True
                    other.wake()
        rows = self._take(queue, lock, max_count)
        if not rows:
            return []
        before = set(lock.tokens)
        expires_at = datetime.fromtimestamp(self._core.clock.now() + queue.settings.lock_duration, timezone.utc)
        messages = [self._core.hand_out(lock, row, deferred=False, expires_at=expires_at) for row in rows]
        self._core.store.set_delivery_counts([(row.key, row.count + 1) for row in rows])
        lock.remember(request_id, tuple(token for token in lock.tokens if token not in before))
        return messages

    def _answer_again(self, lock: SessionLock, tokens: Sequence[str]) -> list[ReceivedMessage]:
        """Return the messages of a former receive that are not settled, with the same lock tokens."""
        messages = []
        for token in tokens:
            in_hand = lock.tokens.get(token)
            row = None if in_hand is None else self._core.store.message(in_hand.key)
            if in_hand is not None and row is not None:
                messages.append(self._core.received(lock, row, token, in_hand, self._core.lock_expiry(lock)))
        return messages

    def _take(self, queue: Queue, lock: SessionLock, max_count: int) -> list[Row]:
        """Return up to `max_count` messages to deliver. Remove expired messages and those beyond their delivery limit."""
        store, found = self._core.store, self._core.store.session(*lock.key)
        if found is None:
            return []
        session, now = found[0], self._core.clock.now()
        taken: list[Row] = []
        expired: list[int] = []
        poisonous: list[int] = []
        while len(taken) < max_count:
            wanted = max_count - len(taken)
            if lock.returned:
                keys, lock.returned = lock.returned[:wanted], lock.returned[wanted:]
                rows = [row for row in map(store.message, keys) if row is not None and row.status == ACTIVE]
            else:
                rows = store.active_after(session, lock.cursor, wanted)
                if not rows:
                    break
                lock.cursor = rows[-1].key
            for row in rows:
                if row.expires is not None and row.expires <= now:
                    expired.append(row.key)
                elif row.count >= queue.settings.max_delivery_count:
                    poisonous.append(row.key)
                else:
                    taken.append(row)
        if expired or poisonous:
            self._core.remove_expired(expired)
            why = f"The message was delivered {queue.settings.max_delivery_count} times."
            store.dead_letter([(MAX_DELIVERY_EXCEEDED, why, key) for key in poisonous])
            store.update_session(session)
        return taken

    def _accept_now(
        self, tx: Transaction, queue: Queue, session_id: str | None, lock_id: str, request_id: str
    ) -> SessionLock | None:
        known = queue.accepts.get(request_id) if request_id else None
        if known is not None and self._core.locks.get(known.key) is known and known.holder == lock_id:
            return known
        if session_id is not None:
            lock: SessionLock | None = self._lock_for(tx, queue, session_id, lock_id)
        else:
            name = self._next_session(queue, lock_id)
            lock = None if name is None else self._core.take_lock(tx, queue, name, lock_id)
        if lock is not None and request_id:
            self._remember_accept(queue, request_id, lock)
        return lock

    def _remember_accept(self, queue: Queue, request_id: str, lock: SessionLock) -> None:
        queue.accepts[request_id] = lock
        if len(queue.accepts) >= queue.clear_out_at:
            for known, given in list(queue.accepts.items()):
                if self._core.locks.get(given.key) is not given:
                    del queue.accepts[known]
            queue.clear_out_at = 2 * len(queue.accepts) + 64
        while len(queue.accepts) > MAX_ACCEPTS:
            queue.accepts.popitem(last=False)

    def _next_session(self, queue: Queue, lock_id: str) -> str | None:
        """Return the free session with the oldest first message."""
        locks = self._core.locks
        ready = self._core.store.ready_sessions(queue.id)
        try:
            for name in ready:
                key = (queue.id, name)
                if locks.get(key) is None and not locks.has_ended(key, lock_id):
                    return name
            return None
        finally:
            ready.close()

    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int]
    ) -> list[ReceivedMessage]:
        """Deliver deferred messages, all or none. A message that the holder already has keeps its lock token."""

        def job(tx: Transaction) -> list[ReceivedMessage]:
            queue = self._core.queue(tx, entity)
            lock = self._core.held_lock(queue, session_id, lock_id)
            if lock is None:
                lock = self._core.take_lock(tx, queue, session_id, lock_id)
            in_hand = {message.key: token for token, message in lock.tokens.items()}
            rows = []
            for number in dict.fromkeys(sequence_numbers):
                key = find_key(queue.id, number)
                row = self._core.store.message(key)
                home = self._core.store.session_of(key)
                if row is None or row.status != DEFERRED or home is None or home[1] != session_id:
                    raise ProviderError(f"the session has no deferred message {number}", code=MESSAGE_NOT_FOUND, status=404)
                rows.append(row)
            lock.save_for_rollback(tx)
            self._core.store.set_delivery_counts([(row.key, row.count + 1) for row in rows if row.key not in in_hand])
            expires_at = self._core.lock_expiry(lock)
            return [
                self._core.received(lock, row, in_hand[row.key], lock.tokens[in_hand[row.key]], expires_at)
                if row.key in in_hand
                else self._core.hand_out(lock, row, deferred=True, expires_at=expires_at)
                for row in rows
            ]

        return self._core.perform(job)


def _remove(waiters: list[Waiter], waiter: Waiter) -> None:
    if waiter in waiters:
        waiters.remove(waiter)
