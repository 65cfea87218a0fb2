"""AMQP 1.0 as bytes: frames and messages to send, and, from `decoding`, what arrives.

The only room that uses the SDK's private AMQP layer, and of that only its encoder and the tables of fields. Frames that
go with every message (flow, transfer, disposition, detach) are packed without it, in `packing`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .._extras import need
from ..errors import ConfigurationError
from .decoding import (
    ABSENT,
    ATTACH,
    BEGIN,
    CLOSE,
    DETACH,
    DISPOSITION,
    END,
    FLOW,
    HEARTBEAT,
    OPEN,
    SASL_MECHANISMS,
    SASL_OUTCOME,
    SESSION_FILTER,
    TRANSFER,
    Absent,
    Attach,
    Begin,
    Close,
    Condition,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
    decode_frame,
)
from .message import AmqpMessage, Response, decode_message, decode_response
from .packing import (
    NULL,
    close_frame,
    compound,
    detach_frame,
    disposition_frame,
    end_frame,
    fields_of,
    flow_frame,
    sized,
    transfer_frames,
)
from .values import Described, MalformedFrameError, Timestamp

#: The versions of azure-servicebus whose private AMQP layer is known to be as it is used here.
KNOWN_SDK_VERSIONS = "7.12 to 7.15"

need("azure", "servicebus")
need("azure.servicebus", "servicebus")
try:
    _encode: Any = import_module("azure.servicebus._pyamqp._encode")
    _endpoints: Any = import_module("azure.servicebus._pyamqp.endpoints")
    _outcomes: Any = import_module("azure.servicebus._pyamqp.outcomes")
    _performatives: Any = import_module("azure.servicebus._pyamqp.performatives")
    _types: Any = import_module("azure.servicebus._pyamqp.types")
    describe_performative, encode_value = _encode.describe_performative, _encode.encode_value
    encode_frame = _encode.encode_frame
    Source, Target = _endpoints.Source, _endpoints.Target
    Modified, Rejected = _outcomes.Modified, _outcomes.Rejected
    AMQPError = import_module("azure.servicebus._pyamqp.error").AMQPError
    AttachFrame, BeginFrame = _performatives.AttachFrame, _performatives.BeginFrame
    OpenFrame, SASLInit = _performatives.OpenFrame, _performatives.SASLInit
    TYPE, VALUE, AMQPTypes = _types.TYPE, _types.VALUE, _types.AMQPTypes
except (ImportError, AttributeError) as error:
    raise ConfigurationError(
        f"the installed azure-servicebus is none that azsession can work with ({error}); "
        f"versions {KNOWN_SDK_VERSIONS} are known to work"
    ) from error

__all__ = [
    "ABSENT",
    "ACCEPTED",
    "AMQP_HEADER",
    "ATTACH",
    "BATCH_FORMAT",
    "BEGIN",
    "CLOSE",
    "DETACH",
    "DISPOSITION",
    "EMPTY_FRAME",
    "END",
    "FLOW",
    "HEARTBEAT",
    "KNOWN_SDK_VERSIONS",
    "OPEN",
    "RELEASED",
    "SASL_HEADER",
    "SASL_MECHANISMS",
    "SASL_OUTCOME",
    "SESSION_FILTER",
    "TRANSFER",
    "Absent",
    "AmqpMessage",
    "Attach",
    "Begin",
    "Close",
    "Condition",
    "Described",
    "Detach",
    "Disposition",
    "End",
    "Flow",
    "MalformedFrameError",
    "Open",
    "Response",
    "SaslMechanisms",
    "SaslOutcome",
    "Timestamp",
    "Transfer",
    "abandoned",
    "array",
    "attach_receiver",
    "attach_sender",
    "begin_frame",
    "close_frame",
    "dead_lettered",
    "decode_frame",
    "decode_message",
    "decode_response",
    "deferred",
    "detach_frame",
    "disposition_frame",
    "encode_batch",
    "encode_message",
    "encode_request",
    "end_frame",
    "flow_frame",
    "long",
    "open_frame",
    "sasl_init_anonymous",
    "symbol",
    "timestamp",
    "transfer_frames",
    "uint",
]

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
#: A frame without a body, which keeps a connection alive.
EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
#: The message format of a delivery that is many messages.
BATCH_FORMAT = 0x80013700

_UNSETTLED, _SETTLED = 0, 1
_FIRST, _SECOND = 0, 1


# Values whose type Azure insists on. Others are encoded by their Python type: int as int (32 bits), bytes as binary, a UUID
# as uuid, an aware datetime as timestamp.


def uint(value: int) -> Any:
    """Return `value` to be encoded as an unsigned 32-bit number."""
    return {TYPE: AMQPTypes.uint, VALUE: value}


def long(value: int) -> Any:
    """Return `value` to be encoded as a 64-bit number."""
    return {TYPE: AMQPTypes.long, VALUE: value}


def timestamp(milliseconds: int) -> Any:
    """Return milliseconds since 1970 to be encoded as a timestamp."""
    return {TYPE: AMQPTypes.timestamp, VALUE: milliseconds}


def symbol(value: str) -> Any:
    """Return `value` to be encoded as a symbol."""
    return {TYPE: AMQPTypes.symbol, VALUE: value}


def array(values: Sequence[Any]) -> Any:
    """Return values of one type to be encoded as an array."""
    return {TYPE: AMQPTypes.array, VALUE: list(values)}


# Frames


def _frame(channel: int, performative: Any, kind: bytes = b"\x00") -> bytes:
    head, body = encode_frame(performative, kind)
    return bytes(head + channel.to_bytes(2, "big") + body)


def sasl_init_anonymous(hostname: str) -> bytes:
    """Return the frame that authenticates as nobody: who it is, tokens tell later."""
    return _frame(0, SASLInit(mechanism=b"ANONYMOUS", initial_response=b"", hostname=hostname), b"\x01")


def open_frame(
    *,
    container_id: str,
    hostname: str,
    max_frame_size: int,
    channel_max: int,
    idle_timeout_ms: int | None,
    properties: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the frame that opens a connection."""
    performative = OpenFrame(
        container_id=container_id,
        hostname=hostname,
        max_frame_size=max_frame_size,
        channel_max=channel_max,
        idle_timeout=idle_timeout_ms,
        outgoing_locales=None,
        incoming_locales=None,
        offered_capabilities=None,
        desired_capabilities=None,
        properties=dict(properties or {}),
    )
    return _frame(0, performative)


