"""Messages as HTTP: one message as headers and body, and several messages as an envelope, a JSON array.

Both are the formats of Azure's REST API
(https://learn.microsoft.com/rest/api/servicebus/message-headers-and-properties). Client and gateway use both directions.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from operator import attrgetter
from typing import Any
from urllib.parse import quote, unquote

from ..errors import ValidationError
from ..messages import AttributeValue, Message, PeekedMessage, ReceivedMessage
from ..validation import MAX_BATCH
from .attributes import TYPES_HEADER, TYPES_NAME, from_json, to_headers, to_json
from .bounded_json import json_items, parse_json
from .dates import format_date, parse_rfc_1123

BROKER_PROPERTIES = "BrokerProperties"
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_to_json = json.JSONEncoder(separators=(",", ":")).encode

#: The text properties of every message by their name in ``BrokerProperties``.
_SENT_TEXTS = {
    "MessageId": "message_id",
    "SessionId": "session_id",
    "CorrelationId": "correlation_id",
    "Label": "subject",
    "ReplyTo": "reply_to",
    "ReplyToSessionId": "reply_to_session_id",
    "To": "to",
}
#: The text properties of a message from a server.
_TEXTS = {
    **_SENT_TEXTS,
    "DeadLetterReason": "dead_letter_reason",
    "DeadLetterErrorDescription": "dead_letter_description",
    "State": "state",
}
_sent_texts_of, _texts_of = attrgetter(*_SENT_TEXTS.values()), attrgetter(*_TEXTS.values())
#: The times by their name in ``BrokerProperties``.
_DATES = {"EnqueuedTimeUtc": "enqueued_at", "ScheduledEnqueueTimeUtc": "scheduled_enqueue_time"}
#: The whole numbers by their name in ``BrokerProperties``.
_NUMBERS = {"SequenceNumber": "sequence_number", "DeliveryCount": "delivery_count"}

#: Headers that servers, clients and proxies add. They are never attributes of a message.
_RESERVED = frozenset(
    """accept accept-charset accept-encoding accept-language accept-ranges age allow alt-svc authorization cache-control
    connection content-disposition content-encoding content-language content-length content-location content-md5
    content-range content-security-policy content-type cookie date etag expect expires forwarded from host if-match
    if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified link location max-forwards
    origin pragma proxy-authenticate proxy-authorization range referer retry-after server server-timing set-cookie
    strict-transport-security te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate
    brokerproperties""".split()
)
#: Response headers that nginx, Apache, lighttpd, LiteSpeed or Perlbal execute instead of passing them on.
_OBEYED = ("x-accel-", "x-sendfile", "x-lighttpd-", "x-litespeed-", "x-reproxy-")
_RESERVED_PREFIXES = ("azsession-", "x-ms-", "x-forwarded-", "sec-", "access-control-", "proxy-", *_OBEYED)
#: The longest time to live in seconds, as in Azure (.NET's `TimeSpan.MaxValue`).
_MAX_TIME_TO_LIVE = 922337203685
#: The most headers, and characters in them, of one message. A message with more is sent in an envelope.
MAX_HEADERS, MAX_HEADER_SIZE = 64, 32768
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z"


class MalformedError(ValueError):
    """The bytes are not a message. The gateway responds with 400, the client raises `ProviderError`."""


class BatchTooLargeError(MalformedError):
    """The envelope has more than `MAX_BATCH` messages."""


def parse_date(text: str) -> datetime:
    """Return the time of an RFC 1123 or ISO 8601 date. Without a time zone it is UTC.

    Raises:
        MalformedError: It is not such a date.
    """
    try:
        if len(text) == 29 and text.endswith(" GMT"):
            return parse_rfc_1123(text)
        # Python 3.10 parses neither "Z" nor more than six decimals.
        iso = re.sub(r"(\.\d{6})\d+", r"\1", text.strip().replace("Z", "+00:00"))
        iso = re.sub(r"\.(\d{1,5})(?=[+-]|$)", lambda match: "." + match[1].ljust(6, "0"), iso)
        instant = datetime.fromisoformat(iso)
        return instant.replace(tzinfo=timezone.utc) if instant.tzinfo is None else instant.astimezone(timezone.utc)
    except (ValueError, KeyError, OverflowError):
        raise MalformedError(f"{text[:40]!r} is not a date in RFC 1123 or ISO 8601") from None


def _broker_properties(message: Message | PeekedMessage) -> str:
    """Return the properties as a JSON object.

    Its text is put together here. The encoder of `json` takes twice as long for so small an object.
    """
    named, values_of = (_TEXTS, _texts_of) if isinstance(message, PeekedMessage) else (_SENT_TEXTS, _sent_texts_of)
    members = [f'"{name}":{_to_json(text)}' for name, text in zip(named, values_of(message), strict=True) if text is not None]
    if message.time_to_live is not None:
        members.append(f'"TimeToLive":{_to_json(message.time_to_live.total_seconds())}')
    if message.scheduled_enqueue_time is not None:
        # ISO 8601: RFC 1123 has no fractions of a second, and the message must not become available too early.
        members.append(f'"ScheduledEnqueueTimeUtc":"{message.scheduled_enqueue_time.isoformat().replace("+00:00", "Z")}"')
    if isinstance(message, PeekedMessage):
        members.append(f'"SequenceNumber":{message.sequence_number or "null"},"DeliveryCount":{message.delivery_count}')
        if message.enqueued_at is not None:
            members.append(f'"EnqueuedTimeUtc":"{format_date(message.enqueued_at)}"')
        if isinstance(message, ReceivedMessage):
            members.append(f'"LockToken":{_to_json(message.receipt.handle)}')
            if message.receipt.expires_at is not None:
                members.append(f'"LockedUntilUtc":"{format_date(message.receipt.expires_at)}"')
    return f"{{{','.join(members)}}}"


def _attribute_name(name: str) -> str:
    encoded = quote(name, safe="!#$&'*+-.^_`|~")
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
        encoded = f"%{ord(name[0]):02x}{encoded[1:]}"
    # Servers and proxies may change the case of a header's name. A percent code means the same in both cases.
    return re.sub(r"%..|[A-Z]", lambda match: match[0] if match[0][0] == "%" else f"%{ord(match[0]):02x}", encoded)


def encode_single(message: PeekedMessage) -> tuple[dict[str, str], bytes]:
    """Return one message as headers and body.

    The name of an attribute is percent-encoded if it cannot be a header name or is a reserved one. Its upper-case letters are
    percent-encoded, too, because the names of headers have no case. An attribute with an empty name is left out: a header
    needs a name. azsession does not send such an attribute, but other programs can.
    """
    headers = {BROKER_PROPERTIES: _broker_properties(message)}
    if message.content_type is not None:
        headers["Content-Type"] = _header_text(message.content_type)
    attributes, types = to_headers(message.attributes)
    headers.update((_attribute_name(name), json.dumps(value)) for name, value in attributes.items())
    if types:
        headers[TYPES_HEADER] = _to_json(types)
    return headers, message.body


def fits_headers(headers: Mapping[str, str]) -> bool:
    """Return whether all HTTP clients can read these headers. Python's reads at most 100, each up to 64 KB."""
    return len(headers) <= MAX_HEADERS and sum(map(len, headers.values())) + sum(map(len, headers)) <= MAX_HEADER_SIZE


