"""The operations of the protocol: each takes a request that was read and authorized, calls the broker, and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs

from .. import forks
from ..broker.base import AcceptRequest, Broker, Delivery, Disposition, ReceiveRequest, Settlement
from ..errors import InvalidReceiptError, MessageTooLargeError, ValidationError
from ..messages import Message
from ..protocol import (
    ENVELOPE_TYPE,
    JSON_TYPE,
    LOCK_EXPIRES_HEADER,
    LOCK_HELD_HEADER,
    WAITED_HEADER,
)
from ..protocol.error_codes import CONFLICT, MESSAGE_LOCK_LOST, SESSION_LOCK_LOST
from ..protocol.queue_json import decode_queue, encode_queue_info
from ..protocol.routes import Operation
from ..protocol.wire import (
    BatchTooLargeError,
    decode_envelope,
    decode_single,
    format_date,
    json_object,
    message_to_send,
)
from ..queues import QueueInfo
from ..validation import MAX_BATCH, MAX_SEQUENCE_NUMBER, check_count, check_session_id
from .bodies import check_batch, message_headers, reason_of, settlements_of
from .request import Answer, Request

#: Bytes of a JSON body that describes no messages.
MAX_JSON_SIZE = 256 * 1024
#: Bytes of a JSON body of which one is read at a time: what is made of it takes many times its size.
LARGE_JSON = 1024 * 1024
#: Characters in the names and values of a message's attributes, as in Azure Service Bus.
MAX_ATTRIBUTES_SIZE = 65536


class Handlers:
    """The operations, on one broker."""

    def __init__(self, broker: Broker, max_message_size: int) -> None:
        self._broker = broker
        self._max_message_size = max_message_size
        self._reading_large = threading.Lock()
        forks.register(self)
        self._handlers: dict[Operation, Callable[[Request], Answer]] = {
            Operation.RECEIVE: self._receive,
            Operation.COMPLETE: self._settle_one(Disposition.COMPLETE),
            Operation.ABANDON: self._settle_one(Disposition.ABANDON),
            Operation.DEFER: self._settle_one(Disposition.DEFER),
            Operation.DEAD_LETTER: self._settle_one(Disposition.DEAD_LETTER),
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
            Operation.LIST_SESSIONS: self._list_sessions,
            Operation.SEND: self._send,
            Operation.PEEK_DEAD_LETTERS: self._dead_letters,
            Operation.RESUBMIT: self._resubmit,
            Operation.DELETE_DEAD_LETTER: self._delete_dead_letter,
            Operation.CREATE_QUEUE: self._create_queue,
            Operation.GET_QUEUE: self._get_queue,
            Operation.DELETE_QUEUE: self._delete_queue,
            Operation.LIST_QUEUES: self._list_queues,
            Operation.HEALTH: lambda request: Answer.json(200, {"status": "ok"}),
            Operation.OPENAPI: _openapi,
        }

    def answer(self, request: Request) -> Answer:
        """Do what the request asks for."""
        return self._handlers[request.route.operation](request)

    def after_fork(self) -> None:
        """In a forked child: nothing is being read."""
        self._reading_large = threading.Lock()

    def _json(self, request: Request) -> Mapping[str, Any]:
        """Return the JSON object of a request that describes no messages."""
        size = len(request.body)
        if size > MAX_JSON_SIZE:
            raise MessageTooLargeError(f"this body has at most {MAX_JSON_SIZE} bytes", size=size, limit=MAX_JSON_SIZE)
        return json_object(request.body)

    def _reading(self, request: Request) -> AbstractContextManager[object]:
        """Return what is held while a body that may be large is read."""
        return self._reading_large if len(request.body) > LARGE_JSON else nullcontext()

    # Receiving

    def _receive(self, request: Request) -> Answer:
        route = request.route
        many = "max" in request.query
        wanted = ReceiveRequest(
            route.entity,
            route.session_id,
            request.lock_id,
            max_count=request.number("max", 1, MAX_BATCH, lowest=1),
            timeout=request.timeout,
            request_id=request.request_id,
            holds_lock=request.header(LOCK_HELD_HEADER) == "1",
        )
        delivery = self._broker.receive(wanted, context=request.context)
        headers = _lock_headers(delivery)
        if not delivery.messages:
            return Answer(204, headers)
        return Answer(201, headers, messages=delivery.messages, single=not many)

    def _accept(self, request: Request) -> Answer:
        wanted = self._json(request).get("SessionId")
        session_id = None if wanted is None else check_session_id(wanted)
        asked = AcceptRequest(
            request.route.entity, session_id, request.lock_id, timeout=request.timeout, request_id=request.request_id
        )
        delivery = self._broker.accept(asked, context=request.context)
        if delivery is None:
            return Answer(204)
        answer = Answer.json(201, {"SessionId": delivery.session_id})
        return attrs.evolve(answer, headers={**answer.headers, **_lock_headers(delivery)})

    def _receive_deferred(self, request: Request) -> Answer:
        numbers = self._json(request).get("SequenceNumbers")
        if not isinstance(numbers, list) or not numbers:
            raise ValidationError(f"SequenceNumbers is a list of 1 to {MAX_BATCH} whole numbers")
        check_batch(len(numbers), "received")
        for number in numbers:
            check_count(number, "a sequence number", MAX_SEQUENCE_NUMBER)
        route = request.route
        messages = self._broker.receive_deferred(
            route.entity, route.session_id, request.lock_id, numbers, context=request.context
        )
        return Answer(201, messages=messages)

    # Settling

    def _settle_one(self, disposition: Disposition) -> Callable[[Request], Answer]:
        def settle(request: Request) -> Answer:
            route = request.route
            reason, description = (None, None)
            if disposition is Disposition.DEAD_LETTER:
                reason, description = reason_of(self._json(request))
            settlement = Settlement(route.lock_token, disposition, reason, description)
            code = self._broker.settle(route.entity, route.session_id, [settlement], context=request.context)[0]
            if code is not None:
                raise InvalidReceiptError(_WHY_NOT_SETTLED[code], code=code)
            return Answer(204)

        return settle

    def _settle(self, request: Request) -> Answer:
        with self._reading(request):
            settlements = settlements_of(json_object(request.body))
        codes = self._broker.settle(request.route.entity, request.route.session_id, settlements, context=request.context)
        failed = [
            {"LockToken": settlement.lock_token, "code": code}
            for settlement, code in zip(settlements, codes, strict=True)
            if code is not None
        ]
        return Answer.json(200, {"failed": failed})

    def _dead_letter_session(self, request: Request) -> Answer:
        reason, description = reason_of(self._json(request))
        route = request.route
        count = self._broker.dead_letter_session(
            route.entity,
            route.session_id,
            request.lock_id,
            reason or "",
            description,
            request.request_id,
            context=request.context,
        )
        return Answer.json(200, {"count": count})

    # The lock and the state

    def _renew(self, request: Request) -> Answer:
        left = self._broker.renew(request.route.entity, request.route.session_id, request.lock_id, context=request.context)
        return Answer(204, {LOCK_EXPIRES_HEADER: _decimal(left)})

    def _release(self, request: Request) -> Answer:
        self._broker.release(request.route.entity, request.route.session_id, request.lock_id, context=request.context)
        return Answer(204)

    def _get_state(self, request: Request) -> Answer:
        state = self._broker.get_state(
            request.route.entity, request.route.session_id, request.lock_id, context=request.context
        )
        return Answer(204) if state is None else Answer(200, {"Content-Type": "application/octet-stream"}, state)

    def _set_state(self, request: Request) -> Answer:
        self._check_size(len(request.body), "a session's state")
        self._broker.set_state(
            request.route.entity, request.route.session_id, request.lock_id, request.body, context=request.context
        )
        return Answer(204)

    def _clear_state(self, request: Request) -> Answer:
        self._broker.set_state(request.route.entity, request.route.session_id, request.lock_id, None, context=request.context)
        return Answer(204)

    # Looking

    def _peek(self, request: Request) -> Answer:
        start, limit = request.number("from", 0, MAX_SEQUENCE_NUMBER), request.number("max", 10, MAX_BATCH, lowest=1)
        messages = self._broker.peek(request.route.entity, request.route.session_id, start, limit, context=request.context)
        return Answer(200, messages=messages)

    def _list_sessions(self, request: Request) -> Answer:
        after = request.query.get("after", "")
        if after:
            check_session_id(after)
        sessions = []
        limit = request.number("max", 100, MAX_BATCH, lowest=1)
        for session in self._broker.list_sessions(request.route.entity, after, limit, context=request.context):
            item: dict[str, Any] = {"SessionId": session.session_id, "MessageCount": session.message_count}
            if session.locked_until is not None:
                item["LockedUntilUtc"] = format_date(session.locked_until)
            sessions.append(item)
        return Answer.json(200, {"sessions": sessions})

    # Sending

    def _send(self, request: Request) -> Answer:
        if (request.header("Content-Type") or "").partition(";")[0].strip().lower() == ENVELOPE_TYPE:
            with self._reading(request):
                messages = [message_to_send(fields) for fields in _envelope_of(request.body)]
            if not messages:
                raise ValidationError("an envelope to send has at least one message")
        else:
            messages = [message_to_send(decode_single(message_headers(request.headers), request.body))]
        for number, message in enumerate(messages, 1):
            self._check_message(message, number)
        self._broker.send(request.route.entity, messages, request.request_id, context=request.context)
        return Answer(201)

    def _check_message(self, message: Message, number: int) -> None:
        if message.session_id is None:
            raise ValidationError(f"message {number} has no SessionId: every queue here is one of sessions")
        self._check_size(len(message.body), f"message {number}")
        size = sum(len(name) + (len(value) if isinstance(value, str) else 8) for name, value in message.attributes.items())
        if size > MAX_ATTRIBUTES_SIZE:
            raise MessageTooLargeError(
                f"the attributes of message {number} have {size} characters, the limit is {MAX_ATTRIBUTES_SIZE}",
                size=size,
                limit=MAX_ATTRIBUTES_SIZE,
            )

    def _check_size(self, size: int, what: str) -> None:
        limit = self._max_message_size
        if size > limit:
            raise MessageTooLargeError(f"{what} has {size} bytes, the limit is {limit}", size=size, limit=limit)

    # Dead letters

    def _dead_letters(self, request: Request) -> Answer:
        start, limit = request.number("from", 0, MAX_SEQUENCE_NUMBER), request.number("max", 10, MAX_BATCH, lowest=1)
        return Answer(200, messages=self._broker.dead_letters(request.route.entity, start, limit, context=request.context))

    def _resubmit(self, request: Request) -> Answer:
        self._broker.resubmit(request.route.entity, request.route.sequence_number, context=request.context)
        return Answer(201)

    def _delete_dead_letter(self, request: Request) -> Answer:
        self._broker.delete_dead_letter(request.route.entity, request.route.sequence_number, context=request.context)
        return Answer(204)

    # Queues

    def _create_queue(self, request: Request) -> Answer:
        settings = decode_queue(self._json(request))
        new = self._broker.create_queue(request.route.entity, settings, context=request.context)
        return Answer.json(201 if new else 200, encode_queue_info(QueueInfo(request.route.entity, settings)))

    def _get_queue(self, request: Request) -> Answer:
        return Answer.json(200, encode_queue_info(self._broker.get_queue(request.route.entity, context=request.context)))

    def _delete_queue(self, request: Request) -> Answer:
        self._broker.delete_queue(request.route.entity, context=request.context)
        return Answer(204)

    def _list_queues(self, request: Request) -> Answer:
        return Answer.json(
            200, {"queues": [encode_queue_info(queue) for queue in self._broker.list_queues(context=request.context)]}
        )


_WHY_NOT_SETTLED = {
    MESSAGE_LOCK_LOST: "this lock token is unknown: the message was settled, or its lock was lost",
    SESSION_LOCK_LOST: "the session's lock is gone, and with it the message's",
    CONFLICT: "the message was settled in another way before",
}


def _envelope_of(body: bytes) -> list[dict[str, Any]]:
    try:
        return decode_envelope(body)
    except BatchTooLargeError as error:
        raise MessageTooLargeError(str(error)) from None


def _openapi(request: Request) -> Answer:
    # Here, not above: few ask for it, and it is described in terms of what is here.
    from .openapi import document

    return Answer(200, {"Content-Type": JSON_TYPE}, document())


def _decimal(seconds: float) -> str:
    """Return seconds rounded down, so that nobody is promised more than there is."""
    return f"{max(0.0, int(seconds * 1000) / 1000):.3f}"


def _lock_headers(delivery: Delivery) -> dict[str, str]:
    return {LOCK_EXPIRES_HEADER: _decimal(delivery.lock_expires_in), WAITED_HEADER: _decimal(delivery.waited)}
