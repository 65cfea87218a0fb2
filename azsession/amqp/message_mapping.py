"""azsession's messages as AMQP messages, and AMQP messages as azsession's.

`broker.azure` and `server.amqp` call it. No received message raises an error here, whatever its sender wrote. The annotations
are those of Microsoft's "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide".
"""

from __future__ import annotations

import base64
import json
import math
import struct
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ..errors import ValidationError
from ..messages import AttributeValue, Message, PeekedMessage, ReceiptHandle, ReceivedMessage
from .message import AmqpMessage, as_bytes, encode_message
from .types import Described, Long, Timestamp, Ulong

#: A GUID in .NET's byte order: the first three of its numbers are little-endian.
_GUID = struct.Struct("<IHH8s")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_UINT_MAX = 0xFFFFFFFF
#: The latest expiry that Azure accepts (9999-12-31T07:59:59Z), in milliseconds since 1970.
_LATEST_EXPIRY = 253402243199000

_SEQUENCE_NUMBER = "x-opt-sequence-number"
_ENQUEUED_TIME = "x-opt-enqueued-time"
_SCHEDULED_TIME = "x-opt-scheduled-enqueue-time"
_MESSAGE_STATE = "x-opt-message-state"
_DEAD_LETTER_REASON = "DeadLetterReason"
_DEAD_LETTER_DESCRIPTION = "DeadLetterErrorDescription"

#: The types of application properties that attributes have, too.
_KEPT_TYPES = frozenset({str, int, bool, bytes, uuid.UUID, type(None)})

_STATES = {1: "Deferred", 2: "Scheduled"}


