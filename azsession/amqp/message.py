"""What arrives: AMQP 1.0's messages (3.2 of the standard) as Python values. `codec` hands this on to the other rooms."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .values import NONSENSE, READERS, Described, MalformedFrameError, exactly, read_descriptor


class AmqpMessage(NamedTuple):
    """A message of AMQP: what of its sections (3.2) Service Bus uses.

    Ids are text, numbers, UUIDs or bytes, as the sender liked. Times are milliseconds since 1970.
    `data` holds its data sections, joined; a body of another kind is in `value`.
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
        """The body as bytes: data as it is, an AMQP value that is text as UTF-8, one that is binary as it is, any other as
        JSON; a sequence is JSON too, a list."""
        if self.data is not None:
            return self.data
        return as_bytes(self.value)


class Response(NamedTuple):
    """What ``$cbs`` or ``$management`` answered to the request whose id is `correlation_id`."""

    correlation_id: Any
    status: int
    description: str
    condition: str | None
    body: Any


def as_bytes(value: Any) -> bytes:
    """Return an AMQP value as a message's body: see `AmqpMessage.body`."""
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


def decode_message(payload: bytes | memoryview) -> AmqpMessage:
    """Return a message: the payload of one delivery, whole.

    Raises:
        MalformedFrameError: It is not a message of AMQP 1.0.
    """
    buf = bytes(payload)
    try:
        return _message(buf)
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error


_SECTION_TYPES: dict[int, Any] = {0x70: list, 0x72: dict, 0x73: list, 0x74: dict, 0x75: bytes, 0x76: list}


def _message(buf: bytes) -> AmqpMessage:
    header: list[Any] = []
    properties: list[Any] = []
    annotations: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    data: list[bytes] = []
    sequences: list[list[Any]] = []
    value: Any = None
    pos, end = 0, len(buf)
    while pos < end:
        if buf[pos] == 0 and buf[pos + 1] == 0x53:
            section, pos = buf[pos + 2], pos + 3
        else:
            section, pos = read_descriptor(buf, pos)
        content, pos = READERS[buf[pos]](buf, pos + 1, 0)
        kind = _SECTION_TYPES.get(section)
        if kind is not None and not isinstance(content, kind):
            if content is None:
                continue
            raise MalformedFrameError(f"section 0x{section:02x} is a {type(content).__name__}")
        if section == 0x75:
            data.append(content)
        elif section == 0x74:
            attributes = content
        elif section == 0x73:
            properties = content
        elif section == 0x72:
            annotations = content
        elif section == 0x70:
            header = content
        elif section == 0x77:
            value = content
        elif section == 0x76:
            sequences.append(content)
    if sequences:
        value = [item for sequence in sequences for item in sequence]
    durable, priority, ttl, _, count = exactly(header, 5)
    (
        message_id, _, to, subject, reply_to, correlation_id, content_type, _, expiry, created, group, _, reply_group
    ) = exactly(properties, 13)  # fmt: skip
    return AmqpMessage(
        durable,
        priority,
        ttl,
        count or 0,
        annotations,
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
        attributes,
        data[0] if len(data) == 1 else b"".join(data) if data else None,
        value,
    )


def decode_response(payload: bytes | memoryview) -> Response:
    """Return what ``$cbs`` or ``$management`` answered; each has its own spelling of the same names."""
    message = decode_message(payload)
    given = message.application_properties

    def either(one: str, other: str) -> Any:
        return given.get(one, given.get(other))

    status, condition = either("statusCode", "status-code"), either("errorCondition", "error-condition")
    if not isinstance(status, int):
        raise MalformedFrameError("a response has no status")
    description = either("statusDescription", "status-description")
    body = message.data if message.data is not None else message.value
    return Response(
        message.correlation_id, status, str(description or ""), None if condition is None else str(condition), body
    )
