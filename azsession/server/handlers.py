"""The operations of the protocol. Each handler takes an authorized request, calls the broker, and returns the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any

from ..broker.base import Broker
from ..broker.calls import AcceptRequest, Backup, Delivery, Disposition, ReceiveRequest, Settlement
from ..errors import InvalidReceiptError, ValidationError
from ..logs import SessionLogger, get_logger
from ..messages import Message, ReceivedMessage, SessionInfo
from ..protocol import JSON_TYPE, LOCK_EXPIRES_HEADER, LOCK_HELD_HEADER, SQLITE_TYPE, WAITED_HEADER
from ..protocol.error_codes import not_settled
from ..protocol.queue_json import decode_queue, encode_queue_info, encode_statistics
from ..protocol.routes import Operation
from ..protocol.wire import format_date, json_object
from ..queues import QueueInfo
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, check_session_id
from .answer import Answer, PendingAnswer, no_metrics
from .readiness import READY_TIMEOUT, Readiness
from .request import Request, check_size, iter_messages, read_reason, read_sequence_numbers, read_settlements

logger: SessionLogger = get_logger(__name__)

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
        self._handlers: dict[Operation, Callable[[Request], Answer | PendingAnswer[Any]]] = {
            Operation.RECEIVE: self._receive,
            Operation.COMPLETE: self._settle_one,
            Operation.ABANDON: self._settle_one,
            Operation.DEFER: self._settle_one,
            Operation.DEAD_LETTER: self._settle_one,
            Operation.RENEW: self._renew,
            Operation.ACCEPT: self._accept,
            Operation.SETTLE: self._settle,
            Operation.RECEIVE_DEFERRED: self._receive_deferred,
            Operation.DEAD_LETTER_SESSION: self._dead_letter_session,
            Operation.RELEASE: self._release,
            Operation.GET_STATE: self._get_state,
            Operation.SET_STATE: self._set_state,
            Operation.CLEAR_STATE: self._clear_state,
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

    # Receiving

    def _receive(self, request: Request) -> PendingAnswer[Any]:
        route = request.route
        wanted = ReceiveRequest(
            route.entity,
            route.session_id,
            request.lock_id,
            max_count=request.number("max", 1, MAX_BATCH, lowest=1),
            timeout=request.timeout,
            request_id=request.request_id,
            holds_lock=request.headers.get(LOCK_HELD_HEADER) == "1",
            taken=request.number("taken", 1, MAX_BATCH, lowest=1) if "taken" in request.query else None,
            client=request.client,
        )
        broker, single = self._broker, "max" not in request.query

        def make(delivery: Delivery) -> Answer:
            if not wanted.holds_lock:
                _log_lock(request, "took", delivery.session_id)
            headers = _lock_headers(delivery)
            if not delivery.messages:
                return Answer(204, headers)
            return Answer(201, headers, messages=delivery.messages, single=single)

        def give_back(delivery: Delivery) -> Future[None]:
            tokens = [message.receipt.handle for message in delivery.messages]
            return broker.give_back(wanted.entity, wanted.session_id, wanted.lock_id, tokens, context=request.context)

        return PendingAnswer(broker.receive(wanted, context=request.context), make, give_back)

    def _accept(self, request: Request) -> PendingAnswer[Any]:
        session_id = request.json().get("SessionId")
        wanted = AcceptRequest(
            request.route.entity,
            None if session_id is None else check_session_id(session_id),
            request.lock_id,
            timeout=request.timeout,
            request_id=request.request_id,
            client=request.client,
        )
        broker = self._broker

        def make(delivery: Delivery | None) -> Answer:
            if delivery is None:
                return Answer(204)
            _log_lock(request, "took", delivery.session_id)
            return Answer.json(201, {"SessionId": delivery.session_id}, _lock_headers(delivery))

        def give_back(delivery: Delivery | None) -> Future[None] | None:
            if delivery is None:
                return None
            return broker.undo_accept(wanted.entity, delivery.session_id, wanted.lock_id, context=request.context)

        return PendingAnswer(broker.accept(wanted, context=request.context), make, give_back)

    def _receive_deferred(self, request: Request) -> PendingAnswer[Any]:
        numbers = read_sequence_numbers(request.json())
        holder, broker = _holder(request), self._broker

        def give_back(messages: list[ReceivedMessage]) -> Future[None]:
            return broker.give_back(*holder, [message.receipt.handle for message in messages], context=request.context)

        future = broker.receive_deferred(*holder, numbers, context=request.context)
        return PendingAnswer(future, lambda messages: Answer(201, messages=messages), give_back)

    # Settling

    def _settle_one(self, request: Request) -> PendingAnswer[Any]:
        route = request.route
        disposition = _DISPOSITIONS[route.operation]
        reason, description = (None, None)
        if disposition is Disposition.DEAD_LETTER:
            reason, description = read_reason(request.json())
        delay = request.delay if disposition is Disposition.ABANDON else 0.0
        settlement = Settlement(route.lock_token, disposition, reason, description, delay)

        def make(codes: list[str | None]) -> Answer:
            code = codes[0]
            if code is not None:
                raise InvalidReceiptError(not_settled(code), code=code)
            return Answer(204)

        return PendingAnswer(self._broker.settle(route.entity, route.session_id, [settlement], context=request.context), make)

    def _settle(self, request: Request) -> PendingAnswer[Any]:
        settlements = read_settlements(json_object(request.body))
        route = request.route

        def make(codes: list[str | None]) -> Answer:
            failed = [
                {"LockToken": settlement.lock_token, "code": code}
                for settlement, code in zip(settlements, codes, strict=True)
                if code is not None
            ]
            return Answer.json(200, {"failed": failed})

        return PendingAnswer(self._broker.settle(route.entity, route.session_id, settlements, context=request.context), make)

    def _dead_letter_session(self, request: Request) -> PendingAnswer[Any]:
        reason, description = read_reason(request.json())
        future = self._broker.dead_letter_session(
            *_holder(request), reason or "", description, request.request_id, context=request.context
        )
        return PendingAnswer(future, lambda count: Answer.json(200, {"count": count}))

    # The session's lock and state

    def _renew(self, request: Request) -> PendingAnswer[Any]:
        future = self._broker.renew(*_holder(request), context=request.context)
        return PendingAnswer(future, lambda seconds: Answer(204, {LOCK_EXPIRES_HEADER: _decimal(seconds)}))

    def _release(self, request: Request) -> PendingAnswer[Any]:
        def make(_: None) -> Answer:
            _log_lock(request, "released", request.route.session_id)
            return Answer(204)

        return PendingAnswer(self._broker.release(*_holder(request), context=request.context), make)

    def _get_state(self, request: Request) -> PendingAnswer[Any]:
        def make(state: bytes | None) -> Answer:
            return Answer(204) if state is None else Answer(200, {"Content-Type": "application/octet-stream"}, state)

        return PendingAnswer(self._broker.get_state(*_holder(request), context=request.context), make)

    def _set_state(self, request: Request) -> PendingAnswer[Any]:
        check_size(len(request.body), "the session state", self.max_message_size)
        return _done(self._broker.set_state(*_holder(request), request.body, context=request.context), 204)

    def _clear_state(self, request: Request) -> PendingAnswer[Any]:
        return _done(self._broker.set_state(*_holder(request), None, context=request.context), 204)

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
        return _done(self._broker.send(request.route.entity, messages, request.request_id, context=request.context), 201)

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
        return _done(self._broker.cancel_scheduled(request.route.entity, numbers, context=request.context), 204)

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
        return _done(self._broker.resubmit(request.route.entity, request.route.sequence_number, context=request.context), 201)

    def _delete_dead_letter(self, request: Request) -> PendingAnswer[Any]:
        return _done(
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
        return _done(self._broker.delete_queue(request.route.entity, context=request.context), 204)

    def _list_queues(self, request: Request) -> PendingAnswer[Any]:
        key = request.key

        def make(queues: list[QueueInfo]) -> Answer:
            visible = [queue for queue in queues if key is None or key.covers(queue.name)]
            return Answer.json(200, {"queues": [encode_queue_info(queue) for queue in visible]})

        return PendingAnswer(self._broker.list_queues(context=request.context), make)


_DISPOSITIONS = {
    Operation.COMPLETE: Disposition.COMPLETE,
    Operation.ABANDON: Disposition.ABANDON,
    Operation.DEFER: Disposition.DEFER,
    Operation.DEAD_LETTER: Disposition.DEAD_LETTER,
}


def _log_lock(request: Request, what: str, session_id: str) -> None:
    # A client in the same process, whose thread waits for the broker, logs this itself.
    if not request.context.blocking:
        name = request.route.entity
        logger.info("a client %s the session %r of %r", what, session_id, name, queue=name, session_id=session_id)


@cache
def openapi_document() -> bytes:
    """Return the description of the protocol in OpenAPI."""
    return Path(__file__).with_name("openapi.json").read_bytes()


def _done(future: Future[None], status: int) -> PendingAnswer[None]:
    """Return an answer without contents, for when the broker has finished."""
    return PendingAnswer(future, lambda _: Answer(status))


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


def _holder(request: Request) -> tuple[str, str, str]:
    """Return the entity, the session and the holder that a request is about."""
    return request.route.entity, request.route.session_id, request.lock_id


def _peek_range(request: Request) -> tuple[int, int]:
    """Return the first sequence number, and how many messages to return."""
    start = request.number("from", 0, MAX_SEQUENCE_NUMBER)
    return start, request.number("max", DEFAULT_PEEK_COUNT, MAX_BATCH, lowest=1)


def _decimal(seconds: float) -> str:
    """Return seconds rounded down, so that a client never counts on more time than the lock has."""
    return f"{max(0.0, int(seconds * 1000) / 1000):.3f}"


def _lock_headers(delivery: Delivery) -> dict[str, str]:
    return {LOCK_EXPIRES_HEADER: _decimal(delivery.lock_expires_in), WAITED_HEADER: _decimal(delivery.waited)}