def begin_frame(channel: int, *, next_outgoing_id: int, incoming_window: int, outgoing_window: int, handle_max: int) -> bytes:
    """Return the frame that begins an AMQP session on a channel."""
    performative = BeginFrame(
        remote_channel=None,
        next_outgoing_id=next_outgoing_id,
        incoming_window=incoming_window,
        outgoing_window=outgoing_window,
        handle_max=handle_max,
        offered_capabilities=None,
        desired_capabilities=None,
        properties=None,
    )
    return _frame(channel, performative)


def _attach(channel: int, **fields: Any) -> bytes:
    given: dict[str, Any] = dict.fromkeys(AttachFrame._fields)
    given.update(fields)
    return _frame(channel, AttachFrame(**given))


def attach_receiver(
    channel: int,
    *,
    name: str,
    handle: int,
    address: str,
    session_id: str | Absent | None = ABSENT,
    settle_second: bool = True,
    properties: Mapping[str, Any] | None = None,
    max_message_size: int | None = None,
) -> bytes:
    """Return the frame that attaches a link to receive by.

    Args:
        channel: Of the AMQP session.
        name: The link's, not used by another one of the connection's.
        handle: The link's number in the AMQP session.
        address: What to receive from.
        session_id: The session to lock, `None` for the next one that has messages, `ABSENT` for no session at all.
        settle_second: A disposition is answered by the peer's, which tells whether it took.
        properties: Of the link, such as ``com.microsoft:timeout`` (a `uint`).
        max_message_size: The largest message taken, in bytes.
    """
    filters = None if isinstance(session_id, Absent) else {SESSION_FILTER.encode(): session_id}
    return _attach(
        channel,
        name=name,
        handle=handle,
        role=True,
        send_settle_mode=_UNSETTLED,
        rcv_settle_mode=_SECOND if settle_second else _FIRST,
        source=Source(address=address, filters=filters),
        target=Target(address=f"receiver-link-{name}"),
        max_message_size=max_message_size,
        properties=dict(properties or {}),
    )


def attach_sender(
    channel: int, *, name: str, handle: int, address: str, properties: Mapping[str, Any] | None = None
) -> bytes:
    """Return the frame that attaches a link to send by, each message to be acknowledged."""
    return _attach(
        channel,
        name=name,
        handle=handle,
        role=False,
        send_settle_mode=_UNSETTLED,
        rcv_settle_mode=_FIRST,
        source=Source(address=f"sender-link-{name}"),
        target=Target(address=address),
        initial_delivery_count=0,
        properties=dict(properties or {}),
    )


