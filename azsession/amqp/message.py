"""AMQP 1.0 messages as bytes and back (AMQP 1.0 §3.2): the payload of one delivery.

`broker.azure` and `management` encode and decode messages with this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .decoding import NONSENSE, READERS, exactly, read_descriptor
from .encoding import NULL, descriptor, encode_value, fields_of, sized, string, string_map, symbol_map, ubyte
from .types import Described, MalformedFrameError, Timestamp, Uint, Ulong

#: Descriptors of a message's sections (§3.2).
HEADER, ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES = 0x70, 0x72, 0x73, 0x74
DATA, _SEQUENCE, _VALUE = 0x75, 0x76, 0x77
#: The section for the next hop only (§3.2.2). Nothing in it is used here.
DELIVERY_ANNOTATIONS = 0x71
_SECTION_TYPES: dict[int, Any] = {
    HEADER: list,
    ANNOTATIONS: dict,
    PROPERTIES: list,
    APPLICATION_PROPERTIES: dict,
    DATA: bytes,
    _SEQUENCE: list,
}
_PREFIXES = {code: descriptor(code) for code in (*_SECTION_TYPES, _VALUE)}
#: The section of a body that is null.
NULL_BODY = _PREFIXES[_VALUE] + NULL


class AmqpMessage(NamedTuple):
    """The parts of an AMQP message that Service Bus uses.

    Ids are strings, numbers, UUIDs or binary, as the sender chose. Times are in milliseconds since 1970. `data` holds the
    data sections, joined. A body of another kind is in `value`.
    """

    durable: bool | None = None
    priority: int | None = None
    ttl_ms: int | None = None
    delivery_count: int = 0
    annotations: dict[str, Any] = {}  # noqa: RUF012
    message_id: Any = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: Any = None
    content_type: str | None = None
    absolute_expiry: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    reply_to_group_id: str | None = None
    application_properties: dict[str, Any] = {}  # noqa: RUF012
    data: bytes | None = None
    value: Any = None

    @property
    def body(self) -> bytes:
        """The body as bytes: data sections as they are, another body as `as_bytes` returns it."""
        if self.data is not None:
            return self.data
        return as_bytes(self.value)


def as_bytes(value: Any) -> bytes:
    """Return an AMQP value as a message body: binary unchanged, a string as UTF-8, null as no bytes, the rest as JSON."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    if isinstance(value, Described):
        return _plain(value.value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


# Encoding


def encode_message(message: AmqpMessage) -> bytes:
    """Return the message as the payload of one delivery.

    Raises:
        TypeError: A property or the body has a type that AMQP does not have.
        ValueError: A property does not fit its AMQP type.
    """
    parts: list[bytes] = []
    if message.durable is not None or message.priority is not None or message.ttl_ms is not None:
        parts.append(encode_header(message.durable, message.priority, message.ttl_ms))
    if message.annotations:
        parts += (_PREFIXES[ANNOTATIONS], symbol_map(message.annotations))
    parts += (_PREFIXES[PROPERTIES], _properties(message))
    if message.application_properties:
        parts += (_PREFIXES[APPLICATION_PROPERTIES], string_map(message.application_properties))
    if message.data is not None:
        parts += (_PREFIXES[DATA], sized(0xA0, message.data))
    elif message.value is not None:
        parts += (_PREFIXES[_VALUE], encode_value(message.value))
    return b"".join(parts)


def encode_header(durable: bool | None, priority: int | None, ttl_ms: int | None) -> bytes:
    """Return the section "header" (§3.2.1) without a delivery count."""
    level = NULL if priority is None else ubyte(priority)
    ttl = NULL if ttl_ms is None else encode_value(Uint(ttl_ms))
    return _PREFIXES[HEADER] + fields_of((encode_value(durable), level, ttl))


def _properties(message: AmqpMessage) -> bytes:
    """Return the list of the section "properties" (§3.2.4)."""
    return fields_of((
        _id(message.message_id),
        NULL,
        string(message.to),
        string(message.subject),
        string(message.reply_to),
        _id(message.correlation_id),
        NULL if message.content_type is None else sized(0xA3, message.content_type.encode()),
        NULL,
        NULL if message.absolute_expiry is None else encode_value(Timestamp(message.absolute_expiry)),
        NULL if message.creation_time is None else encode_value(Timestamp(message.creation_time)),
        string(message.group_id),
        NULL,
        string(message.reply_to_group_id),
    ))  # fmt: skip


def _id(value: Any) -> bytes:
    """Return a message or correlation id; a number is a ulong here (§3.2.11)."""
    return encode_value(Ulong(value) if isinstance(value, int) else value)


def encode_batch(encoded: Sequence[bytes], envelope: AmqpMessage = AmqpMessage()) -> bytes:  # noqa: B008
    """Return many encoded messages as the payload of one delivery of the format `frames.BATCH_FORMAT`.

    Args:
        encoded: The messages.
        envelope: The batch's own sections; its body is not used.
    """
    parts = []
    if envelope.annotations:
        parts += [_PREFIXES[ANNOTATIONS], symbol_map(envelope.annotations)]
    if envelope.message_id is not None or envelope.group_id is not None:
        parts += [_PREFIXES[PROPERTIES], _properties(envelope)]
    for message in encoded:
        parts += [_PREFIXES[DATA], sized(0xA0, message)]
    return b"".join(parts)


# Decoding


def decode_message(payload: bytes | memoryview) -> AmqpMessage:
    """Return the message in the whole payload of one delivery.

    Raises:
        MalformedFrameError: The payload is not an AMQP 1.0 message.
    """
    buf = bytes(payload)
    try:
        return _message(buf)
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error


def _message(buf: bytes) -> AmqpMessage:
    sections: dict[int, Any] = {}
    data: list[bytes] = []
    sequences: list[list[Any]] = []
    pos, end = 0, len(buf)
    while pos < end:
        if buf[pos] == 0 and buf[pos + 1] == 0x53:
            section, pos = buf[pos + 2], pos + 3  # A shortcut for descriptors below 256.
        else:
            section, pos = read_descriptor(buf, pos)
        code = buf[pos]
        if section == HEADER and code == 0xC0:
            start, pos = pos, pos + 2 + buf[pos + 1]
            sections[section] = _short_header(buf[start:pos])
            continue
        if section == DELIVERY_ANNOTATIONS and code == 0xC1:
            # Azure puts the lock token there, which the delivery tag has, too. Decoding it would take a tenth of the time.
            pos += 2 + buf[pos + 1]
            continue
        content, pos = READERS[code](buf, pos + 1, 0)
        if section == DATA and type(content) is bytes:
            data.append(content)
            continue
        kind = _SECTION_TYPES.get(section)
        if kind is not None and not isinstance(content, kind):
            if content is None:
                continue
            raise MalformedFrameError(f"section 0x{section:02x} is a {type(content).__name__}, not a {kind.__name__}")
        if section == _SEQUENCE:
            sequences.append(content)
        else:
            sections[section] = content
    if pos > end:
        raise MalformedFrameError("a section ends behind the message")
    value = [item for sequence in sequences for item in sequence] if sequences else sections.get(_VALUE)
    return _assembled(sections, data[0] if len(data) == 1 else b"".join(data) if data else None, value)


@lru_cache(256)
def _short_header(encoded: bytes) -> Sequence[Any]:
    """Return the fields of a header. Most messages of a queue have the same one."""
    return tuple(exactly(READERS[encoded[0]](encoded, 1, 0)[0], 5))


def _assembled(sections: Mapping[int, Any], data: bytes | None, value: Any) -> AmqpMessage:
    """Return the message that has these sections, and this body."""
    durable, priority, ttl, _, count = exactly(sections.get(HEADER, ()), 5)
    (
        message_id, _, to, subject, reply_to, correlation_id, content_type, _, expiry, created, group, _, reply_group
    ) = exactly(sections.get(PROPERTIES, ()), 13)  # fmt: skip
    return AmqpMessage(
        durable,
        priority,
        ttl,
        count or 0,
        sections.get(ANNOTATIONS, {}),
        message_id,
        to,
        subject,
        reply_to,
        correlation_id,
        content_type,
        expiry,
        created,
        group,
        reply_group,
        sections.get(APPLICATION_PROPERTIES, {}),
        data,
        value,
    )
