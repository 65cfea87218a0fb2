"""The node ``$management`` of an entity, and of its dead letters.

The operations are those of Microsoft's "AMQP 1.0 in Azure Service Bus: request-response-based operations".
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

from ... import amqp
from ...amqp import Array, Long, Request, Symbol
from ...broker.base import Broker
from ...broker.calls import Disposition as Settles
from ...broker.calls import EncodedMessage, Settlement
from ...errors import QueueError
from ...protocol.routes import Operation
from ...validation import MAX_BATCH
from .batch_delete import MAX_DELETES, delete_dead_letters, delete_of_session
from .broker_calls import CONTEXT, result_of
from .conditions import ARGUMENT_ERROR, NOT_IMPLEMENTED, RefusedError, message_lost, not_settled, refusal_of, session_lost
from .dead_letter_receiver import settle_dead_letter
from .entities import DEAD_LETTERS, MANAGEMENT, stores_of
from .link import SessionHolder
from .messages import encode_peeked, encode_received, instant_in, read_message
from .outcomes import changed_attributes, short
from .requests import Answer, RequestLink
from .services import Services

#: About the end of .NET's time, in milliseconds since 1970. As last-updated-time, it asks for sessions with messages, too.
END_OF_TIME = 253402300799999 - 1000
#: Bytes of encoded messages in one response, unless its first message is larger.
MAX_RESPONSE = 4 * 1024 * 1024
_DEAD = DEAD_LETTERS + MANAGEMENT


class Body(dict[Any, Any]):
    """The body of a request. `link_name` is the name of the client's link that the request is about, if it says that."""

    link_name: object = None


#: The status and the body of a response.
Result = tuple[int, Any]
_NOTHING: Result = (204, None)