#: The outcome that completes a message.
ACCEPTED = b"\x00\x53\x24\x45"
#: The outcome that gives a message back unseen, without counting the delivery.
RELEASED = b"\x00\x53\x26\x45"


def _outcome(outcome: Any) -> bytes:
    output = bytearray()
    encode_value(output, describe_performative(outcome))
    return bytes(output)


_ABANDONED = _outcome(Modified(delivery_failed=True, undeliverable_here=False))
_DEFERRED = _outcome(Modified(delivery_failed=True, undeliverable_here=True))


def abandoned() -> bytes:
    """Return the outcome that gives a message back, the delivery counted."""
    return _ABANDONED


def deferred() -> bytes:
    """Return the outcome that puts a message aside, to be received by its sequence number."""
    return _DEFERRED


def dead_lettered(reason: str | None, description: str | None) -> bytes:
    """Return the outcome that moves a message to the dead-letter queue."""
    info = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
    return _outcome(Rejected(error=AMQPError(condition=b"com.microsoft:dead-letter", description=description, info=info)))


# Messages


_SECTIONS = {name: b"\x00\x53" + bytes([code]) for name, code in (
    ("header", 0x70), ("annotations", 0x72), ("properties", 0x73), ("attributes", 0x74), ("data", 0x75), ("value", 0x77),
)}  # fmt: skip
_DOUBLE = struct.Struct(">Bd")


def _value(value: Any) -> bytes:
    # The usual types by hand: the SDK takes ten times as long.
    if value is None:
        return NULL
    kind = type(value)
    if kind is str:
        return sized(0xA1, value.encode())
    if kind is bool:
        return b"\x41" if value else b"\x42"
    if kind is float:
        return _DOUBLE.pack(0x82, value)
    output = bytearray()
    encode_value(output, value)
    return bytes(output)


def _map(key: int, entries: Mapping[Any, Any]) -> bytes:
    """Return a map whose keys are text (`key` is 0xA1) or symbols (0xA3)."""
    return compound(0xC1, [part for name, value in entries.items() for part in (sized(key, name.encode()), _value(value))])


def encode_message(message: AmqpMessage) -> bytes:
    """Return the message as a delivery's payload."""
    priority, message_id = message.priority, message.message_id
    parts: list[bytes] = []
    if message.durable is not None or priority is not None or message.ttl_ms is not None:
        ubyte = NULL if priority is None else bytes((0x50, priority))
        ttl = NULL if message.ttl_ms is None else _value(uint(message.ttl_ms))
        parts += (_SECTIONS["header"], fields_of((_value(message.durable), ubyte, ttl)))
    if message.annotations:
        parts += (_SECTIONS["annotations"], _map(0xA3, message.annotations))
    properties = fields_of((
        _id(message_id),
        NULL,
        _value(message.to),
        _value(message.subject),
        _value(message.reply_to),
        _id(message.correlation_id),
        NULL if message.content_type is None else sized(0xA3, message.content_type.encode()),
        NULL,
        NULL if message.absolute_expiry is None else _value(timestamp(message.absolute_expiry)),
        NULL if message.creation_time is None else _value(timestamp(message.creation_time)),
        _value(message.group_id),
        NULL,
        _value(message.reply_to_group_id),
    ))  # fmt: skip
    parts += (_SECTIONS["properties"], properties)
    if message.application_properties:
        parts += (_SECTIONS["attributes"], _map(0xA1, message.application_properties))
    if message.data is not None:
        parts += (_SECTIONS["data"], sized(0xA0, message.data))
    elif message.value is not None:
        parts += (_SECTIONS["value"], _value(message.value))
    return b"".join(parts)


def _id(value: Any) -> bytes:
    """Return an id: text, a UUID or bytes, or a number, which is a ``ulong`` here."""
    return _value({TYPE: AMQPTypes.ulong, VALUE: value} if isinstance(value, int) else value)


def encode_batch(encoded: Sequence[bytes]) -> bytes:
    """Return many encoded messages as the payload of one delivery of `BATCH_FORMAT`."""
    return b"".join(part for message in encoded for part in (_SECTIONS["data"], sized(0xA0, message)))


def encode_request(message_id: Any, reply_to: str, properties: Mapping[str, Any], body: Any) -> bytes:
    """Return a request to ``$cbs`` or ``$management``.

    Args:
        message_id: What the response's `Response.correlation_id` will be.
        reply_to: The address of the link that the response shall come by.
        properties: The application properties: ``operation``, ``type`` and so on.
        body: An AMQP value, not empty.
    """
    return encode_message(
        AmqpMessage(message_id=message_id, reply_to=reply_to, application_properties=dict(properties), value=body)
    )
