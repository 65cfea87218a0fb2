"""The embedded broker's work that becomes due with time, and its work in the background.

`Core` has one `DueWork`. Jobs call it, and the broker's thread runs it when something is due:

* session locks that expire, delays of sessions that end, and waits whose timeouts pass,
* scheduled messages that become active, and messages that expire,
* sessions that are dead-lettered, and queues that are deleted: they are large, and are processed in steps,
* shrinking a mostly unused data file.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from ..calls import Disposition
from ..clock import Clock
from ..dead_letter_reasons import TTL_EXPIRED, counted_as
from .broker_thread import BrokerThread
from .delays import Delays
from .event_log import EventLog
from .jobs import Transaction
from .message_keys import SEQUENCE_BITS
from .queue_state import Queue
from .remembered import Remembered
from .session_locks import SessionKey, SessionLock, SessionLocks, Waiter
from .store import STEP_ROWS, Store, within_step

T = TypeVar("T")

#: Locks that one step ends.
STEP_LOCKS = 100
#: Seconds from a write to the check whether the file is mostly unused, and seconds between two steps of shrinking it.
RELEASE_AFTER = 60.0
RELEASE_PAUSE = 0.1
#: The longest wait in seconds for a time of the wall clock, which may be set in the meantime.
WALL_CLOCK_CHECK = 1.0


class State(Protocol):
    """The state that the work is about. `Core` has it."""

    clock: Clock
    store: Store
    locks: SessionLocks
    queues: dict[str, Queue]
    thread: BrokerThread
    remembered: Remembered
    delays: Delays
    events: EventLog

    def end_lock(self, tx: Transaction, lock: SessionLock) -> None:
        """End a lock."""

    def end_delay(self, tx: Transaction, key: SessionKey) -> None:
        """End the delay of a session."""

    def notify_waiters(self, tx: Transaction, key: SessionKey) -> None:
        """Wake the operations that wait for a session."""


class DueWork:
    """The work that is due, or in progress. Only jobs may use it.

    Args:
        state: The broker's state.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._clock = state.clock
        self._store = state.store
        self._thread = state.thread
        #: The waits that end at a time, as a heap of that time and the waiter.
        self._deadlines: list[tuple[float, int, Waiter]] = []
        #: The length of the heap at which the waits that ended earlier are removed.
        self._clear_out_at = 64
        self._tie = itertools.count()
        self._deleted_queues = self._store.deleted_queues()
        self._dead_letterings = self._store.dead_letterings()
        #: The keys and lock tokens that are still to be remembered as dead-lettered.
        self._unsettled: dict[tuple[int, int], list[tuple[int, str]]] = {}
        self._next_due = self._store.next_due()
        self._next_expiry = self._store.next_expiry(0.0)
        self._release_at: float | None = None
        #: How many messages were dead-lettered, by the reasons that are counted.
        self.dead_letter_counts: Counter[str] = Counter()

    def wait(self, tx: Transaction, waiter: Waiter) -> None:
        """Note a waiter's deadline, so that it tries again then."""
        if not waiter.waits:
            tx.on_rollback(lambda: setattr(waiter, "waits", False))
            waiter.waits = True
            if len(self._deadlines) >= self._clear_out_at:
                self._deadlines = [entry for entry in self._deadlines if not entry[2].is_done]
                heapq.heapify(self._deadlines)
                self._clear_out_at = 2 * len(self._deadlines) + 64
            heapq.heappush(self._deadlines, (waiter.deadline, next(self._tie), waiter))
            self._thread.act_at(waiter.deadline)

    def wake_late(self) -> None:
        """Let the waiters try again whose deadlines have passed."""
        now = self._clock.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            heapq.heappop(self._deadlines)[2].wake()

    def _next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][2].is_done:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def next_event(self) -> float | None:
        """Return when there is work again, on the monotonic clock."""
        now, wall = self._clock.monotonic(), self._clock.now()
        if self._deleted_queues or self._dead_letterings:
            return now
        # The wall clock may be set at any time, so a wait for one of its times lasts at most a second.
        walls = [min(now + at - wall, now + WALL_CLOCK_CHECK) for at in (self._next_due, self._next_expiry) if at is not None]
        ends = (self._state.locks.next_expiry(), self._state.delays.next_end(), self._next_deadline(), self._release_at)
        others = [at for at in ends if at is not None]
        return min(walls + others, default=None)

    def do_step(self, tx: Transaction) -> None:
        """Do one step of the work in the background."""
        if self._dead_letterings:
            self.dead_letter_part(tx, self._dead_letterings[0])
        elif self._deleted_queues:
            queue = self._deleted_queues[0]
            if self._store.delete_part(queue):
                self._change(tx, self._deleted_queues, remove=queue)
        elif self._release_at is not None and self._release_at <= self._clock.monotonic():
            self._release_pages(tx)

    def _release_pages(self, tx: Transaction) -> None:
        """Shrink a mostly unused file in small steps, so that other operations do not wait."""
        self._release_at = None
        if self._store.release_pages():
            self._release_at = self._clock.monotonic() + RELEASE_PAUSE
            # The file becomes shorter only with the checkpoint.
            tx.after_commit(self._store.checkpoint)

    def note_write(self) -> None:
        """Note that messages may have been deleted, after which the file may be mostly unused."""
        if self._release_at is None:
            self._release_at = self._clock.monotonic() + RELEASE_AFTER
            self._thread.act_at(self._release_at)

    def do_due_work(self, tx: Transaction) -> None:
        """End expired locks and delays, and do a part of the work on due and expired messages."""
        state, limit = self._state, self.expiry_limit(tx)
        if state.locks.may_have_expired(limit):
            for lock in itertools.islice(state.locks.expired(tx, limit), STEP_LOCKS):
                state.end_lock(tx, lock)
                state.events.lock_expired(tx, self._queue_name(lock.key[0]), lock)
        for key in state.delays.over(STEP_LOCKS) if state.delays else ():
            state.end_delay(tx, key)
        now = self._clock.now()
        # One step for each transaction, however many jobs share it.
        if self._is_past(self._next_due, now) or self._is_past(self._next_expiry, now):
            if not tx.first_touch(self):
                return
            if self._is_past(self._next_due, now):
                self._activate(tx, now)
            if self._is_past(self._next_expiry, now):
                self._expire(tx, now)

    @staticmethod
    def _is_past(at: float | None, now: float) -> bool:
        return at is not None and at <= now

    def expiry_limit(self, tx: Transaction) -> float:
        """Return the time up to which locks have expired, for the running job.

        An operation that arrived before a lock's expiry is in time, however long it was queued.
        """
        return min(tx.arrived, self._clock.monotonic())

    def schedule(self, tx: Transaction, *, due: float | None = None, expires: float | None = None) -> None:
        """Note when a message becomes due or expires, so that the broker acts then."""
        before = self._next_due, self._next_expiry
        if due is not None and (before[0] is None or due < before[0]):
            self._next_due = due
        if expires is not None and (before[1] is None or expires < before[1]):
            self._next_expiry = expires
        if (self._next_due, self._next_expiry) != before:
            following = self.next_event()
            if following is not None:
                self._thread.act_at(following)

    def schedule_expiries(self, tx: Transaction) -> None:
        """Note that unsettled messages returned to the session. They may have expired in the meantime."""
        self.schedule(tx, expires=self._store.next_expiry(0.0))

    def _restore_times(self, tx: Transaction) -> None:
        before = self._next_due, self._next_expiry

        def restore() -> None:
            self._next_due, self._next_expiry = before

        tx.on_rollback(restore)

    def _activate(self, tx: Transaction, now: float) -> None:
        self._restore_times(tx)
        by_id = {queue.id: queue for queue in self._state.queues.values()}
        sessions: dict[int, SessionKey] = {}
        for key, session, name in self._store.due(now, STEP_ROWS):
            queue = by_id.get(key >> SEQUENCE_BITS)
            if queue is None:
                continue
            self._store.activate(key, queue.next_key(), now)
            self._store.set_next_sequence(queue.id, queue.next_sequence)
            sessions[session] = (queue.id, name)
        self._store.update_sessions(sessions)
        for session_key in sessions.values():
            self._state.notify_waiters(tx, session_key)
        self._next_due = self._store.next_due()
        self._next_expiry = self._store.next_expiry(0.0)

    def _expire(self, tx: Transaction, now: float) -> None:
        self._restore_times(tx)
        held = {message.key for lock in self._state.locks for message in lock.tokens.values()}
        # An unsettled message expires when it returns to the session.
        # Messages that expire with their sessions do so when they are received.
        lazy = [queue.id for queue in self._state.queues.values() if queue.settings.sessions_expire_together]
        found = ((key, session, size) for key, session, size in self._store.expired(now, lazy) if key not in held)
        rows = list(itertools.islice(found, STEP_ROWS + 1))
        part = within_step(rows[:STEP_ROWS], lambda row: row[2])
        self.remove_expired(tx, [key for key, _, _ in part])
        self._store.update_sessions({session for _, session, _ in part})
        self._next_expiry = now if len(part) < len(rows) else self._store.next_expiry(now)

    def remove_expired(self, tx: Transaction, keys: Iterable[int]) -> None:
        """Delete or dead-letter expired messages, as the settings of their queues say."""
        by_id = {queue.id: queue for queue in self._state.queues.values()}
        dead: list[int] = []
        dropped: list[int] = []
        for key in keys:
            queue = by_id.get(key >> SEQUENCE_BITS)
            (dead if queue is not None and queue.settings.dead_letter_on_expiration else dropped).append(key)
        self.dead_letter(tx, [(TTL_EXPIRED, "The message's time to live ended.", key) for key in dead])
        self._store.delete_messages(dropped)

    def dead_letter(self, tx: Transaction, rows: Sequence[tuple[str | None, str | None, int]]) -> None:
        """Dead-letter messages: the reason, the description and the key of each. The caller updates their sessions."""
        if not rows:
            return
        self._store.dead_letter(rows)
        self._state.events.dead_lettered(tx, self._queue_name, self._store.session_of, rows)
        tx.after_commit(lambda: self.dead_letter_counts.update(counted_as(reason) for reason, _, _ in rows))

    def _queue_name(self, number: int) -> str | None:
        return next((queue.name for queue in self._state.queues.values() if queue.id == number), None)

    # Work in steps

    @staticmethod
    def _change(tx: Transaction, entries: list[T], *, add: T | None = None, remove: T | None = None) -> None:
        """Add or remove an entry of a list. Undo it if the transaction fails."""
        before = list(entries)
        tx.on_rollback(lambda: entries.__setitem__(slice(None), before))
        if add is not None:
            entries.append(add)
        if remove is not None:
            entries.remove(remove)

    def begin_dead_lettering(
        self, tx: Transaction, entry: tuple[int, int], reason: str, description: str | None, unsettled: list[tuple[int, str]]
    ) -> int:
        """Dead-letter a session. Return the number of messages; the broker's thread moves them in steps.

        Args:
            tx: The transaction.
            entry: The queue's id and the session's row id.
            reason: Why; each dead letter keeps it.
            description: More about the reason.
            unsettled: The keys and lock tokens of unsettled messages, which are remembered as settled.
        """
        count = self._store.begin_dead_lettering(*entry, reason, description)
        if count:
            self._change(tx, self._dead_letterings, add=entry)
            self._unsettled[entry] = unsettled
            if not self.dead_letter_part(tx, entry):
                self._thread.act_at(self._clock.monotonic())
        return count

    def dead_letter_part(self, tx: Transaction, entry: tuple[int, int]) -> bool:
        """Move some messages of a dead-lettered session. Return whether all are moved."""
        if unsettled := self._unsettled.get(entry):
            tx.on_rollback(lambda: self._unsettled.update({entry: unsettled}))
            settled = [(key, token, Disposition.DEAD_LETTER.value) for key, token in unsettled[:STEP_ROWS]]
            self._state.remembered.remember_settled(settled, self._clock.steady())
            self._unsettled[entry] = unsettled[STEP_ROWS:]
            return False
        if not self._store.dead_letter_part(entry[1]):
            return False
        self._change(tx, self._dead_letterings, remove=entry)
        self._unsettled.pop(entry, None)
        return True

    def continue_dead_lettering(self, tx: Transaction, queue: Queue, session_id: str | None = None) -> bool:
        """Do a step if a session is being dead-lettered: this one, or any session of the queue.

        Returns:
            Whether the caller must wait, by running again. Nobody may see a session that is dead-lettered in part.
        """
        busy = [entry for entry in self._dead_letterings if entry[0] == queue.id]
        if busy and session_id is not None:
            found = self._store.session(queue.id, session_id)
            busy = [entry for entry in busy if found is not None and entry[1] == found[0]]
        if not busy:
            return False
        # One step for each transaction, however many jobs share it.
        return not (tx.first_touch(self._dead_letterings) and self.dead_letter_part(tx, busy[0]) and len(busy) == 1)

    def delete_queue(self, tx: Transaction, queue: Queue) -> None:
        """Remove a queue and its locks. The broker's thread deletes its messages in steps."""
        self._store.hide_queue(queue.id)
        self._change(tx, self._deleted_queues, add=queue.id)
        tx.on_rollback(lambda: self._state.queues.update({queue.name: queue}))
        del self._state.queues[queue.name]
        for lock in self._state.locks:
            if lock.key[0] == queue.id:
                self._state.locks.end(tx, lock)
        self._state.delays.remove_queue(tx, queue.id)
        tx.after_commit(queue.acceptors.wake_all)
        self._thread.act_at(self._clock.monotonic())
