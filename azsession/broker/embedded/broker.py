"""`EmbeddedBroker`: the broker interface on one SQLite file, or in memory, put together from its parts."""

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
from .group_commit import Turn
from .receiving import Receiving
from .rows import message_fields, pack_properties, peeked
from .settling import Settling
from .store import SEQUENCE_MASK, Row, find_key, message_key


class EmbeddedBroker(Broker):
    """Queues of messages in sessions, kept in one SQLite file or in memory, by one process.

    What `send` and `settle` confirmed is on disk (WAL, ``synchronous=FULL``). Session locks live in memory: a restart ends
    them. Safe to use from many threads; not after a fork, which keeps the file with the parent.

    Args:
        path: The data file; made if it is not there. `None` keeps everything in memory.
        queues: Names of queues to make if they are not there.
        auto_create: Make a queue when it is first used.
        clock: Where time comes from.

    Raises:
        ConfigurationError: The file cannot be opened: another process has it, it is damaged, or of a newer azsession.
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

    # A session's holder

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

        def job(turn: Turn) -> None:
            queue = self._core.queue(turn, entity)
            now = self._core.clock.now()
            if request_id:
                if self._core.store.saw_request(queue.id, request_id):
                    return
                self._core.store.remember_request(queue.id, request_id, now)
            self._add(turn, queue, prepared, now)

        self._core.perform(job, durable=True)

    def _add(self, turn: Turn, queue: Queue, prepared: Sequence[tuple[Message, str, str]], now: float) -> None:
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
                self._core.expect(turn, due=due, expires=expires)
        if not rows:
            return
        store.add_messages(rows)
        store.set_next_sequence(queue.id, queue.next_sequence)
        for name in visible:
            store.refresh_session(sessions[name])
            self._core.offer(turn, (queue.id, name))

    # Looking

    def peek(
        self, entity: str, session_id: str, from_sequence_number: int, max_count: int, *, context: CallContext = NO_DEADLINE
    ) -> list[PeekedMessage]:
        def job(turn: Turn) -> list[PeekedMessage]:
            queue = self._core.queue(turn, entity)
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
        def job(turn: Turn) -> list[SessionInfo]:
            queue = self._core.queue(turn, entity)
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
        def job(turn: Turn) -> list[PeekedMessage]:
            queue = self._core.queue(turn, entity)
            rows = self._core.store.dead(queue.id, from_sequence_number, max_count)
            return [peeked(row, name) for name, row in rows]

        return self._core.perform(job)

    def resubmit(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def job(turn: Turn) -> None:
            queue = self._core.queue(turn, entity)
            row, session, name = self._dead_letter(queue, sequence_number)
            now = self._core.clock.now()
            own = message_fields(row, name).get("time_to_live")
            expires = _expiry(queue.settings, own, now)
            self._core.store.revive(row.key, queue.next_key(), now, expires)
            self._core.store.set_next_sequence(queue.id, queue.next_sequence)
            self._core.store.refresh_session(session)
            self._core.expect(turn, expires=expires)
            self._core.offer(turn, (queue.id, name))

        self._core.perform(job, durable=True)

    def delete_dead_letter(self, entity: str, sequence_number: int, *, context: CallContext = NO_DEADLINE) -> None:
        def job(turn: Turn) -> None:
            queue = self._core.queue(turn, entity)
            row, session, _ = self._dead_letter(queue, sequence_number)
            self._core.store.delete_messages([row.key])
            self._core.store.refresh_session(session)

        self._core.perform(job, durable=True)

    def _dead_letter(self, queue: Queue, sequence_number: int) -> tuple[Row, int, str]:
        key = find_key(queue.id, sequence_number)
        row, home = self._core.store.message(key), self._core.store.session_of(key)
        if row is None or home is None or row.status != DEAD:
            raise ProviderError(f"there is no dead letter {sequence_number}", code=MESSAGE_NOT_FOUND, status=404)
        return row, *home

    # Queues

    def create_queue(self, entity: str, settings: QueueSettings, *, context: CallContext = NO_DEADLINE) -> bool:
        def job(turn: Turn) -> bool:
            queue = self._core.queues.get(entity)
            if queue is None:
                self._core.add_queue(turn, entity, settings)
            elif queue.settings != settings:
                raise ProviderError(
                    f"the queue {entity!r} is there with other settings: delete it first", code=CONFLICT, status=409
                )
            return queue is None

        return self._core.perform(job, durable=True)

    def get_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> QueueInfo:
        def job(turn: Turn) -> QueueInfo:
            queue = self._existing(entity)
            active, dead = self._core.store.counts(queue.id)
            return QueueInfo(queue.name, queue.settings, active, dead)

        return self._core.perform(job)

    def list_queues(self, *, context: CallContext = NO_DEADLINE) -> list[QueueInfo]:
        def job(turn: Turn) -> list[QueueInfo]:
            return [QueueInfo(name, queue.settings) for name, queue in sorted(self._core.queues.items())]

        return self._core.perform(job)

    def delete_queue(self, entity: str, *, context: CallContext = NO_DEADLINE) -> None:
        def job(turn: Turn) -> None:
            queue = self._existing(entity)
            self._core.store.delete_queue(queue.id)
            del self._core.queues[entity]
            turn.on_rollback(lambda: self._core.queues.__setitem__(entity, queue))
            self._core.locks.forget_queue(turn, queue.id)
            turn.after_commit(queue.acceptors.wake_all)

        self._core.perform(job, durable=True)

    def _existing(self, entity: str) -> Queue:
        queue = self._core.queues.get(entity)
        if queue is None:
            raise QueueNotFoundError(f"there is no queue {entity!r}")
        return queue

    # Its life

    def stop_waiting(self) -> None:
        self._core.stop_waiting()

    def close(self) -> None:
        self._core.close()


def _expiry(settings: QueueSettings, own: timedelta | None, since: float) -> float | None:
    """Return when a message expires that is visible `since`: by its own time to live or the queue's, whichever is less."""
    times = [settings.default_time_to_live, None if own is None else own.total_seconds()]
    return min((since + seconds for seconds in times if seconds is not None), default=None)


def _prepare(message: Message) -> tuple[Message, str, str]:
    """Return the message with its id and what is stored of it."""
    if message.session_id is None:
        raise ValidationError("a message to send needs a session_id: every queue here is one of sessions")
    message_id = message.message_id or str(uuid.uuid4())
    return message, message_id, pack_properties(message, message_id)