def to_amqp(message: Message | PeekedMessage, now: datetime | None = None, message_id: str | None = None) -> bytes:
    """Return the encoded AMQP message that sends `message`.

    A time to live goes into the header, whose 32 bits hold up to 49 days in milliseconds, and into the properties as creation
    time and expiry. Numeric attributes become ``long``, ``ulong`` where a long is too small, and ``double``; datetimes become
    ``timestamp``, which has milliseconds. A message without an id gets one, so that duplicate detection recognizes the same
    bytes when they are sent again.

    Args:
        message: The message.
        now: The creation time; the present, if absent.
        message_id: The id where the message has none; a new one, if absent.

    Raises:
        ValidationError: An attribute is an integer of more than 64 bits.
    """
    ttl_ms = created = expiry = None
    if message.time_to_live is not None:
        lasts = max(1, message.time_to_live // _MILLISECOND)
        created = _milliseconds(now or datetime.now(timezone.utc))
        ttl_ms, expiry = min(lasts, _UINT_MAX), min(created + lasts, _LATEST_EXPIRY)
    annotations = {}
    if message.scheduled_enqueue_time is not None:
        annotations[_SCHEDULED_TIME] = Timestamp(_milliseconds(message.scheduled_enqueue_time))
    return encode_message(
        AmqpMessage(
            ttl_ms=ttl_ms,
            annotations=annotations,
            message_id=message.message_id or message_id or str(uuid.uuid4()),
            to=message.to,
            subject=message.subject,
            reply_to=message.reply_to,
            correlation_id=message.correlation_id,
            content_type=message.content_type,
            absolute_expiry=expiry,
            creation_time=created,
            group_id=message.session_id,
            reply_to_group_id=message.reply_to_session_id,
            application_properties=to_properties(message.attributes),
            data=message.body,
        )
    )


def to_properties(attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
    """Return attributes as application properties.

    Raises:
        ValidationError: An attribute is an integer of more than 64 bits.
    """
    return {name: _typed(name, value) for name, value in attributes.items()}


def _typed(name: str, value: AttributeValue) -> Any:
    if isinstance(value, datetime):
        return Timestamp((value - _EPOCH) // _MILLISECOND)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if not -(2**63) <= value < 2**64:
        raise ValidationError(f"the attribute {name!r} does not fit into 64 bits: {value}")
    return Long(value) if value < 2**63 else Ulong(value)


def _milliseconds(instant: datetime) -> int:
    """Return an instant in AMQP's milliseconds, rounded up: a scheduled message must not come before its time."""
    return -((_EPOCH - instant) // _MILLISECOND)


def token_of(delivery_tag: bytes) -> str:
    """Return the lock token of a delivery. The tag is the token's GUID in .NET's byte order.

    Raises:
        ValueError: The tag is not a GUID.
    """
    if len(delivery_tag) != 16:
        raise ValueError(f"a delivery tag of {len(delivery_tag)} bytes; a lock token has 16")
    low, middle, high, rest = _GUID.unpack(delivery_tag)
    digits = rest.hex()
    return f"{low:08x}-{middle:04x}-{high:04x}-{digits[:4]}-{digits[4:]}"


def received(message: AmqpMessage, receipt: ReceiptHandle, *, session_id: str, delivered_at: datetime) -> ReceivedMessage:
    """Return a message that was received under a session's lock.

    Args:
        message: The AMQP message.
        receipt: Its receipt.
        session_id: The session.
        delivered_at: When the message came; aware, UTC.
    """
    fields = _fields(message)
    fields["session_id"] = session_id
    # The header counts failed deliveries: those before this one (AMQP 1.0 §3.2.1).
    fields["delivery_count"] += 1
    return ReceivedMessage(**fields, state=_state(message), receipt=receipt, delivered_at=delivered_at)


def peeked(message: AmqpMessage, *, dead_letter: bool = False) -> PeekedMessage:
    """Return a message that was peeked in the queue or, with `dead_letter`, in its dead-letter queue."""
    return PeekedMessage(**_fields(message), state="DeadLettered" if dead_letter else _state(message))


def has_expired(message: AmqpMessage) -> bool:
    """Return whether a message's time to live has ended, by the clock of this machine."""
    lasts, enqueued = _time_to_live(message), _instant(message.annotations.get(_ENQUEUED_TIME))
    if lasts is None or enqueued is None:
        return False
    try:
        return enqueued + lasts <= datetime.now(timezone.utc)
    except OverflowError:
        return False


def _state(message: AmqpMessage) -> str:
    state = message.annotations.get(_MESSAGE_STATE)
    return _STATES.get(state, "Active") if isinstance(state, int) else "Active"


def sent_fields(message: AmqpMessage) -> dict[str, Any]:
    """Return the arguments of `Message` for a message that a client sent. `Message` checks their ranges."""
    # Most of them are `None`. The comparison takes a third of the time of a call.
    subject, content_type, correlation_id = message.subject, message.content_type, message.correlation_id
    reply_to, reply_to_group, to = message.reply_to, message.reply_to_group_id, message.to
    scheduled, properties = message.annotations.get(_SCHEDULED_TIME), message.application_properties
    return {
        "body": message.body,
        "session_id": text_of(message.group_id),
        "message_id": text_of(message.message_id),
        "subject": None if subject is None else text_of(subject),
        "content_type": None if content_type is None else text_of(content_type),
        "correlation_id": None if correlation_id is None else text_of(correlation_id),
        "reply_to": None if reply_to is None else text_of(reply_to),
        "reply_to_session_id": None if reply_to_group is None else text_of(reply_to_group),
        "to": None if to is None else text_of(to),
        "time_to_live": None if message.ttl_ms is None else _time_to_live(message),
        "scheduled_enqueue_time": None if scheduled is None else _instant(scheduled),
        "attributes": attributes_of(properties) if properties else {},
    }


def _fields(message: AmqpMessage) -> dict[str, Any]:
    fields, annotations, properties = sent_fields(message), message.annotations, message.application_properties
    fields["sequence_number"] = _whole(annotations.get(_SEQUENCE_NUMBER)) or 0
    fields["delivery_count"] = _whole(message.delivery_count) or 0
    fields["enqueued_at"] = _instant(annotations.get(_ENQUEUED_TIME))
    if properties:
        fields["dead_letter_reason"] = text_of(properties.get(_DEAD_LETTER_REASON))
        fields["dead_letter_description"] = text_of(properties.get(_DEAD_LETTER_DESCRIPTION))
        for name in (_DEAD_LETTER_REASON, _DEAD_LETTER_DESCRIPTION):
            fields["attributes"].pop(name, None)
    return fields


def _time_to_live(message: AmqpMessage) -> timedelta | None:
    """Return the header's time to live; if that is the longest that it can hold, the one of the properties."""
    lasts, created, expiry = message.ttl_ms, message.creation_time, message.absolute_expiry
    if not isinstance(lasts, int):
        return None
    if lasts == _UINT_MAX and isinstance(created, int) and isinstance(expiry, int):
        lasts = max(lasts, expiry - created)
    try:
        return lasts * _MILLISECOND
    except OverflowError:
        return None


def _whole(value: Any) -> int | None:
    """Return an integer, or `None` for any other value. Python's booleans are not integers here."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _instant(value: Any) -> datetime | None:
    """Return milliseconds since 1970 as a datetime, or `None` if the value is no such number."""
    if not isinstance(value, int):
        return None
    try:
        return _EPOCH + value * _MILLISECOND
    except OverflowError:
        return None


def text_of(value: Any) -> str | None:
    """Return a property as text: binary as UTF-8 or base64, a time in ISO 8601, other types as `str` shows them."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Timestamp):
        instant = _instant(value)
        return str(int(value)) if instant is None else instant.isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Described):
        return text_of(value.value)
    if isinstance(value, (list, dict)):
        return as_bytes(value).decode()
    return str(value)


def attributes_of(properties: Mapping[Any, Any]) -> dict[str, AttributeValue]:
    """Return application properties as attributes.

    Texts, integers of all widths, finite floats, booleans, binary, times, UUIDs and null keep their types. Other values, and
    times after the year 9999, become text: see `text_of`.
    """
    attributes: dict[str, AttributeValue] = {}
    for name, value in properties.items():
        attributes[name if type(name) is str else text_of(name) or ""] = _attribute(value)
    return attributes


def _attribute(value: Any) -> AttributeValue:
    kind = type(value)
    if kind in _KEPT_TYPES:
        return value  # type: ignore[no-any-return]
    if kind is float and math.isfinite(value):
        return float(value)
    if kind is Timestamp:
        return _instant(value) or text_of(value)
    return text_of(value)
