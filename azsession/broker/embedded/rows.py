"""Converts messages to stored rows and back. `Core` and `EmbeddedBroker` use it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from ...messages import Message, PeekedMessage, ReceiptHandle, ReceivedMessage
from ...protocol.attributes import from_json, to_json
from ..calls import CallContext, EncodedPeekedMessage, EncodedReceivedMessage
from .database_file import STATE_NAMES
from .message_keys import SEQUENCE_MASK
from .stored_message import Row

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder().decode
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_PROPERTIES = ("message_id", "subject", "content_type", "correlation_id", "reply_to", "reply_to_session_id", "to")


def to_datetime(seconds: float) -> datetime:
    """Return a stored time as an aware datetime. A float cannot hold the latest datetimes exactly; it may be rounded up."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=timezone.utc)


def pack_properties(message: Message, message_id: str) -> str:
    """Return the stored JSON of a message: everything except its body, session and times."""
    packed: dict[str, Any] = {}
    for name in _PROPERTIES:
        value = getattr(message, name)
        if value is not None:
            packed[name] = value
    packed["message_id"] = message_id
    if message.time_to_live is not None:
        packed["time_to_live"] = message.time_to_live.total_seconds()
    if message.scheduled_enqueue_time is not None:
        packed["scheduled_enqueue_time"] = message.scheduled_enqueue_time.timestamp()
    if message.attributes:
        packed["attributes"], types = to_json(message.attributes)
        if types:
            packed["attribute_types"] = types
    return _to_json(packed)


def message_fields(row: Row, session_id: str) -> dict[str, Any]:
    """Return the constructor arguments of a stored message, except its delivery count."""
    fields: dict[str, Any] = _from_json(row.properties)
    types = fields.pop("attribute_types", None)
    if types:
        fields["attributes"] = from_json(fields["attributes"], types)
    if "time_to_live" in fields:
        fields["time_to_live"] = timedelta(seconds=fields["time_to_live"])
    if "scheduled_enqueue_time" in fields:
        fields["scheduled_enqueue_time"] = to_datetime(fields["scheduled_enqueue_time"])
    fields.update(
        body=row.body,
        session_id=session_id,
        sequence_number=row.key & SEQUENCE_MASK,
        enqueued_at=to_datetime(row.enqueued),
        dead_letter_reason=row.reason,
        dead_letter_description=row.description,
        state=STATE_NAMES[row.status],
    )
    return fields


def received(
    row: Row, session_id: str, count: int, receipt: ReceiptHandle, delivered_at: datetime, context: CallContext
) -> ReceivedMessage:
    """Return a stored message as the result of a receive, with its delivery count."""
    fields = message_fields(row, session_id)
    fields.update(delivery_count=count, receipt=receipt, delivered_at=delivered_at)
    return EncodedReceivedMessage(**fields, encoded=row.encoded) if context.encoded else ReceivedMessage(**fields)


def peeked(row: Row, session_id: str, context: CallContext) -> PeekedMessage:
    """Return a stored message as the result of a peek."""
    fields = message_fields(row, session_id)
    if context.encoded:
        return EncodedPeekedMessage(**fields, delivery_count=row.count, encoded=row.encoded)
    return PeekedMessage(**fields, delivery_count=row.count)
