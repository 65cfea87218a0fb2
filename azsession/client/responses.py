"""Readers for the responses of the protocol: each checks a response and returns its content.

`operations` gives one of these to each `Call`. A reader raises `MalformedError` if the response breaks the protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import attrs

from ..errors import ValidationError
from ..messages import AttributeValue, PeekedMessage, ReceiptHandle, ReceivedMessage, SessionInfo, UndecodedMessages
from ..protocol import COMBINED, COUNT_HEADER, ENVELOPE_TYPE, LOCK_EXPIRES_HEADER, WAITED_HEADER
from ..protocol.error_codes import parse_seconds
from ..protocol.queue_json import decode_queue_info, decode_statistics
from ..protocol.wire import MalformedError, decode_envelope, decode_single, json_object, parse_date
from ..queues import QueueInfo, QueueStatistics
from ..validation import check_lock_token, check_text
from .call import ServerResponse, SessionTarget
from .redacted import Redacted

#: The types of attributes.
_ATTRIBUTES = get_args(AttributeValue)


class LockGrant:
    """The result of a receive, an accept or a renewal: the server granted or extended a session's lock. Immutable.

    Args:
        session_id: The session.
        messages: The received messages.
        sent_at: When the request was sent, on the monotonic clock.
        duration: Seconds that the lock lasts, counted from `sent_at` + `waited`. `None` if the server did not say.
        waited: Seconds that the server held the request before it granted the lock.
        combines: The server takes two steps in one request.
    """

    __slots__ = ("combines", "duration", "messages", "sent_at", "session_id", "waited")

    def __init__(
        self,
        session_id: str,
        messages: Sequence[ReceivedMessage],
        sent_at: float,
        duration: float | None,
        waited: float,
        *,
        combines: bool = False,
    ) -> None:
        self.session_id: str = session_id
        self.messages: Sequence[ReceivedMessage] = messages
        self.sent_at: float = sent_at
        self.duration: float | None = duration
        self.waited: float = waited
        self.combines: bool = combines

    def with_messages(self, messages: Sequence[ReceivedMessage]) -> LockGrant:
        """Return the grant with messages that came with it."""
        return LockGrant(self.session_id, messages, self.sent_at, self.duration, self.waited, combines=self.combines)

    def seconds_left(self, session_timeout: float) -> float:
        """Return the seconds until the lock expires, if it lasts `session_timeout` unless the server said something else."""
        lasts = session_timeout if self.duration is None else self.duration
        return self.sent_at + self.waited + lasts - time.monotonic()


# Locks


def read_lock(response: ServerResponse, session_id: str) -> LockGrant:
    """Return the lock that a response grants, without messages."""
    duration = parse_seconds(response.headers.get(LOCK_EXPIRES_HEADER))
    # The server cannot have held the request for longer than the response took. Without this bound, a wrong header would make
    # the client believe in a lock that has expired.
    waited = min(parse_seconds(response.headers.get(WAITED_HEADER)) or 0.0, time.monotonic() - response.sent_at)
    return LockGrant(session_id, (), response.sent_at, duration, waited, combines=COMBINED in response.extensions)


def read_received(response: ServerResponse, session: SessionTarget, session_timeout: float) -> LockGrant:
    """Return the lock and the messages of a receive.

    Args:
        response: The response.
        session: The session that was received from.
        session_timeout: Seconds that the lock lasts if the server does not say.
    """
    if response.status not in (200, 201, 204):
        raise MalformedError(f"a receive is answered with 200, 201 or 204, not {response.status}")
    grant = read_lock(response, session.session_id)
    if response.status == 204:
        return grant
    return grant.with_messages(read_messages(response, session, grant.seconds_left(session_timeout)))


# Messages


def read_messages(response: ServerResponse, session: SessionTarget, seconds_left: float) -> list[ReceivedMessage]:
    """Return the received messages of a response: an envelope, a single message, or objects of this process.

    Args:
        response: The response.
        session: The session that was received from.
        seconds_left: Seconds until the lock expires.
    """
    if response.messages is not None:
        return own_messages(response.messages, session, seconds_left)
    content_type, count = response.headers.get("Content-Type", ""), response.headers.get(COUNT_HEADER)
    if count is not None or content_type.startswith(ENVELOPE_TYPE):
        items = decode_envelope(response.body)
        if not items or (count is not None and count.strip() != str(len(items))):
            # The server locked the missing messages for this client, and later messages would overtake them.
            raise MalformedError(f"{COUNT_HEADER} is {count}, but the response has {len(items)} messages")
    else:
        items = [decode_single(response.items, response.body)]
    return decoded_messages(items, session, seconds_left)


def own_messages(messages: Sequence[PeekedMessage], session: SessionTarget, seconds_left: float) -> list[ReceivedMessage]:
    """Return the messages of a broker in this process, with the lock's expiry as this client calculates it."""
    now = datetime.now(timezone.utc)
    expires_at = now + timedelta(seconds=seconds_left)
    if isinstance(messages, UndecodedMessages):
        return messages.received_as(lambda token: _receipt(token, session, expires_at), session.session_id, now)
    return [
        _with_own_receipt(message, session, now, expires_at) for message in messages if isinstance(message, ReceivedMessage)
    ]


def decoded_messages(items: Sequence[dict[str, Any]], session: SessionTarget, seconds_left: float) -> list[ReceivedMessage]:
    """Return the messages with these fields, as `decode_envelope` returns them."""
    now = datetime.now(timezone.utc)
    expires_at = now + timedelta(seconds=seconds_left)
    messages = [_received(fields, session, now, expires_at) for fields in items]
    if len({message.receipt.handle for message in messages}) < len(messages):
        raise MalformedError("two messages have the same LockToken")
    return messages