class ManagementRequests(RequestLink):
    """A client's requests to ``$management``. Senders and receivers use the node; each operation needs its own right."""

    operations: tuple[Operation, ...] = (Operation.RECEIVE, Operation.SEND)

    @property
    def _is_dead(self) -> bool:
        return self.path.lower().endswith(_DEAD)

    async def prepare(self) -> None:
        self.max_message_size: int = 2 * self._services.max_message_size
        await stores_of(self._broker, self.entity)

    @property
    def _services(self) -> Services:
        return self.channel.connection.services

    @property
    def _broker(self) -> Broker:
        return self._services.broker

    async def perform(self, request: Request) -> Answer:
        began = time.monotonic()
        name = str(request.properties.get("operation", "")).removeprefix("com.microsoft:")
        known = _OPERATIONS.get(name)
        properties, result = await self._answer(request, name, known)
        session_id = request.body.get("session-id") if isinstance(request.body, dict) else None
        about: dict[str, Any] = {"session_id": session_id} if isinstance(session_id, str) else {}
        self.report(None if known is None else known[0], int(properties["statusCode"]), began, **about)
        return properties, result

    async def _answer(self, request: Request, name: str, known: Known | None) -> Answer:
        try:
            if known is None:
                raise RefusedError(NOT_IMPLEMENTED, f"The operation {name[:100]} is not supported.", 501)
            operation, perform = known
            self.channel.connection.claims.check(self.path, self.entity, operation)
            body = Body(request.body if isinstance(request.body, dict) else {})
            body.link_name = request.properties.get("associated-link-name")
            status, result = await perform(self, body)
        except RefusedError as refusal:
            return _refused(refusal)
        except QueueError as error:
            return _refused(refusal_of(error, self.entity))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            return _refused(RefusedError(ARGUMENT_ERROR, f"The request for {name} is malformed: {error!r}"))
        return {"statusCode": status, "statusDescription": "OK" if status == 200 else "NoContent"}, result

    # Sessions

    def _held(self, asked: Body) -> tuple[str, SessionHolder]:
        """Return the session that a request names, and its holder. Only the connection that holds a session may use it.

        If the request names another link, the client does not know yet that this link has lost the session to the holder.
        """
        session_id = asked.get("session-id")
        holder = self.channel.connection.held.get((self.entity, session_id)) if isinstance(session_id, str) else None
        if holder is None or not isinstance(session_id, str):
            raise session_lost()
        if isinstance(asked.link_name, str) and asked.link_name != holder.link_name:
            raise session_lost()
        return session_id, holder

    async def _renew_session(self, asked: Body) -> Result:
        session_id, holder = self._held(asked)
        seconds = await result_of(self._broker.renew(self.entity, session_id, holder.lock_id, context=CONTEXT))
        holder.renewed(seconds)
        return 200, {"expiration": instant_in(seconds)}

    async def _get_state(self, asked: Body) -> Result:
        session_id, holder = self._held(asked)
        state = await result_of(self._broker.get_state(self.entity, session_id, holder.lock_id, context=CONTEXT))
        return 200, {"session-state": state}

    async def _set_state(self, asked: Body) -> Result:
        session_id, holder = self._held(asked)
        state = asked.get("session-state")
        if state is not None and not isinstance(state, bytes):
            raise RefusedError(ARGUMENT_ERROR, "The session state must be binary or null.")
        if state is not None and len(state) > self._services.max_message_size:
            raise RefusedError(ARGUMENT_ERROR, f"The session state has more than {self._services.max_message_size} bytes.")
        await result_of(self._broker.set_state(self.entity, session_id, holder.lock_id, state, context=CONTEXT))
        return 200, None

    async def _list_sessions(self, asked: Body) -> Result:
        skip, top = _number(asked, "skip"), _number(asked, "top", MAX_BATCH)
        since = asked.get("last-updated-time")
        updated_since = since / 1000 if isinstance(since, int) and since < END_OF_TIME else None
        if top == 0:
            return _NOTHING
        found: list[str] = []
        after: str | None = None
        passed = 0
        while len(found) < top:
            page = await result_of(self._broker.list_sessions(self.entity, after, MAX_BATCH, updated_since, context=CONTEXT))
            found += [info.session_id for info in page][max(0, skip - passed) :]
            passed += len(page)
            if len(page) < MAX_BATCH:
                break
            after = page[-1].session_id
        found = found[:top]
        return (200, {"skip": skip + len(found), "sessions-ids": Array(found)}) if found else _NOTHING

    # Messages

    async def _peek(self, asked: Body) -> Result:
        start, most = _number(asked, "from-sequence-number", default=0), _number(asked, "message-count", MAX_BATCH)
        session_id = asked.get("session-id")
        if not isinstance(session_id, str | None):
            raise RefusedError(ARGUMENT_ERROR, "session-id must be a string or null.")
        if most == 0:
            return _NOTHING
        if self._is_dead:
            found = await result_of(self._broker.dead_letters(self.entity, start, most, session_id, context=CONTEXT))
        else:
            found = await result_of(self._broker.peek(self.entity, session_id, start, most, context=CONTEXT))
        messages = _fitting([encode_peeked(message) for message in found])
        return (200, {"messages": [{"message": one} for one in messages]}) if messages else _NOTHING

    async def _delete_messages(self, asked: Body) -> Result:
        most, instant = _number(asked, "message-count", MAX_DELETES), asked.get("enqueued-time-utc")
        if not isinstance(instant, int):
            raise RefusedError(ARGUMENT_ERROR, "enqueued-time-utc must be a timestamp.")
        before = datetime.fromtimestamp(max(0, min(instant, END_OF_TIME)) / 1000, timezone.utc)
        if self._is_dead:
            locks = self._services.dead_letter_locks
            count = await delete_dead_letters(self._broker, locks, self.entity, most, before)
        else:
            session_id, holder = self._held(asked)
            count = await delete_of_session(self._broker, self.entity, session_id, holder.lock_id, most, before)
        return 200, {"message-count": count}

    async def _receive_deferred(self, asked: Body) -> Result:
        numbers = _numbers(asked)
        if self._is_dead:
            raise RefusedError("com.microsoft:message-not-found", "There is no deferred message with this number.", 404)
        session_id, holder = self._held(asked)
        received = await result_of(
            self._broker.receive_deferred(self.entity, session_id, holder.lock_id, numbers, context=CONTEXT)
        )
        if asked.get("receiver-settle-mode") == amqp.RECEIVER_FIRST:
            done = [Settlement(message.receipt.handle, Settles.COMPLETE) for message in received]
            await self._settle(session_id, done, holder)
            return 200, {
                "messages": [{"message": encode_received(one, locked_for=None, is_deferred=True)} for one in received]
            }
        return 200, {
            "messages": [
                {
                    "message": encode_received(message, locked_for=holder.locked_for, is_deferred=True),
                    "lock-token": uuid.UUID(message.receipt.handle),
                }
                for message in received
            ]
        }

    async def _update_disposition(self, asked: Body) -> Result:
        status, tokens = asked["disposition-status"], [str(uuid.UUID(str(each))) for each in asked["lock-tokens"]]
        disposition = _STATUSES.get(status)
        if disposition is None:
            raise RefusedError(ARGUMENT_ERROR, f"Unknown disposition status {status!s:.100}.")
        if self._is_dead:
            for token in tokens:
                await settle_dead_letter(self.channel, self.entity, token, disposition)
            return 200, None
        session_id, holder = self._held(asked)
        reason, description = short(asked.get("deadletter-reason")), short(asked.get("deadletter-description"))
        changes = changed_attributes(asked.get("properties-to-modify"))
        settlements = [Settlement(token, disposition, reason, description, attributes=changes) for token in tokens]
        await self._settle(session_id, settlements, holder)
        if disposition is Settles.DEAD_LETTER:
            self._services.dead_letter_locks.announce(self.entity)
        return 200, None

    async def _settle(self, session_id: str, settlements: list[Settlement], holder: SessionHolder) -> None:
        codes = await result_of(self._broker.settle(self.entity, session_id, settlements, context=CONTEXT))
        # Also those that were not settled: their locks are lost.
        holder.forget([one.lock_token for one in settlements])
        for code in codes:
            if code is not None:
                raise not_settled(code)

    async def _renew_locks(self, asked: Body) -> Result:
        """Renew the locks of single messages: only dead letters have them."""
        locks = self._services.dead_letter_locks
        info = await result_of(self._broker.get_queue(self.entity, context=CONTEXT))
        seconds = info.settings.lock_duration
        found = [locks.find(self.entity, str(each)) for each in asked["lock-tokens"]]
        if not found or None in found:
            raise message_lost()
        for lock in found:
            if lock is not None:
                locks.renew(lock, seconds)
        return 200, {"expirations": Array([instant_in(seconds)] * len(found))}

    # Scheduled messages

    async def _schedule(self, asked: Body) -> Result:
        limit = self._services.max_message_size
        messages: list[EncodedMessage] = [read_message(bytes(each["message"]), limit) for each in asked["messages"]]
        if any(message.scheduled_enqueue_time is None for message in messages):
            raise RefusedError(ARGUMENT_ERROR, "A message has no x-opt-scheduled-enqueue-time.")
        numbers = await result_of(self._broker.schedule(await self._only_store(), messages, context=CONTEXT))
        return 200, {"sequence-numbers": Array(Long(number) for number in numbers)}

    async def _cancel_scheduled(self, asked: Body) -> Result:
        await result_of(self._broker.cancel_scheduled(await self._only_store(), _numbers(asked), context=CONTEXT))
        return 200, None

    async def _only_store(self) -> str:
        """Return the queue that stores the messages of the entity. Each subscription of a topic numbers its own messages."""
        stores = await stores_of(self._broker, self.entity)
        if len(stores) > 1:
            raise RefusedError(NOT_IMPLEMENTED, "Messages for several subscriptions cannot be scheduled.", 501)
        return stores[0]