def _header_text(text: str) -> str:
    """Return a content type, or the default one if `text` cannot be a header: it could inject other headers."""
    return text if text.isascii() and text.isprintable() else DEFAULT_CONTENT_TYPE


def decode_single(headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """Return the fields of the message in `headers` and `body`, with ``lock_token`` if it has one.

    Raises:
        MalformedError: A property is malformed.
    """
    properties: Any = {}
    content_type: str | None = None
    attributes: dict[str, AttributeValue] = {}
    types: Any = {}
    for name, value in headers:
        lowered = name.lower()
        if lowered == "brokerproperties":
            properties = _load_json(value, BROKER_PROPERTIES)
        elif lowered == TYPES_HEADER.lower():
            types = _load_json(value, TYPES_HEADER)
        elif lowered == "content-type":
            content_type = value
        elif lowered not in _RESERVED and not lowered.startswith(_RESERVED_PREFIXES):
            attribute = _parse_attribute(value)
            if attribute is not None:
                attributes[unquote(name)] = attribute
    return _fields(properties, _typed(attributes, types, TYPES_HEADER), body, content_type)


def _typed(attributes: dict[str, Any], types: Any, name: str) -> dict[str, Any]:
    if not types:
        return attributes
    if not isinstance(types, dict):
        raise MalformedError(f"{name} must be a JSON object")
    try:
        return from_json(attributes, types)
    except ValueError as error:
        raise MalformedError(str(error)) from None


def _parse_attribute(value: str) -> AttributeValue | None:
    """Return the value in an attribute's header, or `None` if it is not one. Strings are quoted, other values are not."""
    value = value.strip()
    if value in ("true", "false"):
        return value == "true"
    if (value.startswith('"') and value.endswith('"')) or re.match(_NUMBER, value):
        try:
            parsed = parse_json(value)
        except (ValueError, RecursionError):
            # A quoted text that is not valid JSON, or a number with too many digits.
            return value[1:-1] if value.startswith('"') and len(value) > 1 else None
        return parsed if isinstance(parsed, (str, int, float)) else None
    return None


def encode_envelope(messages: Iterable[Message | PeekedMessage]) -> bytes:
    """Return messages as an envelope."""
    return b"".join(envelope_pieces(messages))


def envelope_pieces(messages: Iterable[Message | PeekedMessage]) -> Iterator[bytes]:
    """Return messages as the pieces of an envelope. Each piece has one message at most."""
    before = b"["
    for message in messages:
        yield before + encode_item(message)
        before = b","
    yield b"]" if before == b"," else b"[]"


def encode_item(message: Message | PeekedMessage) -> bytes:
    """Return one message as an element of an envelope."""
    try:
        members = [f'"Body":{_to_json(message.body.decode())}']
    except UnicodeDecodeError:
        members = [f'"Body":"{base64.b64encode(message.body).decode()}","BodyEncoding":"base64"']
    if message.content_type is not None:
        members.append(f'"ContentType":{_to_json(message.content_type)}')
    members.append(f'"BrokerProperties":{_broker_properties(message)}')
    if message.attributes:
        attributes, types = to_json(message.attributes)
        members.append(f'"UserProperties":{_to_json(attributes)}')
        if types:
            members.append(f'"{TYPES_NAME}":{_to_json(types)}')
    return f"{{{','.join(members)}}}".encode()


def decode_envelope(data: bytes) -> list[dict[str, Any]]:
    """Return the fields of each message in an envelope, with ``lock_token`` if it has one.

    Raises:
        BatchTooLargeError: The envelope has more than `MAX_BATCH` messages.
        MalformedError: The bytes are not an envelope, or a message in it is malformed.
    """
    return [decode_item(item) for item in envelope_items(data)]


def envelope_items(data: bytes) -> Iterator[Any]:
    """Return the elements of an envelope one by one, for `decode_item`.

    Raises:
        BatchTooLargeError: The envelope has more than `MAX_BATCH` messages.
        MalformedError: The bytes are not an envelope.
    """
    try:
        for number, item in enumerate(json_items(data), 1):
            if number > MAX_BATCH:
                raise BatchTooLargeError(f"an envelope has at most {MAX_BATCH} messages, this one has more")
            yield item
    except MalformedError:
        raise
    except (ValueError, RecursionError):
        raise MalformedError("the envelope is not a valid JSON array") from None


def base64_size(item: Any) -> int:
    """Return the size in bytes of the body of an element of an envelope, if the body is base64; else 0."""
    body = item.get("Body") if isinstance(item, dict) and item.get("BodyEncoding") == "base64" else None
    return len(body) * 3 // 4 - body.count("=", -2) if isinstance(body, str) else 0


def decode_item(item: Any) -> dict[str, Any]:
    """Return the fields of the message in an element of an envelope, with ``lock_token`` if it has one.

    Raises:
        MalformedError: The message is malformed.
    """
    body = item.get("Body", "") if isinstance(item, dict) else None
    if not isinstance(body, str):
        raise MalformedError('each message of an envelope must be an object whose "Body" is text')
    try:
        data = base64.b64decode(body, validate=True) if item.get("BodyEncoding") == "base64" else body.encode()
    except ValueError:
        raise MalformedError('"Body" must be valid text, or valid base64 if "BodyEncoding" is "base64"') from None
    attributes = item.get("UserProperties") or {}
    if not isinstance(attributes, dict):
        raise MalformedError('"UserProperties" must be an object')
    attributes = _typed(attributes, item.get(TYPES_NAME), TYPES_NAME)
    return _fields(item.get("BrokerProperties") or {}, attributes, data, item.get("ContentType"))


def _load_json(data: str | bytes, name: str) -> Any:
    try:
        return parse_json(data)
    except (ValueError, RecursionError):
        raise MalformedError(f"{name} is not valid JSON") from None


def _fields(properties: Any, attributes: dict[str, Any], body: bytes, content_type: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise MalformedError("BrokerProperties must be a JSON object")
    _check_content_type(content_type)
    fields: dict[str, Any] = {"body": body, "content_type": content_type, "attributes": attributes}
    for wire_name, value in properties.items():
        if value is None:
            continue
        if wire_name in _TEXTS:
            if not isinstance(value, str):
                raise MalformedError(f"{wire_name} must be text")
            fields[_TEXTS[wire_name]] = value
        elif wire_name in _NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool):
                raise MalformedError(f"{wire_name} must be a whole number")
            fields[_NUMBERS[wire_name]] = value
        elif wire_name in _DATES:
            if not isinstance(value, str):
                raise MalformedError(f"{wire_name} must be a date")
            fields[_DATES[wire_name]] = parse_date(value)
        elif wire_name == "TimeToLive":
            fields["time_to_live"] = _time_to_live(value)
        elif wire_name == "LockToken":
            fields["lock_token"] = value
    return fields


def _check_content_type(content_type: Any) -> None:
    if content_type is not None and not isinstance(content_type, str):
        raise MalformedError("a content type must be text")


def _time_to_live(value: Any) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MalformedError("TimeToLive must be a number of seconds")
    if value != value:
        raise MalformedError("TimeToLive must be a number of seconds, not NaN")
    return timedelta(seconds=max(0, min(value, _MAX_TIME_TO_LIVE)))


#: The fields that only the server sets. They are ignored in a message to send.
_SERVER_FIELDS = (
    "sequence_number",
    "delivery_count",
    "enqueued_at",
    "dead_letter_reason",
    "dead_letter_description",
    "state",
    "lock_token",
)


def message_to_send(fields: dict[str, Any]) -> Message:
    """Return the message to send from its decoded fields, which it changes.

    Raises:
        ValidationError: A field has a wrong type or is out of its range.
    """
    for name in _SERVER_FIELDS:
        fields.pop(name, None)
    if fields.get("time_to_live") is not None and fields["time_to_live"] <= timedelta(0):
        raise ValidationError("TimeToLive must be more than 0 seconds")
    return Message(**fields)


def json_object(data: bytes, name: str = "the body") -> Mapping[str, Any]:
    """Return the JSON object in a body. An empty body is an empty object. Errors call the body `name`.

    Raises:
        MalformedError: The body is not a JSON object.
    """
    if not data:
        return {}
    value = _load_json(data, name)
    if not isinstance(value, dict):
        raise MalformedError(f"{name} must be a JSON object")
    return value
