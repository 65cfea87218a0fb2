"""What the answers of the protocol say: read, and checked, as what a server says is.

`calls` makes the requests that these are the answers to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import ValidationError
from ..messages import PeekedMessage, ReceiptHandle, ReceivedMessage, SessionInfo
from ..protocol import COUNT_HEADER, ENVELOPE_TYPE, LOCK_EXPIRES_HEADER, WAITED_HEADER
from ..protocol.error_codes import parse_seconds
from ..protocol.queue_json import decode_queue_info
from ..protocol.wire import MalformedError, decode_envelope, decode_single, json_object, parse_date
from ..queues import QueueInfo
from ..validation import check_lock_token, check_text
from .call import Answer

if TYPE_CHECKING:
    from .operations import Session


@attrs.frozen(eq=False)
class LockAnswer:
    """What a receive, accept or renewal gave.

    Attributes:
        session_id: The session.
        messages: What was received.
        sent: When the request was sent, on the monotonic clock.
        lasts: Seconds that the lock lasts from `sent` + `waited`, where the server told.
        waited: Seconds that the server held the request.
    """

    session_id: str
    messages: Sequence[ReceivedMessage]
    sent: float
    lasts: float | None
    waited: float


def read_object(answer: Answer) -> Mapping[str, Any]:
    """Return the JSON object of an answer."""
    if not answer.body:
        raise MalformedError("it is no JSON object")
    return json_object(answer.body, "it")


def read_items(answer: Answer, name: str) -> list[Mapping[str, Any]]:
    """Return the list of JSON objects that an answer has under `name`."""
    items = read_object(answer).get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MalformedError(f"it has no list of {name}")
    return items


def read_lock(answer: Answer, session_id: str) -> LockAnswer:
    """Return what an answer says of the session's lock."""
    lasts = parse_seconds(answer.headers.get(LOCK_EXPIRES_HEADER))
    # A server cannot have held the request for longer than it took: whatever it says, the lock is not overestimated.
    waited = min(parse_seconds(answer.headers.get(WAITED_HEADER)) or 0.0, time.monotonic() - answer.sent)
    return LockAnswer(session_id, (), answer.sent, lasts, waited)


def read_messages(answer: Answer, session: Session, lasts: float) -> list[ReceivedMessage]:
    """Return the messages of an answer, whichever way they are represented."""
    now = datetime.now(timezone.utc)
    expires_at = now + timedelta(seconds=lasts)
    if answer.messages is not None:
        return [
            _own(message, session, now, expires_at) for message in answer.messages if isinstance(message, ReceivedMessage)
        ]
    content_type, count = answer.headers.get("Content-Type", ""), answer.headers.get(COUNT_HEADER)
    if count is not None or content_type.startswith(ENVELOPE_TYPE):
        described = decode_envelope(answer.body)
        if not described or (count is not None and count.strip() != str(len(described))):
            # What is missing would be in this holder's hands without its knowing, and overtaken by what comes next.
            raise MalformedError(f"it has {len(described)} messages, and not as many as it says")
    else:
        described = [decode_single(answer.items, answer.body)]
    messages = [_received(fields, session, now, expires_at) for fields in described]
    if len({message.receipt.handle for message in messages}) < len(messages):
        raise MalformedError("two messages have one LockToken")
    return messages


def checked(check: Callable[..., str], value: object, *args: Any) -> str:
    """Return a text of an answer, checked as one of a caller is: it goes into paths and receipts."""
    try:
        return check(value, *args)
    except ValidationError as error:
        raise MalformedError(str(error)) from None


def _received(fields: dict[str, Any], session: Session, now: datetime, expires_at: datetime) -> ReceivedMessage:
    token = checked(check_lock_token, fields.pop("lock_token", None))
    # An answer that was meant for another request, through some mistake on the way, must not pass for this one's.
    if fields.get("session_id") not in (None, session.session_id):
        raise MalformedError("a message is of another session")
    fields["session_id"] = session.session_id
    fields["attributes"] = _attributes(fields)
    return ReceivedMessage(**fields, receipt=_receipt(token, session, expires_at), delivered_at=now)


def _attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's attributes, without what cannot be one."""
    return {name: value for name, value in fields["attributes"].items() if isinstance(value, (str, int, float))}


def _own(message: ReceivedMessage, session: Session, now: datetime, expires_at: datetime) -> ReceivedMessage:
    """Return a message of a broker in this process, with this client's own reckoning of its lock."""
    receipt = _receipt(message.receipt.handle, session, expires_at)
    return attrs.evolve(message, session_id=session.session_id, receipt=receipt, delivered_at=now)


def _receipt(token: str, session: Session, expires_at: datetime) -> ReceiptHandle:
    return ReceiptHandle(token, expires_at, queue_name=session.entity, session_id=session.session_id, route=session.route)


def read_peeked(answer: Answer) -> list[PeekedMessage]:
    """Return the messages of an answer that holds none of them for the caller."""
    if answer.messages is not None:
        return list(answer.messages)
    described = decode_envelope(answer.body)
    for fields in described:
        fields.pop("lock_token", None)
        fields["attributes"] = _attributes(fields)
    return [PeekedMessage(**fields) for fields in described]


def read_sessions(answer: Answer) -> list[SessionInfo]:
    """Return the sessions that an answer lists."""
    return [_session_info(item) for item in read_items(answer, "sessions")]


def _session_info(item: Mapping[str, Any]) -> SessionInfo:
    name, count, until = item.get("SessionId"), item.get("MessageCount"), item.get("LockedUntilUtc")
    if not isinstance(count, (int, type(None))) or not isinstance(until, (str, type(None))):
        raise MalformedError("a session has SessionId, MessageCount and maybe LockedUntilUtc")
    return SessionInfo(checked(check_text, name, "a SessionId"), count, None if until is None else parse_date(until))


def read_queue(answer: Answer) -> QueueInfo:
    """Return the queue that an answer describes."""
    return _queue_info(read_object(answer))


def read_queues(answer: Answer) -> list[QueueInfo]:
    """Return the queues that an answer lists."""
    return [_queue_info(item) for item in read_items(answer, "queues")]


def _queue_info(data: Mapping[str, Any]) -> QueueInfo:
    try:
        return decode_queue_info(data)
    except ValidationError as error:
        raise MalformedError(str(error)) from None
