"""`SettleCall`: settles messages of one session in steps, alone or as the first part of another operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...messages import AttributeValue
from ...protocol.error_codes import CONFLICT, INVALID_REQUEST, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ..calls import Disposition, Settlement
from ..dead_letter_reasons import MAX_DELIVERY_EXCEEDED
from .attribute_changes import changed_content
from .core import Core
from .database_file import DEFERRED
from .jobs import Transaction, Unfinished
from .lock_tokens import token_key
from .queue_state import Queue
from .session_locks import LockedMessage, SessionLock
from .store import STEP_BYTES

#: Messages that one step settles, or returns.
STEP_SETTLEMENTS = 500
#: Seconds for which a lock lasts at least between two steps.
BETWEEN_STEPS = 1.0


class SettleCall:
    """The settlements of one call. Only jobs may use it.

    Args:
        core: The broker's state.
        entity: The queue.
        session_id: The session.
        settlements: How to settle its messages.

    Attributes:
        codes: An error code or `None` for each settlement of the steps that were done.
    """

    def __init__(self, core: Core, entity: str, session_id: str, settlements: Sequence[Settlement]) -> None:
        self._core = core
        self._entity = entity
        self._session_id = session_id
        self._settlements = settlements
        self.codes: list[str | None] = []

    @property
    def is_durable(self) -> bool:
        """Whether the commit must be on disk.

        The counts of messages that are taken must survive the death of this process only, as after a receive.
        """
        return any(one.disposition is not Disposition.TAKE for one in self._settlements)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to settle."""
        return len(self.codes) == len(self._settlements)

    def step(self, tx: Transaction) -> list[str | None] | Unfinished:
        """Settle the next messages. Return all codes if none is left."""
        codes, before = self.codes, len(self.codes)
        tx.on_rollback(lambda: codes.__delitem__(slice(before, None)))
        queue = self._core.queue(self._entity)
        if self._core.due.continue_dead_lettering(tx, queue, self._session_id):
            return Unfinished.CONTINUE
        lock = self._core.current_lock(tx, (queue.id, self._session_id))
        if lock is not None:
            lock.save_for_rollback(tx)
        done: list[tuple[Settlement, LockedMessage]] = []
        size = 0
        for settlement in self._settlements[before : before + STEP_SETTLEMENTS]:
            known = len(done)
            codes.append(self._claim(queue, lock, settlement, done))
            size += sum(message.size for _, message in done[known:])
            if size > STEP_BYTES:
                break
        if lock is not None and done:
            self._apply(tx, queue, lock, done)
        if self.is_finished:
            return codes
        if lock is not None:
            # A settlement that arrived in time must not lose the lock between two of its steps.
            self._core.locks.extend(lock, max(lock.expires, self._core.clock.monotonic() + BETWEEN_STEPS))
        return Unfinished.CONTINUE

    def _claim(
        self, queue: Queue, lock: SessionLock | None, settlement: Settlement, done: list[tuple[Settlement, LockedMessage]]
    ) -> str | None:
        """Move a message from its lock to `done`, and change its attributes, or return the error code."""
        if lock is not None and settlement.disposition is Disposition.TAKE and settlement.lock_token in lock.tokens:
            done.append((settlement, lock.tokens[settlement.lock_token]))
            return None
        in_hand = None if lock is None else lock.tokens.get(settlement.lock_token)
        if in_hand is not None and not self._change_attributes(in_hand.key, settlement.attributes):
            return INVALID_REQUEST
        if lock is not None and in_hand is not None:
            del lock.tokens[settlement.lock_token]
            done.append((settlement, in_hand))
            return None
        key = token_key(queue.id, settlement.lock_token)
        before = None if key is None else self._core.remembered.settled_disposition(key, settlement.lock_token)
        if before is None:
            # Taking is no settlement.
            earlier = (one.disposition for one, _ in done if one.lock_token == settlement.lock_token)
            before = next((one.value for one in earlier if one is not Disposition.TAKE), None)
        if before is None:
            return SESSION_LOCK_LOST if lock is None else MESSAGE_LOCK_LOST
        return None if before == settlement.disposition.value else CONFLICT

    def _change_attributes(self, key: int, changes: Mapping[str, AttributeValue] | None) -> bool:
        """Change attributes of a message; return `False` if they would be too large together."""
        if not changes:
            return True
        content = changed_content(self._core.store.content(key), changes)
        if content is not None:
            self._core.store.set_content(key, *content)
        return content is not None

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
