"""Accepts: take the lock of a session, or of the next free one, and deliver its first messages. `Receiving` uses it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing

from ...messages import ReceivedMessage
from ..calls import AcceptRequest, CallContext, Delivery
from .core import MAX_ACCEPTS, Core
from .deliveries import deliver, lock_for
from .jobs import Transaction, Unfinished, WithdrawnError
from .queue_state import Queue
from .session_locks import SessionLock, Waiter


class AcceptCall:
    """One accept, from its first attempt to its result.

    Args:
        core: The broker's state.
        request: The accept.
        context: How the operation is called.
    """

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
        lock, is_repeated = self._take(tx, queue)
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
        messages = self._messages(tx, queue, lock, is_repeated=is_repeated)
        if messages is None:
            # The messages of the session have just expired, or were just dead-lettered. Look for another session.
            waiter.woken = was_woken
            core.undo_take_lock(tx, lock)
            return Unfinished.CONTINUE
        if not job.claim(tx):
            # The caller went away while this attempt ran. The rollback unlocks the session again.
            raise WithdrawnError
        core.extend_lock(queue, lock)
        lock.client = request.client or lock.client
        now = core.clock.monotonic()
        return Delivery(lock.key[1], messages, lock.expires - now, now - self._started)

    def _leave(self, tx: Transaction) -> None:
        """Stop waiting, without a result."""
        queue = self._core.queues.get(self._request.entity)
        if queue is not None:
            queue.acceptors.leave(self._waiter)
            if self._waiter.woken:
                tx.after_commit(queue.acceptors.wake_next)

    def _take(self, tx: Transaction, queue: Queue) -> tuple[SessionLock | None, bool]:
        """Take a lock. The second result is whether a former attempt of the request has taken it already."""
        core, request = self._core, self._request
        known = queue.accepts.get(request.request_id) if request.request_id else None
        if known is not None and known[1] == request.lock_id:
            lock = core.current_lock(tx, known[0])
            if lock is not None and lock.holder == request.lock_id:
                lock.count_accepts(tx, 1)
                return lock, True
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
        return lock, False

    def _messages(
        self, tx: Transaction, queue: Queue, lock: SessionLock, *, is_repeated: bool
    ) -> Sequence[ReceivedMessage] | None:
        """Return the messages that the request asks for; `None` if this session must not be returned."""
        request, session_id = self._request, lock.key[1]
        if request.max_count is None or (is_repeated and request.request_id not in lock.answers):
            return []
        # Nobody may see a session that is dead-lettered in part.
        if not self._core.due.continue_dead_lettering(tx, queue, session_id):
            wanted = request.receive_from(session_id, request.max_count)
            messages = deliver(self._core, tx, queue, lock, wanted, self._context)
            if messages and not isinstance(messages, Unfinished):
                return messages
        return [] if is_repeated or request.session_id is not None else None

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
