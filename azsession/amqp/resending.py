"""Makes a received message ready to be sent again. The sender's parts stay the same, byte by byte (AMQP 1.0 §3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .decoding import NONSENSE, exactly
from .encoding import NULL, compound, descriptor, encode_value
from .message import ANNOTATIONS, APPLICATION_PROPERTIES, DELIVERY_ANNOTATIONS, HEADER, PROPERTIES, encode_header
from .sections import BROKERS_ANNOTATIONS, each_section, pairs_without, parts_of
from .types import MalformedFrameError, Timestamp

#: The annotations that Service Bus adds. A sender's own scheduled time is over.
_ADDED_ANNOTATIONS = BROKERS_ANNOTATIONS | {"x-opt-scheduled-enqueue-time"}
#: The application properties that dead-lettering adds.
_ADDED_PROPERTIES = frozenset({"DeadLetterReason", "DeadLetterErrorDescription"})
#: The fields of the section "properties" with the expiry and the creation time, in milliseconds since 1970 (§3.2.4).
_EXPIRY, _CREATED = 8, 9


def resent(payload: bytes, now_ms: int) -> bytes:
    """Return the payload that sends a received message again.

    The delivery count is left out, and so are the parts that Service Bus and dead-lettering added. An absolute expiry in the
    past is moved, so that the message lives as long again. Everything else stays the same.

    Args:
        payload: The message.
        now_ms: The present, in milliseconds since 1970.

    Raises:
        MalformedFrameError: The payload is not an AMQP 1.0 message.
    """
    try:
        return b"".join(_resent(payload, now_ms))
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error


def _resent(buf: bytes, now_ms: int) -> Iterator[bytes]:
    for section, start, value, end, content in each_section(buf):
        if section == HEADER:
            yield _header(content or [])
        elif section == ANNOTATIONS:
            yield _map_without(buf, section, value, _ADDED_ANNOTATIONS)
        elif section == APPLICATION_PROPERTIES and not _ADDED_PROPERTIES.isdisjoint(content or {}):
            yield _map_without(buf, section, value, _ADDED_PROPERTIES)
        elif section == PROPERTIES and _is_over(content or [], now_ms):
            yield _renewed(buf, value, content, now_ms)
        elif section != DELIVERY_ANNOTATIONS:
            yield buf[start:end]


def _map_without(buf: bytes, section: int, value: int, removed: frozenset[str]) -> bytes:
    """Return a section with a map without some keys."""
    kept = pairs_without(buf, value, removed)
    return descriptor(section) + compound(0xC1, kept) if kept else b""


def _header(fields: list[Any]) -> bytes:
    """Return the header with its durability, priority and time to live."""
    durable, priority, ttl, _, _ = exactly(fields, 5)
    return encode_header(durable, priority, ttl)


def _is_over(properties: list[Any], now_ms: int) -> bool:
    expiry = properties[_EXPIRY] if len(properties) > _EXPIRY else None
    return isinstance(expiry, int) and expiry <= now_ms


def _renewed(buf: bytes, value: int, properties: list[Any], now_ms: int) -> bytes:
    """Return the section "properties" with an expiry that is as long after now as it was after the message's creation."""
    parts = parts_of(buf, value)
    created = properties[_CREATED] if len(properties) > _CREATED else None
    if isinstance(created, int):
        parts[_EXPIRY] = encode_value(Timestamp(now_ms + max(0, properties[_EXPIRY] - created)))
        parts[_CREATED] = encode_value(Timestamp(now_ms))
    else:
        parts[_EXPIRY] = NULL
    return descriptor(PROPERTIES) + compound(0xC0, parts)
