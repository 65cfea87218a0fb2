"""The operations of a session's holder: accept, receive, settle, renew, release, and the session state.

Each handler takes an authorized request, calls the broker, and returns the answer. `Handlers` has these and all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..broker.base import Broker
from ..broker.calls import AcceptRequest, Delivery, Disposition, ReceiveRequest, Settled, Settlement
from ..logs import SessionLogger, get_logger
from ..messages import ReceivedMessage
from ..protocol import JSON_TYPE, LOCK_EXPIRES_HEADER, LOCK_HELD_HEADER, WAITED_HEADER
from ..protocol.error_codes import not_settled
from ..protocol.routes import Operation
from ..protocol.wire import json_object
from ..validation import MAX_BATCH, check_session_id
from .answer import Answer, PendingAnswer, done
from .request import Request, check_size, read_reason, read_sequence_numbers, read_settlements

logger: SessionLogger = get_logger(__name__)

Handler = Callable[[Request], "Answer | PendingAnswer[Any]"]


class SessionHandlers:
    """The handlers of a session's holder, for one broker. Safe to use from many threads.

    Args:
        broker: The broker.
        max_message_size: Bytes of a session state at most.
    """

    def __init__(self, broker: Broker, max_message_size: int) -> None:
        self._broker = broker
        self._max_message_size = max_message_size

    def by_operation(self) -> Mapping[Operation, Handler]:
        """Return the handlers by operation."""
        return {
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
        }

    # Receiving

    def _receive(self, request: Request) -> PendingAnswer[Any]:
        wanted, single = _receive_request(request, request.timeout), "max" not in request.query

        def make(delivery: Delivery) -> Answer:
            if not wanted.holds_lock:
                _log_lock(request, "took", delivery.session_id)
            headers = _lock_headers(delivery)
            if not delivery.messages:
                return Answer(204, headers)
            return Answer(201, headers, messages=delivery.messages, single=single)

        return PendingAnswer(
            self._broker.receive(wanted, context=request.context), make, lambda delivery: self._give_back(request, delivery)
        )

    def _give_back(self, request: Request, delivery: Delivery | None) -> Future[None] | None:
        """Return the messages of an answer that the client did not get."""
        if delivery is None:
            return None
        tokens = [message.receipt.handle for message in delivery.messages]
        return self._broker.give_back(*_holder(request), tokens, context=request.context)

    def _accept(self, request: Request) -> PendingAnswer[Any]:
        session_id = request.json().get("SessionId")
        with_messages = "max" in request.query
        max_count = request.number("max", 1, MAX_BATCH, lowest=1)
        wanted = AcceptRequest(
            request.route.entity,
            None if session_id is None else check_session_id(session_id),
            request.lock_id,
            timeout=request.timeout,
            request_id=request.request_id,
            max_count=max_count if with_messages else None,
            taken=request.taken(max_count),
            client=request.client,
        )
        broker = self._broker

        def make(delivery: Delivery | None) -> Answer:
            if delivery is None:
                return Answer(204)
            _log_lock(request, "took", delivery.session_id)
            messages = delivery.messages if with_messages else None
            return Answer.json(201, {"SessionId": delivery.session_id}, _lock_headers(delivery), messages)

        def give_back(delivery: Delivery | None) -> Future[None] | None:
            return None if delivery is None else broker.undo_accept(wanted, delivery, context=request.context)

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

        return PendingAnswer(
            self._broker.settle(route.entity, route.session_id, [settlement], context=request.context), settled
        )

    def _settle(self, request: Request) -> PendingAnswer[Any]:
        settlements = read_settlements(json_object(request.body))
        route, context = request.route, request.context
        if "max" not in request.query:
            future = self._broker.settle(route.entity, route.session_id, settlements, context=context)
            return PendingAnswer(future, lambda codes: _failed(settlements, codes))

        def make(settled: Settled) -> Answer:
            delivery = settled.delivery
            if delivery is None:
                return _failed(settlements, settled.codes)
            return _failed(settlements, settled.codes, _lock_headers(delivery), delivery.messages)

        return PendingAnswer(
            self._broker.settle_and_receive(settlements, _receive_request(request, 0.0), context=context),
            make,
            lambda settled: self._give_back(request, settled.delivery),
        )

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
        body = json_object(request.body)
        settlements = read_settlements(body) if body else []

        def make(codes: Sequence[str | None]) -> Answer:
            _log_lock(request, "released", request.route.session_id)
            return _failed(settlements, codes) if settlements else Answer(204)

        return PendingAnswer(self._broker.release(*_holder(request), settlements, context=request.context), make)

    def _get_state(self, request: Request) -> PendingAnswer[Any]:
        def make(state: bytes | None) -> Answer:
            return Answer(204) if state is None else Answer(200, {"Content-Type": "application/octet-stream"}, state)

        return PendingAnswer(self._broker.get_state(*_holder(request), context=request.context), make)

    def _set_state(self, request: Request) -> PendingAnswer[Any]:
        check_size(len(request.body), "the session state", self._max_message_size)
        return done(self._broker.set_state(*_holder(request), request.body, context=request.context), 204)

    def _clear_state(self, request: Request) -> PendingAnswer[Any]:
        return done(self._broker.set_state(*_holder(request), None, context=request.context), 204)


_DISPOSITIONS = {
    Operation.COMPLETE: Disposition.COMPLETE,
    Operation.ABANDON: Disposition.ABANDON,
    Operation.DEFER: Disposition.DEFER,
    Operation.DEAD_LETTER: Disposition.DEAD_LETTER,
}
#: The body of most answers to settlements. It is not encoded each time.
_NONE_FAILED = b'{"failed":[]}'


def settled(codes: Sequence[str | None]) -> Answer:
    """Return the answer to a request that settles one message.

    Raises:
        InvalidReceiptError: The message could not be settled.
    """
    code = codes[0]
    if code is not None:
        raise not_settled(code)
    return Answer(204)


def _log_lock(request: Request, what: str, session_id: str) -> None:
    # A client in the same process, whose thread waits for the broker, logs this itself.
    if not request.context.blocking:
        name = request.route.entity
        logger.info("a client %s the session %r of %r", what, session_id, name, queue=name, session_id=session_id)


def _holder(request: Request) -> tuple[str, str, str]:
    """Return the entity, the session and the holder that a request is about."""
    return request.route.entity, request.route.session_id, request.lock_id


def _receive_request(request: Request, timeout: float) -> ReceiveRequest:
    """Return the receive that a request asks for."""
    max_count = request.number("max", 1, MAX_BATCH, lowest=1)
    return ReceiveRequest(
        *_holder(request),
        max_count=max_count,
        timeout=timeout,
        request_id=request.request_id,
        holds_lock=request.headers.get(LOCK_HELD_HEADER) == "1",
        taken=request.taken(max_count),
        client=request.client,
    )


def _failed(
    settlements: Sequence[Settlement],
    codes: Sequence[str | None],
    headers: Mapping[str, str] | None = None,
    messages: Sequence[ReceivedMessage] | None = None,
) -> Answer:
    """Return the answer that names the settlements that failed, with messages if there are any."""
    failed = [
        {"LockToken": settlement.lock_token, "code": code}
        for settlement, code in zip(settlements, codes, strict=True)
        if code is not None
    ]
    if not failed:
        return Answer(200, {"Content-Type": JSON_TYPE, **(headers or {})}, _NONE_FAILED, messages)
    return Answer.json(200, {"failed": failed}, headers, messages)


def _decimal(seconds: float) -> str:
    """Return seconds rounded down, so that a client never counts on more time than the lock has."""
    return f"{max(0.0, int(seconds * 1000) / 1000):.3f}"


def _lock_headers(delivery: Delivery) -> dict[str, str]:
    return {LOCK_EXPIRES_HEADER: _decimal(delivery.lock_expires_in), WAITED_HEADER: _decimal(delivery.waited)}
