"""The operations of the protocol. Each handler takes an authorized request, calls the broker, and returns the answer.

The handlers of a session's holder are in `session_handlers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..broker.base import Broker
from ..broker.calls import Backup
from ..errors import ValidationError
from ..messages import Message, SessionInfo
from ..protocol import JSON_TYPE, SQLITE_TYPE
from ..protocol.dates import format_date
from ..protocol.queue_json import decode_queue, encode_queue_info, encode_statistics
from ..protocol.routes import Operation
from ..queues import QueueInfo
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, check_session_id
from .answer import Answer, PendingAnswer, done, no_metrics
from .readiness import READY_TIMEOUT, Readiness
from .request import Request, iter_messages, read_sequence_numbers
from .session_handlers import Handler, SessionHandlers

#: Messages and sessions that a listing returns if the query has no ``max``.
DEFAULT_PEEK_COUNT, DEFAULT_LIST_COUNT = 10, 100


class Handlers:
    """The handlers of all operations, for one broker. Safe to use from many threads.

    Args:
        broker: The broker.
        max_message_size: Bytes of a message's body, or of a session state, at most.
        metrics: Answers a request for the metrics.
    """

    def __init__(
        self, broker: Broker, max_message_size: int, metrics: Callable[[], PendingAnswer[bytes]] = no_metrics
    ) -> None:
        self._broker = broker
        self._readiness = Readiness(broker)
        self.max_message_size = max_message_size
        self._handlers: dict[Operation, Handler] = {
            **SessionHandlers(broker, max_message_size).by_operation(),
            Operation.PEEK: self._peek,
            Operation.PEEK_QUEUE: self._peek,
            Operation.LIST_SESSIONS: self._list_sessions,
            Operation.SEND: self._send,
            Operation.SCHEDULE: self._schedule,
            Operation.CANCEL_SCHEDULED: self._cancel_scheduled,
            Operation.PURGE: self._purge,
            Operation.PURGE_SESSION: self._purge,
            Operation.PEEK_DEAD_LETTERS: self._dead_letters,
            Operation.RESUBMIT: self._resubmit,
            Operation.DELETE_DEAD_LETTER: self._delete_dead_letter,
            Operation.CREATE_QUEUE: self._create_queue,
            Operation.GET_QUEUE: self._get_queue,
            Operation.QUEUE_STATISTICS: self._queue_statistics,
            Operation.DELETE_QUEUE: self._delete_queue,
            Operation.LIST_QUEUES: self._list_queues,
            Operation.HEALTH: lambda request: Answer.json(200, {"status": "ok"}),
            Operation.READY: self._ready,
            Operation.METRICS: lambda request: metrics(),
            Operation.BACKUP: self._backup,
            Operation.OPENAPI: lambda request: Answer(200, {"Content-Type": JSON_TYPE}, openapi_document()),
        }

    def answer(self, request: Request) -> Answer | PendingAnswer[Any]:
        """Carry out a request. With a context that does not block, this returns at once.

        Raises:
            QueueError: The request is invalid.
            MalformedError: The body is malformed.
        """
        return self._handlers[request.route.operation](request)

    # Browsing

    def _peek(self, request: Request) -> PendingAnswer[Any]:
        route = request.route
        session_id = route.session_id if route.operation is Operation.PEEK else None
        future = self._broker.peek(route.entity, session_id, *_peek_range(request), context=request.context)
        return PendingAnswer(future, lambda messages: Answer(200, messages=messages))

    def _list_sessions(self, request: Request) -> PendingAnswer[Any]:
        after = request.query.get("after")
        if after is not None:
            check_session_id(after)
        limit = request.number("max", DEFAULT_LIST_COUNT, MAX_BATCH, lowest=1)
        future = self._broker.list_sessions(request.route.entity, after, limit, context=request.context)
        return PendingAnswer(future, _session_list)

    # Sending

    def _send(self, request: Request) -> PendingAnswer[Any]:
        messages = self._messages(request)
        return done(self._broker.send(request.route.entity, messages, request.request_id, context=request.context), 201)

    def _messages(self, request: Request) -> Sequence[Message]:
        if request.messages is not None:
            return request.messages
        return list(iter_messages(request.headers, request.body, self.max_message_size))

    def _schedule(self, request: Request) -> PendingAnswer[Any]:
        messages = self._messages(request)
        for number, message in enumerate(messages, 1):
            if message.scheduled_enqueue_time is None:
                raise ValidationError(f"message {number} has no ScheduledEnqueueTimeUtc, which says when to enqueue it")
        future = self._broker.schedule(request.route.entity, messages, request.request_id, context=request.context)
        return PendingAnswer(future, lambda numbers: Answer.json(201, {"SequenceNumbers": numbers}))

    def _cancel_scheduled(self, request: Request) -> PendingAnswer[Any]:
        numbers = read_sequence_numbers(request.json())
        return done(self._broker.cancel_scheduled(request.route.entity, numbers, context=request.context), 204)

    def _purge(self, request: Request) -> PendingAnswer[Any]:
        route = request.route
        session_id = route.session_id if route.operation is Operation.PURGE_SESSION else None
        future = self._broker.purge(route.entity, session_id, request.request_id, context=request.context)
        return PendingAnswer(future, lambda count: Answer.json(200, {"count": count}))

    # Dead letters

    def _dead_letters(self, request: Request) -> PendingAnswer[Any]:
        session_id = request.query.get("session")
        if session_id is not None:
            check_session_id(session_id)
        future = self._broker.dead_letters(request.route.entity, *_peek_range(request), session_id, context=request.context)
        return PendingAnswer(future, lambda messages: Answer(200, messages=messages))

    def _resubmit(self, request: Request) -> PendingAnswer[Any]:
        return done(self._broker.resubmit(request.route.entity, request.route.sequence_number, context=request.context), 201)

    def _delete_dead_letter(self, request: Request) -> PendingAnswer[Any]:
        return done(
            self._broker.delete_dead_letter(request.route.entity, request.route.sequence_number, context=request.context), 204
        )

    # Operation

    def _ready(self, request: Request) -> PendingAnswer[Any]:
        return PendingAnswer(self._readiness.check(), lambda _: Answer.json(200, {"status": "ok"}), patience=READY_TIMEOUT)

    def _backup(self, request: Request) -> PendingAnswer[Any]:
        def make(backup: Backup) -> Answer:
            return Answer(200, {"Content-Type": SQLITE_TYPE}, download=backup)

        def discard(backup: Backup) -> None:
            backup.file.close()

        return PendingAnswer(self._broker.backup(context=request.context), make, discard)

    # Queues

    def _create_queue(self, request: Request) -> PendingAnswer[Any]:
        settings = decode_queue(request.json())
        info = QueueInfo(request.route.entity, settings)
        future = self._broker.create_queue(request.route.entity, settings, context=request.context)
        return PendingAnswer(future, lambda is_new: Answer.json(201 if is_new else 200, encode_queue_info(info)))

    def _get_queue(self, request: Request) -> PendingAnswer[Any]:
        future = self._broker.get_queue(request.route.entity, context=request.context)
        return PendingAnswer(future, lambda info: Answer.json(200, encode_queue_info(info)))

    def _queue_statistics(self, request: Request) -> PendingAnswer[Any]:
        future = self._broker.queue_statistics(request.route.entity, context=request.context)
        return PendingAnswer(future, lambda statistics: Answer.json(200, encode_statistics(statistics)))

    def _delete_queue(self, request: Request) -> PendingAnswer[Any]:
        return done(self._broker.delete_queue(request.route.entity, context=request.context), 204)

    def _list_queues(self, request: Request) -> PendingAnswer[Any]:
        key = request.key

        def make(queues: list[QueueInfo]) -> Answer:
            visible = [queue for queue in queues if key is None or key.covers(queue.name)]
            return Answer.json(200, {"queues": [encode_queue_info(queue) for queue in visible]})

        return PendingAnswer(self._broker.list_queues(context=request.context), make)


@cache
def openapi_document() -> bytes:
    """Return the description of the protocol in OpenAPI."""
    return Path(__file__).with_name("openapi.json").read_bytes()


def _session_list(sessions: list[SessionInfo]) -> Answer:
    listed = []
    for session in sessions:
        item: dict[str, Any] = {"SessionId": session.session_id, "MessageCount": session.message_count}
        if session.locked_until is not None:
            item["LockedUntilUtc"] = format_date(session.locked_until)
        if session.oldest_enqueued_at is not None:
            item["OldestEnqueuedTimeUtc"] = format_date(session.oldest_enqueued_at)
        known = {"Holder": session.holder, "DeferredMessageCount": session.deferred_count, "HasState": session.has_state}
        item |= {name: value for name, value in known.items() if value is not None}
        listed.append(item)
    return Answer.json(200, {"sessions": listed})


def _peek_range(request: Request) -> tuple[int, int]:
    """Return the first sequence number, and how many messages to return."""
    start = request.number("from", 0, MAX_SEQUENCE_NUMBER)
    return start, request.number("max", DEFAULT_PEEK_COUNT, MAX_BATCH, lowest=1)
