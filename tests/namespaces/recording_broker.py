"""`RecordingBroker`: the embedded broker, with a record of the messages that it accepted and that were completed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import attrs

from azsession.broker.calls import BLOCKING, CallContext, Delivery, Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.messages import Message, ReceivedMessage
from tests.namespaces.namespace import Entry


@attrs.frozen
class QueueCounts:
    """How many messages a queue has. Locked messages also count as active or deferred."""

    active: int
    dead_letter: int
    deferred: int
    scheduled: int
    locked: int


class RecordingBroker(EmbeddedBroker):
    """A broker in memory. The records are appended in the broker's order."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[tuple[str, Entry]] = []
        self.completed: list[tuple[str, Entry]] = []
        #: The messages that were received, by lock token.
        self._received: dict[str, Entry] = {}

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[None]:
        entries: list[Entry] = [(each.session_id, None, each.message_id) for each in messages]
        future = super().send(entity, messages, request_id, context=context)
        _when_done(future, lambda _: self.accepted.extend((entity, entry) for entry in entries))
        return future

    def schedule(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = BLOCKING
    ) -> Future[list[int]]:
        def note(numbers: list[int]) -> None:
            for message, number in zip(messages, numbers, strict=True):
                self.accepted.append((entity, (message.session_id, number, message.message_id)))

        future = super().schedule(entity, messages, request_id, context=context)
        _when_done(future, note)
        return future

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        future = super().receive(request, context=context)
        _when_done(future, lambda delivery: self._note(delivery.messages))
        return future

    def receive_deferred(
        self, entity: str, session_id: str, lock_id: str, sequence_numbers: Sequence[int], *, context: CallContext = BLOCKING
    ) -> Future[list[ReceivedMessage]]:
        future = super().receive_deferred(entity, session_id, lock_id, sequence_numbers, context=context)
        _when_done(future, self._note)
        return future

    def _note(self, messages: Sequence[ReceivedMessage]) -> None:
        for message in messages:
            self._received[message.receipt.handle] = (message.session_id, message.sequence_number, message.message_id)

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = BLOCKING
    ) -> Future[list[str | None]]:
        def note(codes: list[str | None]) -> None:
            for settlement, code in zip(settlements, codes, strict=True):
                entry = self._received.get(settlement.lock_token)
                if code is None and settlement.disposition is Disposition.COMPLETE and entry is not None:
                    self.completed.append((entity, entry))

        future = super().settle(entity, session_id, settlements, context=context)
        _when_done(future, note)
        return future

    # Looking inside

    def counts(self, entity: str) -> QueueCounts:
        """Return the numbers of the messages of a queue."""
        found = self.queue_statistics(entity).result()
        queue = self._core.queues[entity]
        locked = self._core.submit(lambda _: sum(len(lock.tokens) for lock in self._core.locks if lock.key[0] == queue.id))
        numbers = (found.active_count, found.dead_letter_count, found.deferred_count, found.scheduled_count)
        active, dead, deferred, scheduled = (number or 0 for number in numbers)
        return QueueCounts(active, dead, deferred, scheduled, locked.result())

    def locked_sessions(self, entity: str) -> set[str]:
        """Return the ids of the locked sessions of a queue."""
        queue = self._core.queues[entity]
        return self._core.submit(lambda _: set(self._core.locks.names(queue.id))).result()

    def waiting_accepts(self, entity: str) -> int:
        """Return how many accepts wait for the next available session of a queue."""
        queue = self._core.queues[entity]
        return self._core.submit(lambda _: len(list(queue.acceptors))).result()

    def lock_end(self, entity: str, session_id: str) -> float | None:
        """Return when the lock of a session ends, in seconds since 1970, or `None` if it is not locked."""
        queue = self._core.queues[entity]
        lock = self._core.submit(lambda _: self._core.locks.get((queue.id, session_id))).result()
        return None if lock is None else time.time() + lock.expires - self._core.clock.monotonic()

    def expire_session_lock(self, entity: str, session_id: str) -> None:
        """Let the lock of a session expire now. Raises `KeyError` without one."""
        queue = self._core.queues[entity]

        def job(tx: Any) -> bool:
            lock = self._core.locks.get((queue.id, session_id))
            if lock is None:
                return False
            lock.save_for_rollback(tx)
            self._core.end_lock(tx, lock)
            return True

        if not self._core.submit(job, durable=True).result():
            raise KeyError(session_id)


def _when_done(future: Future[Any], note: Any) -> None:
    """Call a function with the result of a future, if it has one."""

    def done(finished: Future[Any]) -> None:
        if not finished.cancelled() and finished.exception() is None:
            note(finished.result())

    future.add_done_callback(done)
