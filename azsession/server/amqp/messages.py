"""Payloads of deliveries as messages for the broker, and messages from the broker as payloads."""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

from ... import amqp
from ...amqp import AmqpMessage, Long, MalformedFrameError, Timestamp
from ...amqp.message_mapping import sent_fields, to_amqp
from ...broker.calls import EncodedMessage, encoded_of
from ...errors import ValidationError
from ...messages import PeekedMessage, ReceivedMessage
from .conditions import ARGUMENT_ERROR, NOT_ALLOWED, TOO_LARGE, RefusedError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
#: The 100 ns units from the year 1, where .NET's time begins, to 1970.
_TICKS_OF_1970 = 621355968000000000
_STATES = {"Active": 0, "Deferred": 1, "Scheduled": 2}


def ticks_in(seconds: float) -> Long:
    """Return the instant in so many seconds in .NET's ticks, by which Azure says until when a session is locked."""
    return Long(int((time.time() + seconds) * 1000) * 10000 + _TICKS_OF_1970)


def instant_in(seconds: float) -> Timestamp:
    """Return the instant in so many seconds."""
    return Timestamp(int((time.time() + seconds) * 1000))


def read_message(payload: bytes, max_size: int) -> EncodedMessage:
    """Return the message in a payload.

    Raises:
        RefusedError: The payload is malformed, or the message has a property that messages cannot have, or is too large.
    """
    if len(payload) > max_size:
        raise RefusedError(TOO_LARGE, f"The message of {len(payload)} bytes is larger than {max_size} bytes.", 413)
    try:
        message = amqp.decode_message(payload)
        encoded = amqp.stored(payload)
        fields = sent_fields(message)
    except MalformedFrameError as error:
        raise RefusedError("amqp:decode-error", str(error)) from error
    if fields["session_id"] is None:
        raise RefusedError(
            NOT_ALLOWED,
            "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have session support "
            "enabled can only receive messages that have the SessionId set to a valid value.",
        )
    if fields["time_to_live"] is None:
        fields["time_to_live"] = _time_until(message)
    try:
        return EncodedMessage(**fields, encoded=encoded)
    except ValidationError as error:
        raise RefusedError(ARGUMENT_ERROR, str(error)) from error


def _time_until(message: AmqpMessage) -> timedelta | None:
    """Return the time until a message's absolute expiry, which counts if there is no time to live."""
    if not isinstance(message.absolute_expiry, int):
        return None
    try:
        return max(_EPOCH + message.absolute_expiry * _MILLISECOND - datetime.now(timezone.utc), _MILLISECOND)
    except OverflowError:
        return None


def read_batch(payload: bytes, max_size: int) -> list[EncodedMessage]:
    """Return the messages in a delivery of the format `amqp.BATCH_FORMAT`, each in a data section.

    Raises:
        RefusedError: The payload or a message is malformed, or a message has a property that messages cannot have.
    """
    try:
        parts = amqp.data_sections(payload)
    except MalformedFrameError as error:
        raise RefusedError("amqp:decode-error", str(error)) from error
    return [read_message(part, max_size) for part in parts]


def encode_received(message: ReceivedMessage, *, locked_for: float | None, is_deferred: bool = False) -> bytes:
    """Return the payload that delivers a received message. Without `locked_for`, seconds, it is not locked."""
    annotations = _annotations(message)
    if is_deferred:
        annotations["x-opt-message-state"] = _STATES["Deferred"]
    token = None
    if locked_for is not None:
        annotations["x-opt-locked-until"] = instant_in(locked_for)
        token = uuid.UUID(message.receipt.handle)
    return _encode(message, message.delivery_count - 1, annotations, token)


def encode_peeked(message: PeekedMessage) -> bytes:
    """Return the payload of a peeked message."""
    annotations = _annotations(message)
    annotations["x-opt-message-state"] = _STATES.get(message.state, 0)
    return _encode(message, message.delivery_count, annotations, None)


def encode_dead_letter(message: PeekedMessage, queue: str, token: uuid.UUID, locked_for: float | None) -> bytes:
    """Return the payload that delivers a dead letter of a queue."""
    annotations = _annotations(message)
    annotations["x-opt-deadletter-source"] = queue
    if locked_for is not None:
        annotations["x-opt-locked-until"] = instant_in(locked_for)
    return _encode(message, message.delivery_count, annotations, None if locked_for is None else token)


def _annotations(message: PeekedMessage) -> dict[str, Any]:
    number = Long(message.sequence_number)
    enqueued = 0 if message.enqueued_at is None else (message.enqueued_at - _EPOCH) // _MILLISECOND
    return {
        "x-opt-sequence-number": number,
        "x-opt-enqueue-sequence-number": number,
        "x-opt-enqueued-time": Timestamp(enqueued),
    }


def _encode(message: PeekedMessage, failed: int, annotations: dict[str, Any], token: uuid.UUID | None) -> bytes:
    properties = {}
    if message.dead_letter_reason is not None:
        properties["DeadLetterReason"] = message.dead_letter_reason
    if message.dead_letter_description is not None:
        properties["DeadLetterErrorDescription"] = message.dead_letter_description
    kept = encoded_of(message)
    return amqp.delivered(
        to_amqp(message, message.enqueued_at) if kept is None else kept,
        message.body,
        failed_deliveries=max(0, failed),
        annotations=annotations,
        properties=properties,
        message_id=message.message_id,
        lock_token=token,
    )
