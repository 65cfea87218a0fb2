"""`EmbeddedBroker`: the `Broker` interface on one SQLite file, or in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from ...errors import ProviderError, QueueNotFoundError, ValidationError
from ...messages import Message, PeekedMessage, ReceivedMessage, SessionInfo
from ...protocol.error_codes import CONFLICT, MESSAGE_NOT_FOUND
from ...queues import QueueInfo, QueueSettings
from ...validation import check_queue_name
from ..base import NO_DEADLINE, AcceptRequest, Broker, CallContext, Delivery, ReceiveRequest, Settlement
from ..clock import Clock
from .core import Core, Queue
from .database_file import ACTIVE, DEAD, DEFERRED, SCHEDULED
from .group_commit import Transaction
from .receiving import Receiving
from .rows import message_fields, pack_properties, peeked
from .settling import Settling
from .store import SEQUENCE_MASK, Row, find_key, message_key


class EmbeddedBroker(Broker):
    """A broker inside the current process. It keeps its messages in one SQLite file, or in memory.

    When `send` or `settle` returns, its changes are on disk (WAL mode, ``synchronous=FULL``). Session locks live in memory: a
    restart ends all of them. Safe to use from many threads. A forked child cannot use it.

    Args:
        path: The data file. It is created if it does not exist. `None` keeps everything in memory.
        queues: Names of queues to create if they do not exist.
        auto_create: Create a queue when it is first used.
        clock: The source of time.

    Raises:
        ConfigurationError: The file cannot be opened: another process has it open, it is damaged, or it belongs to a newer
            azsession.
        ValidationError: A queue name is invalid.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        queues: Iterable[str] = (),
        auto_create: bool = False,
        clock: Clock | None = None,
    ) -> None:
        names = [check_queue_name(name) for name in queues]
        self._core = Core(None if path is None else Path(path), auto_create=auto_create, clock=clock or Clock())
        self._receiving = Receiving(self._core)
        self._settling = Settling(self._core)
        try:
            for name in names:
                if name not in self._core.queues:
                    self.create_queue(name, QueueSettings())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EmbeddedBroker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # The holder of a session

    def receive(self, request: ReceiveRequest, *, context: CallContext = NO_DEADLINE) -> Delivery:
        return self._receiving.receive(request, context.caller)

    def accept(self, request: AcceptRequest, *, context: CallContext = NO_DEADLINE) -> Delivery | None:
        return self._receiving.accept(request, context.caller)

    def receive_deferred(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        sequence_numbers: Sequence[int],
        *,
        context: CallContext = NO_DEADLINE,
    ) -> list[ReceivedMessage]:
        return self._receiving.receive_deferred(entity, session_id, lock_id, sequence_numbers)

    def settle(
        self, entity: str, session_id: str, settlements: Sequence[Settlement], *, context: CallContext = NO_DEADLINE
    ) -> list[str | None]:
        return self._settling.settle(entity, session_id, settlements)

    def renew(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> float:
        return self._settling.renew(entity, session_id, lock_id)

    def release(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> None:
        self._settling.release(entity, session_id, lock_id)

    def get_state(self, entity: str, session_id: str, lock_id: str, *, context: CallContext = NO_DEADLINE) -> bytes | None:
        return self._settling.get_state(entity, session_id, lock_id)

    def set_state(
        self, entity: str, session_id: str, lock_id: str, state: bytes | None, *, context: CallContext = NO_DEADLINE
    ) -> None:
        self._settling.set_state(entity, session_id, lock_id, state)

    def dead_letter_session(
        self,
        entity: str,
        session_id: str,
        lock_id: str,
        reason: str,
        description: str | None,
        request_id: str = "",
        *,
        context: CallContext = NO_DEADLINE,
    ) -> int:
        return self._settling.dead_letter_session(entity, session_id, lock_id, reason, description, request_id)

    # Sending

    def send(
        self, entity: str, messages: Sequence[Message], request_id: str = "", *, context: CallContext = NO_DEADLINE
    ) -> None:
        prepared = [_prepare(message) for message in messages]

        def job(tx: Transaction) -> None:
            queue = self._core.queue(tx, entity)
            now = self._core.clock.now()
            if request_id:
                if self._core.store.saw_request(queue.id, request_id):
                    return
                self._core.store.remember_request(queue.id, request_id, now)
            self._add(tx, queue, prepared, now)

        self._core.perform(job, durable=True)

    def _add(self, tx: Transaction, queue: Queue, prepared: Sequence[tuple[Message, str, str]], now: float) -> None:
        store, settings = self._core.store, queue.settings
        sessions: dict[str, int] = {}
        rows = []
        visible: set[str] = set()
        for message, message_id, properties in prepared:
            if settings.requires_duplicate_detection and store.is_duplicate(
                queue.id, message_id, now, settings.duplicate_detection_window
            ):
                continue
            name = message.session_id or ""
            if name not in sessions:
                sessions[name] = store.ensure_session(queue.id, name)
            due = None if message.scheduled_enqueue_time is None else message.scheduled_enqueue_time.timestamp()
            if due is not None and due <= now:
                due = None
            expires = _expiry(settings, message.time_to_live, due or now)
            status = ACTIVE if due is None else SCHEDULED
            rows.append((queue.next_key(), sessions[name], status, now, due, expires, properties, message.body))
            if due is None:
                visible.add(name)
            if due is not None or expires is not None:
                self._core.schedule(tx, due=due, expires=expires)
        if not rows:
            return
        store.add_messages(rows)
        store.set_next_sequence(queue.id, queue.next_sequence)
        for name in visible:
            store.update_session(sessions[name])
            self._core.notify_waiters(tx, (queue.id, name))

    # Browsing

    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        def job(tx: Transaction) -> list[PeekedMessage]:
            queue = self._core.queue(tx, entity)
            found = self._core.store.session(queue.id, session_id)
            if found is None:
                return []
            start = message_key(queue.id, max(0, min(from_sequence_number, SEQUENCE_MASK)))
            rows = [
                row
                for status in (ACTIVE, DEFERRED, SCHEDULED)
                for row in self._core.store.of_status(found[0], status, start, max_count)
            ]
            rows.sort(key=lambda row: row.key)
            return [peeked(row, session_id) for row in rows[:max_count]]

        return self._core.perform(job)

    def list_sessions(
        self, entity: str, after: str, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[SessionInfo]:
        def job(tx: Transaction) -> list[SessionInfo]:
            queue = self._core.queue(tx, entity)
            listed = []
            for name, count in self._core.store.list_sessions(queue.id, after, max_count):
                lock = self._core.locks.get((queue.id, name))
                listed.append(SessionInfo(name, count, None if lock is None else self._core.lock_expiry(lock)))
            return listed

        return self._core.perform(job)

    # Dead letters

    def dead_letters(
        self, entity: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        def job(tx: Transaction) -> list[PeekedMessage]:
            queue = self._core.queue(tx, entity)
            rows = self._core.store.dead(queue.id, from_sequence_number, max_count)
            return [peeked(row, name) for name, row in rows]

        return self._core.perform(job)

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def job(tx: Transaction) -> None:
            queue = self._core.queue(tx, entity)
            row, session, name = self._dead_letter(queue, sequence_number)
            now = self._core.clock.now()
            own = message_fields(row, name).get("time_to_live")
            expires = _expiry(queue.settings, own, now)
            self._core.store.resubmit(row.key, queue.next_key(), now, expires)
            self._core.store.set_next_sequence(queue.id, queue.next_sequence)
            self._core.store.update_session(session)
            self._core.schedule(tx, expires=expires)
            self._core.notify_waiters(tx, (queue.id, name))

        self._core.perform(job, durable=True)

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def job(tx: Transaction) -> None:
            queue = self._core.queue(tx, entity)
            row, session, _ = self._dead_letter(queue, sequence_number)
            self._core.store.delete_messages([row.key])
            self._core.store.update_session(session)

        self._core.perform(job, durable=True)

    def _dead_letter(self, queue: Queue, sequence_number: int) -> tuple[Row, int, str]:
        key = find_key(queue.id, sequence_number)
        row, home = self._core.store.message(key), self._core.store.session_of(key)
        if row is None or home is None or row.status != DEAD:
            raise ProviderError(
                f"there is no dead letter with sequence number {sequence_number}", code=MESSAGE_NOT_FOUND, status=404
            )
        return row, *home

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = NO_DEADLINE) -> bool:
        def job(tx: Transaction) -> bool:
            queue = self._core.queues.get(entity)
            if queue is None:
                self._core.add_queue(tx, entity, settings)
            elif queue.settings != settings:
                raise ProviderError(
                    f"the queue {entity!r} exists with other settings; delete it first to create it again",
                    code=CONFLICT,
                    status=409,
                )
            return queue is None

        return self._core.perform(job, durable=True)

    def get_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> QueueInfo:
        def job(tx: Transaction) -> QueueInfo:
            queue = self._existing(entity)
            active, dead = self._core.store.counts(queue.id)
            return QueueInfo(queue.name, queue.settings, active, dead)

        return self._core.perform(job)

    def list_queues(self, *, context: CallContext = NO_DEADLINE) -> list[QueueInfo]:
        def job(tx: Transaction) -> list[QueueInfo]:
            return [QueueInfo(name, queue.settings) for name, queue in sorted(self._core.queues.items())]

        return self._core.perform(job)

    def delete_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> None:
        def job(tx: Transaction) -> None:
            queue = self._existing(entity)
            self._core.store.delete_queue(queue.id)
            del self._core.queues[entity]
            tx.on_rollback(lambda: self._core.queues.__setitem__(entity, queue))
            self._core.locks.forget_queue(tx, queue.id)
            tx.after_commit(queue.acceptors.wake_all)

        self._core.perform(job, durable=True)

    def _existing(self, entity: str) -> Queue:
        queue = self._core.queues.get(entity)
        if queue is None:
            raise QueueNotFoundError(f"there is no queue {entity!r}")
        return queue

    # Lifecycle

    def stop_waiting(self) -> None:
        self._core.stop_waiting()

    def close(self) -> None:
        self._core.close()


def _expiry(settings: QueueSettings, own: timedelta | None, since: float) -> float | None:
    """Return when a message that became visible at `since` expires: after its own or the queue's time to live, if shorter."""
    times = [settings.default_time_to_live, None if own is None else own.total_seconds()]
    return min((since + seconds for seconds in times if seconds is not None), default=None)


def _prepare(message: Message) -> tuple[Message, str, str]:
    """Return the message, its id, and its stored properties."""
    if message.session_id is None:
        raise ValidationError("a message to send needs a session_id, because every queue has sessions")
    message_id = message.message_id or str(uuid.uuid4())
    return message, message_id, pack_properties(message, message_id)
