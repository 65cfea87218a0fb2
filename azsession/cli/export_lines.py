"""The lines of `azsession export`, which `azsession import` reads. Each is a JSON object that stands for itself."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TypeAlias

import attrs

from ..display import plural
from ..errors import ValidationError
from ..messages import JSONValue, Message, PeekedMessage
from ..protocol.attributes import from_json
from ..validation import MAX_REASON_LENGTH, check_session_id, check_text, did_you_mean
from .common import message_json, plain_json
from .json_lines import json_object

#: The kinds of lines.
MESSAGE, DEAD_LETTER, SESSION_STATE = "message", "dead_letter", "session_state"
#: The states of a line of the kind `MESSAGE`.
ACTIVE, SCHEDULED, DEFERRED = "Active", "Scheduled", "Deferred"

_TEXTS = ("message_id", "subject", "content_type", "correlation_id", "reply_to", "reply_to_session_id", "to")
_OF_STATE = frozenset({"kind", "session_id", "body", "body_encoding"})
#: Fields that the server sets. They are exported to be read, and not imported.
_OF_SERVER = frozenset({"state", "sequence_number", "delivery_count", "enqueued_at"})
_OF_MESSAGE = _OF_STATE | _OF_SERVER | {*_TEXTS, "time_to_live", "scheduled_enqueue_time", "attributes", "attribute_types"}
_OF_DEAD_LETTER = _OF_MESSAGE | {"dead_letter_reason", "dead_letter_description"}
_FIELDS = {MESSAGE: _OF_MESSAGE, DEAD_LETTER: _OF_DEAD_LETTER, SESSION_STATE: _OF_STATE}


@attrs.frozen
class ExportedMessage:
    """A line with a message.

    Attributes:
        message: The message to send.
        session_id: Its session.
        is_deferred: Whether it is a deferred message.
        is_dead: Whether it is a dead letter.
        reason: The reason of a dead letter; ``""`` for none.
        description: More about the reason, or `None`.
    """

    message: Message
    session_id: str
    is_deferred: bool = False
    is_dead: bool = False
    reason: str = ""
    description: str | None = None


@attrs.frozen
class ExportedState:
    """A line with the state of a session."""

    session_id: str
    state: bytes = attrs.field(repr=False)


Exported: TypeAlias = "ExportedMessage | ExportedState"


def message_line(message: PeekedMessage) -> bytes:
    """Return the line of a message that was peeked at."""
    kind = DEAD_LETTER if message.state == "DeadLettered" else MESSAGE
    state = {} if kind == DEAD_LETTER else {"state": message.state}
    return _line({"kind": kind, **state, **message_json(message)})


def state_line(session_id: str, state: bytes) -> bytes:
    """Return the line of a session's state."""
    try:
        body, encoding = state.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(state).decode(), "base64"
    return _line({"kind": SESSION_STATE, "session_id": session_id, "body_encoding": encoding, "body": body})


def counted(counts: Mapping[str, int]) -> str:
    """Return numbers of lines by kind as text, for example ``1 message, 2 session states``."""
    return ", ".join(plural(count, name.removesuffix("s").replace("_", " ")) for name, count in counts.items())


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(plain_json(value)).encode() + b"\n"


def parse_line(line: bytes) -> Exported:
    """Return the content of a line.

    Raises:
        ValidationError: The line is malformed. The error says why.
    """
    value = json_object(line)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValidationError(f"kind must be {MESSAGE}, {DEAD_LETTER} or {SESSION_STATE}")
    for name in value:
        if name not in _FIELDS[kind]:
            raise ValidationError(f"a {kind} has no field {did_you_mean(name, _FIELDS[kind])}")
    session_id = check_session_id(_required(value, "session_id"))
    body = _body(value)
    if kind == SESSION_STATE:
        return ExportedState(session_id, body)
    message = _message(value, session_id, body)
    if kind == DEAD_LETTER:
        reason, description = (_optional(value, f"dead_letter_{name}") for name in ("reason", "description"))
        for text in filter(None, (reason, description)):
            check_text(text, "the reason of a dead letter", MAX_REASON_LENGTH)
        return ExportedMessage(_receivable(message), session_id, is_dead=True, reason=reason or "", description=description)
    state = value.get("state", ACTIVE)
    if state not in (ACTIVE, SCHEDULED, DEFERRED):
        raise ValidationError(f"state must be {ACTIVE}, {SCHEDULED} or {DEFERRED}")
    if state == DEFERRED:
        return ExportedMessage(_receivable(message), session_id, is_deferred=True)
    if state == SCHEDULED and message.scheduled_enqueue_time is None:
        raise ValidationError(f"a message with the state {SCHEDULED} needs a scheduled_enqueue_time")
    return ExportedMessage(message, session_id)


def _message(value: dict[str, JSONValue], session_id: str, body: bytes) -> Message:
    fields: dict[str, Any] = {name: _optional(value, name) for name in _TEXTS}
    time_to_live = value.get("time_to_live")
    if isinstance(time_to_live, bool) or not isinstance(time_to_live, (int, float, type(None))):
        raise ValidationError("time_to_live must be a number of seconds")
    scheduled = _optional(value, "scheduled_enqueue_time")
    return Message(
        body,
        session_id=session_id,
        time_to_live=time_to_live,
        scheduled_enqueue_time=None if scheduled is None else _instant(scheduled),
        attributes=_attributes(value),
        **fields,
    )


def _receivable(message: Message) -> Message:
    """Return a message without a time at which it becomes available. It has to be received at once."""
    return attrs.evolve(message, scheduled_enqueue_time=None)


def _required(value: dict[str, JSONValue], name: str) -> str:
    found = _optional(value, name)
    if found is None:
        raise ValidationError(f"{name} is missing")
    return found


def _optional(value: dict[str, JSONValue], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise ValidationError(f"{name} must be text")
    return found


def _body(value: dict[str, JSONValue]) -> bytes:
    body, encoding = _required(value, "body"), value.get("body_encoding", "utf-8")
    if encoding == "base64":
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise ValidationError("the body is not base64") from None
    if encoding != "utf-8":
        raise ValidationError("body_encoding must be utf-8 or base64")
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise ValidationError("the body has a lone surrogate, which UTF-8 cannot encode") from None


def _instant(text: str) -> datetime:
    try:
        # Python 3.10 does not parse "Z".
        instant = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        if instant.tzinfo is None:
            raise ValueError
        return instant.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValidationError("scheduled_enqueue_time must be a time in ISO 8601 with a time zone") from None


def _attributes(value: dict[str, JSONValue]) -> dict[str, Any]:
    attributes, types = value.get("attributes") or {}, value.get("attribute_types") or {}
    if not isinstance(attributes, dict) or not isinstance(types, dict):
        raise ValidationError("attributes and attribute_types must be objects")
    for name, each in attributes.items():
        if isinstance(each, (dict, list)):
            raise ValidationError(f"the attribute {name[:80]!r} must be text, a number, a boolean or null")
    try:
        return from_json(attributes, types)
    except ValueError as error:
        raise ValidationError(str(error)) from None