def _received(fields: dict[str, Any], session: SessionTarget, now: datetime, expires_at: datetime) -> ReceivedMessage:
    token = checked(check_lock_token, fields.pop("lock_token", None))
    # A proxy or server that mixes up responses must not deliver another session's message.
    if fields.get("session_id") not in (None, session.session_id):
        raise MalformedError("a message belongs to another session")
    fields["session_id"] = session.session_id
    fields["attributes"] = _attributes(fields)
    return ReceivedMessage(**fields, receipt=_receipt(token, session, expires_at), delivered_at=now)


def _attributes(fields: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return the attributes of a message without values that an attribute cannot have."""
    return {name: value for name, value in fields["attributes"].items() if isinstance(value, _ATTRIBUTES)}


def _with_own_receipt(
    message: ReceivedMessage, session: SessionTarget, now: datetime, expires_at: datetime
) -> ReceivedMessage:
    receipt = _receipt(message.receipt.handle, session, expires_at)
    return attrs.evolve(message, session_id=session.session_id, receipt=receipt, delivered_at=now)


def _receipt(token: str, session: SessionTarget, expires_at: datetime) -> ReceiptHandle:
    return ReceiptHandle(token, expires_at, queue_name=session.entity, session_id=session.session_id, route=session.route)


def read_peeked(response: ServerResponse) -> list[PeekedMessage]:
    """Return the messages of a response that locks none of them."""
    if response.messages is not None:
        return list(response.messages)
    items = decode_envelope(response.body)
    for fields in items:
        fields.pop("lock_token", None)
        fields["attributes"] = _attributes(fields)
    return [PeekedMessage(**fields) for fields in items]


# Other results


def read_nothing(response: ServerResponse) -> None:
    """Return `None`. The status already says that the operation succeeded."""


def read_failed_settlements(response: ServerResponse) -> dict[str, str]:
    """Return the error codes of the messages that could not be settled, by lock token."""
    return failed_settlements(read_object(response))


def failed_settlements(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the error codes in the object of an answer, by lock token."""
    failed: dict[str, str] = {}
    for item in items_of(result, "failed"):
        token, code = item.get("LockToken"), item.get("code")
        if not isinstance(token, str) or not isinstance(code, str):
            raise MalformedError("each failed settlement needs a LockToken and a code")
        failed[Redacted(token)] = code
    return failed


def read_count(response: ServerResponse) -> int:
    """Return the number of messages that an operation moved."""
    count = read_object(response).get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise MalformedError("the response has no count")
    return count


def read_state(response: ServerResponse) -> bytes | None:
    """Return the state of a session, or `None` if it has none."""
    return None if response.status == 204 else response.body


def read_sessions(response: ServerResponse) -> list[SessionInfo]:
    """Return the listed sessions."""
    return [_session_info(item) for item in items_of(read_object(response), "sessions")]


def _session_info(item: Mapping[str, Any]) -> SessionInfo:
    count = item.get("MessageCount")
    deferred, has_state, holder = item.get("DeferredMessageCount"), item.get("HasState"), item.get("Holder")
    until, oldest = item.get("LockedUntilUtc"), item.get("OldestEnqueuedTimeUtc")
    texts, numbers = (until, oldest, holder), (count, deferred)
    if not (
        all(isinstance(number, (int, type(None))) for number in numbers)
        and all(isinstance(text, (str, type(None))) for text in texts)
        and isinstance(has_state, (bool, type(None)))
    ):
        raise MalformedError("a listed session must have a SessionId, a MessageCount, and a LockedUntilUtc if it is locked")
    return SessionInfo(
        checked(check_text, item.get("SessionId"), "a SessionId"),
        count,
        None if until is None else parse_date(until),
        holder=holder,
        deferred_count=deferred,
        has_state=has_state,
        oldest_enqueued_at=None if oldest is None else parse_date(oldest),
    )


def read_created(response: ServerResponse) -> bool:
    """Return whether the queue is new."""
    return response.status == 201


def read_queue(response: ServerResponse) -> QueueInfo:
    """Return the described queue."""
    return _queue_info(read_object(response))


def read_statistics(response: ServerResponse) -> QueueStatistics:
    """Return the numbers of a queue."""
    return decode_statistics(read_object(response))


def read_queues(response: ServerResponse) -> list[QueueInfo]:
    """Return the listed queues."""
    return [_queue_info(item) for item in items_of(read_object(response), "queues")]


def _queue_info(data: Mapping[str, Any]) -> QueueInfo:
    try:
        return decode_queue_info(data)
    except ValidationError as error:
        raise MalformedError(str(error)) from None


def read_sequence_numbers(response: ServerResponse) -> list[int]:
    """Return the sequence numbers of scheduled messages."""
    numbers = read_object(response).get("SequenceNumbers")
    if not isinstance(numbers, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in numbers):
        raise MalformedError("SequenceNumbers must be a list of whole numbers")
    return numbers


# JSON


def read_object(response: ServerResponse) -> Mapping[str, Any]:
    """Return the JSON object of a response."""
    if not response.body:
        raise MalformedError("the response has no JSON object")
    return json_object(response.body, "the response")


def items_of(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the list of JSON objects that the object of a response has under `name`."""
    items = value.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MalformedError(f"the response has no list {name!r}")
    return items


def checked(check: Callable[..., str], value: object, *args: str) -> str:
    """Return a text of a response after a check of `validation`: the text goes into paths and receipts."""
    try:
        return check(value, *args)
    except ValidationError as error:
        raise MalformedError(str(error)) from None