#: An operation over HTTP whose right is needed, and the method that performs the request.
Known = tuple[Operation, Callable[[ManagementRequests, Body], Awaitable[Result]]]

_OPERATIONS: dict[str, Known] = {
    "renew-session-lock": (Operation.RENEW, ManagementRequests._renew_session),
    "get-session-state": (Operation.GET_STATE, ManagementRequests._get_state),
    "set-session-state": (Operation.SET_STATE, ManagementRequests._set_state),
    "get-message-sessions": (Operation.LIST_SESSIONS, ManagementRequests._list_sessions),
    "peek-message": (Operation.PEEK, ManagementRequests._peek),
    "batch-delete-messages": (Operation.RECEIVE, ManagementRequests._delete_messages),
    "receive-by-sequence-number": (Operation.RECEIVE_DEFERRED, ManagementRequests._receive_deferred),
    "update-disposition": (Operation.SETTLE, ManagementRequests._update_disposition),
    "renew-lock": (Operation.RENEW, ManagementRequests._renew_locks),
    "schedule-message": (Operation.SCHEDULE, ManagementRequests._schedule),
    "cancel-scheduled-message": (Operation.CANCEL_SCHEDULED, ManagementRequests._cancel_scheduled),
}

_STATUSES = {
    "completed": Settles.COMPLETE,
    "abandoned": Settles.ABANDON,
    "defered": Settles.DEFER,  # Azure's spelling.
    "suspended": Settles.DEAD_LETTER,
    "unlocked": Settles.RELEASE,
}


def _refused(refusal: RefusedError) -> Answer:
    answer = {"statusCode": refusal.status, "statusDescription": refusal.description}
    return {**answer, "errorCondition": Symbol(refusal.condition)}, None


def _number(asked: Body, name: str, highest: int | None = None, default: int | None = None) -> int:
    """Return a number of a request, at most `highest`."""
    value = asked.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedError(ARGUMENT_ERROR, f"{name} must be a number from 0, not {value!r:.100}.")
    return value if highest is None else min(value, highest)


def _numbers(asked: Body) -> list[int]:
    """Return the sequence numbers of a request."""
    values = asked.get("sequence-numbers")
    if not isinstance(values, list) or not values or not all(type(value) is int for value in values):
        raise RefusedError(ARGUMENT_ERROR, "sequence-numbers must be an array of numbers.")
    return values


def _fitting(payloads: list[bytes]) -> list[bytes]:
    """Return the first payloads, up to `MAX_RESPONSE` bytes, but at least one."""
    size = 0
    for at, payload in enumerate(payloads):
        size += len(payload)
        if at and size > MAX_RESPONSE:
            return payloads[:at]
    return payloads
