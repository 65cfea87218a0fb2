"""Stores, schedules and cancels messages, and moves dead letters. `EmbeddedBroker` forwards its methods to `Sending`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import timedelta

from ...errors import ProviderError, ValidationError
from ...messages import Message
from ...protocol.error_codes import MESSAGE_NOT_FOUND
from ...queues import QueueSettings
from ..calls import CallContext, encoded_of
from .core import Core
from .database_file import ACTIVE, DEAD, SCHEDULED
from .jobs import Transaction, Unfinished
from .message_keys import find_key
from .queue_state import Queue
from .rows import message_fields, pack_properties
from .stored_message import Row


class Sending:
    """Adds messages to sessions, and moves or deletes dead letters."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def send(self, entity: str, messages: Sequence[Message], request_id: str, context: CallContext) -> Future[None]:
        """Store messages, all or none; see `Broker.send`."""
        try:
            prepared = [_prepare(message) for message in messages]
        except ValidationError as error:
            failed: Future[None] = Future()
            failed.set_exception(error)
            return failed

        def job(tx: Transaction) -> None:
            queue = self._core.creation.find_to_write(tx, entity)
            core = self._core
            if request_id and core.remembered.is_repeated(queue.id, request_id, core.clock.steady()):
                return
            self._add(tx, queue, prepared, self._core.clock.now())

        return self._core.submit(job, context, durable=True)

    def schedule(self, entity: str, messages: Sequence[Message], request_id: str, context: CallContext) -> Future[list[int]]:
        """Store scheduled messages, all or none, and return their sequence numbers; see `Broker.schedule`."""
        try:
            prepared = [_prepare(message) for message in messages]
        except ValidationError as error:
            failed: Future[list[int]] = Future()
            failed.set_exception(error)
            return failed

        def job(tx: Transaction) -> list[int]:
            queue = self._core.creation.find_to_write(tx, entity)
            remembered = self._core.remembered
            first = remembered.result_of(queue.id, request_id) if request_id else None
            if first is None:
                first = queue.next_sequence
                self._add(tx, queue, prepared, self._core.clock.now(), numbers_for_all=True)
                if request_id:
                    remembered.remember_result(queue.id, request_id, first, self._core.clock.steady())
            return list(range(first, first + len(prepared)))

        return self._core.submit(job, context, durable=True)

    def cancel_scheduled(self, entity: str, sequence_numbers: Sequence[int], context: CallContext) -> Future[None]:
        """Delete scheduled messages, all or none; see `Broker.cancel_scheduled`."""

        def job(tx: Transaction) -> None:
            store, queue = self._core.store, self._core.queue(entity)
            keys = {find_key(queue.id, number): number for number in sequence_numbers}
            sessions = set()
            for key, number in keys.items():
                row, home = store.message(key), store.session_of(key)
                if row is None or home is None or row.status != SCHEDULED:
                    raise ProviderError(
                        f"there is no scheduled message with sequence number {number}", code=MESSAGE_NOT_FOUND, status=404
                    )
                sessions.add(home[0])
            store.delete_messages(list(keys))
            store.update_sessions(sessions)

        return self._core.submit(job, context, durable=True)

    def _add(
        self,
        tx: Transaction,
        queue: Queue,
        prepared: Sequence[tuple[Message, str, str]],
        now: float,
        *,
        numbers_for_all: bool = False,
    ) -> None:
        """Add messages, without duplicates. With `numbers_for_all`, a duplicate uses up a sequence number, too."""
        store, settings = self._core.store, queue.settings
        sessions: dict[str, tuple[int, int | None]] = {}
        rows = []
        #: The key of the first new active message, by session.
        visible: dict[str, int] = {}
        for message, message_id, properties in prepared:
            if settings.requires_duplicate_detection and self._core.remembered.is_duplicate(
                queue.id, message_id, self._core.clock.steady(), settings.duplicate_detection_window
            ):
                if numbers_for_all:
                    queue.next_key()
                continue
            name = message.session_id or ""
            if name not in sessions:
                sessions[name] = store.ensure_session(queue.id, name, self._core.is_taken((queue.id, name)))
            due = None if message.scheduled_enqueue_time is None else message.scheduled_enqueue_time.timestamp()
            if due is not None and due <= now:
                due = None
            expires = _expiry(settings, message.time_to_live, due or now)
            status = ACTIVE if due is None else SCHEDULED
            times = (now, due, expires)
            content = (properties, message.body, encoded_of(message))
            key = queue.next_key()
            rows.append((key, sessions[name][0], status, *times, *content))
            if due is None:
                visible.setdefault(name, key)
            if due is not None or expires is not None:
                self._core.due.schedule(tx, due=due, expires=expires)
        if not rows:
            return
        store.add_messages(rows)
        tx.before_commit(queue, lambda: store.set_next_sequence(queue.id, queue.next_sequence))
        for name, key in visible.items():
            session, head = sessions[name]
            if head is None:  # Otherwise an earlier message is the first one.
                store.set_head(session, key)
            self._core.notify_waiters(tx, (queue.id, name), queue)

    def resubmit(self, entity: str, sequence_number: int, context: CallContext) -> Future[None]:
        """Move a dead letter to the end of its session, as a new message."""

        def job(tx: Transaction) -> Unfinished | None:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            row, session, name = self._dead_letter(queue, sequence_number)
            now = self._core.clock.now()
            own = message_fields(row, name).get("time_to_live")
            expires = _expiry(queue.settings, own, now)
            self._core.store.resubmit(row.key, queue.next_key(), now, expires)
            self._core.store.set_next_sequence(queue.id, queue.next_sequence)
            self._core.store.update_session(session)
            self._core.due.schedule(tx, expires=expires)
            self._core.notify_waiters(tx, (queue.id, name))
            return None

        return self._core.submit(job, context, durable=True)

    def delete_dead_letter(self, entity: str, sequence_number: int, context: CallContext) -> Future[None]:
        """Delete a dead letter."""

        def job(tx: Transaction) -> Unfinished | None:
            queue = self._core.queue(entity)
            if self._core.due.continue_dead_lettering(tx, queue):
                return Unfinished.CONTINUE
            row, session, _ = self._dead_letter(queue, sequence_number)
            self._core.store.delete_messages([row.key])
            self._core.store.update_session(session)
            return None

        return self._core.submit(job, context, durable=True)

    def _dead_letter(self, queue: Queue, sequence_number: int) -> tuple[Row, int, str]:
        key = find_key(queue.id, sequence_number)
        row, home = self._core.store.message(key), self._core.store.session_of(key)
        if row is None or home is None or row.status != DEAD:
            raise ProviderError(
                f"there is no dead letter with sequence number {sequence_number}", code=MESSAGE_NOT_FOUND, status=404
            )
        return row, *home


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
