"""Takes a lock and delivers messages to its holder, once for each request id. Receives and accepts use it in their jobs."""

from __future__ import annotations

from collections.abc import Sequence

from ...messages import ReceivedMessage
from ..calls import CallContext, ReceiveRequest
from .core import Core, lost_error
from .jobs import Transaction, Unfinished
from .next_messages import take_rows
from .queue_state import Queue
from .rows import to_datetime
from .session_locks import SessionLock


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


def deliver(
    core: Core, tx: Transaction, queue: Queue, lock: SessionLock, request: ReceiveRequest, context: CallContext
) -> Sequence[ReceivedMessage] | Unfinished:
    """Deliver messages to the lock's holder, as many as the request asks for. A repeated request gets the same again."""
    request_id = request.request_id
    lock.save_for_rollback(tx)
    if request_id:
        if request_id in lock.answers:
            return _repeat(core, tx, lock, request, context)
        if request_id in lock.empty:
            return []
        for other in lock.waiters:
            if other.request_id == request_id:
                # The caller has repeated the request. Nobody reads the answer of its former attempt.
                other.superseded = True
                other.wake()
    rows, is_complete = take_rows(core, tx, queue, lock, request.max_count)
    if not rows:
        return [] if is_complete else Unfinished.CONTINUE
    expires_at = to_datetime(core.clock.now() + queue.settings.lock_duration)
    messages = core.hand_out(lock, rows, expires_at, context=context, taken=request.taken)
    lock.remember(request_id, tuple(one.receipt.handle for one in messages))
    return messages


def _repeat(
    core: Core, tx: Transaction, lock: SessionLock, request: ReceiveRequest, context: CallContext
) -> list[ReceivedMessage]:
    """Return the messages of a former attempt that are not settled, with the same lock tokens."""
    messages: list[ReceivedMessage] = []
    for token in lock.answers[request.request_id]:
        message = lock.tokens.get(token)
        row = None if message is None else core.store.message(message.key)
        if message is not None and row is not None:
            message.count_answers(tx, 1)
            if message.ahead and (request.taken is None or len(messages) < request.taken):
                message.take(tx)
                core.store.set_delivery_counts([(message.key, message.count)])
            messages.append(core.received(lock, row, token, message, core.lock_expiry(lock), context))
    return messages
