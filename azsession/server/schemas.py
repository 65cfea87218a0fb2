"""The parts of the protocol's description in OpenAPI: parameters, headers and bodies, in JSON Schema. For `openapi`."""

from __future__ import annotations

from typing import Any

from ..protocol import (
    COUNT_HEADER,
    ERROR_CODE_HEADER,
    JSON_TYPE,
    LOCK_EXPIRES_HEADER,
    LOCK_HELD_HEADER,
    LOCK_ID_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    REQUEST_ID_HEADER,
    ROUTE_HEADER,
    WAITED_HEADER,
)
from ..protocol.error_codes import STATUS_OF
from ..validation import (
    MAX_BATCH,
    MAX_LOCK_TOKEN_LENGTH,
    MAX_MESSAGE_ID_LENGTH,
    MAX_QUEUE_NAME_LENGTH,
    MAX_REASON_LENGTH,
    MAX_SEQUENCE_NUMBER,
    MAX_SESSION_ID_LENGTH,
)
from .request import DEFAULT_TIMEOUT, IDENTIFIER, MAX_TIMEOUT

#: A body that is bytes, whatever they are.
ANY_BYTES: dict[str, Any] = {"schema": {}}
#: Headers of what takes a lock, and of an envelope.
LOCKED = (LOCK_EXPIRES_HEADER, WAITED_HEADER)
COUNTED = (COUNT_HEADER,)


def _text(highest: int | None = None, lowest: int = 0, **more: Any) -> dict[str, Any]:
    length: dict[str, Any] = {} if highest is None else {"maxLength": highest}
    if lowest:
        length["minLength"] = lowest
    return {"type": "string", **length, **more}


def _number(lowest: int, highest: int = MAX_SEQUENCE_NUMBER, **more: Any) -> dict[str, Any]:
    return {"type": "integer", "minimum": lowest, "maximum": highest, **more}


def _object(properties: dict[str, Any], required: tuple[str, ...] = (), *, closed: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        found["required"] = list(required)
    if closed:
        found["additionalProperties"] = False
    return found


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what may be null as well, which is the same as left out."""
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: dict[str, Any], lowest: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": lowest, "maxItems": MAX_BATCH}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_SEGMENT = r"[A-Za-z0-9._-]+"
_ENTITY = _text(MAX_QUEUE_NAME_LENGTH, 1, pattern=rf"^{_SEGMENT}(/[Ss]ubscriptions/{_SEGMENT})?$")
_SESSION_ID = _text(MAX_SESSION_ID_LENGTH, 1, pattern=r"^[^\u0000-\u001f\u007f-\u009f]+$", **{"not": {"enum": [".", ".."]}})
_TOKEN = _text(MAX_LOCK_TOKEN_LENGTH, 1)
_REASON = _maybe(_text(MAX_REASON_LENGTH))
_DATE = {"type": "string", "description": "RFC 1123; a sender's may be ISO 8601."}
_DURATION = {"type": "string", "description": "ISO 8601, of days, hours, minutes and seconds.", "examples": ["PT30S", "P1D"]}
_FLAG = {"type": "boolean"}

#: What a sender says about a message.
_SENT_PROPERTIES = {
    "SessionId": _maybe(_SESSION_ID),
    "MessageId": _maybe(_text(MAX_MESSAGE_ID_LENGTH)),
    "CorrelationId": _maybe(_text(MAX_MESSAGE_ID_LENGTH)),
    "Label": _maybe(_text(4096)),
    "To": _maybe(_text(4096)),
    "ReplyTo": _maybe(_text(4096)),
    "ReplyToSessionId": _maybe(_text(MAX_SESSION_ID_LENGTH)),
    "TimeToLive": _maybe({"type": "number", "exclusiveMinimum": 0, "description": "Seconds."}),
    "ScheduledEnqueueTimeUtc": _maybe(_DATE),
}
#: What a server says besides.
_SERVER_PROPERTIES = {
    "LockToken": _TOKEN,
    "SequenceNumber": _maybe(_number(0)),
    "DeliveryCount": _number(0),
    "EnqueuedTimeUtc": _DATE,
    "LockedUntilUtc": _DATE,
    "State": {"enum": ["Active", "Deferred", "Scheduled", "DeadLettered"]},
    "DeadLetterReason": _text(),
    "DeadLetterErrorDescription": _text(),
}
_ATTRIBUTES = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
    "description": "The attributes. Whole numbers have 64 bits.",
}


def _item(properties: str) -> dict[str, Any]:
    return _object(
        {
            "Body": _text(description="Text, or base64 where BodyEncoding says so."),
            "BodyEncoding": {"const": "base64"},
            "ContentType": _maybe(_text(256)),
            "BrokerProperties": _ref(properties),
            "UserProperties": _ATTRIBUTES,
        },
        ("BrokerProperties",),
    )


_SETTINGS = {
    "LockDuration": _DURATION,
    "MaxDeliveryCount": _number(1, 2000),
    "DefaultMessageTimeToLive": _DURATION,
    "DeadLetteringOnMessageExpiration": _FLAG,
    "RequiresDuplicateDetection": _FLAG,
    "DuplicateDetectionHistoryTimeWindow": _DURATION,
    "RequiresSession": {"const": True},
}
_COUNTS = {"MessageCount": _number(0), "DeadLetterMessageCount": _number(0)}

SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "code": {"enum": list(STATUS_OF)},
                    "message": _text(lowest=1),
                    "size": _number(0),
                    "limit": _number(0),
                    "maybeDelivered": _FLAG,
                },
                ("code", "message"),
            )
        },
        ("error",),
    ),
    "SentProperties": _object(_SENT_PROPERTIES, ("SessionId",)),
    "BrokerProperties": _object({**_SENT_PROPERTIES, **_SERVER_PROPERTIES}),
    "Sent": _list(_item("SentProperties"), 1),
    "Envelope": _list(_item("BrokerProperties")),
    "Reason": _object({"DeadLetterReason": _REASON, "DeadLetterErrorDescription": _REASON}),
    "Settlements": _object(
        {
            **{name: _list(_TOKEN) for name in ("complete", "abandon", "defer")},
            "deadletter": _list(
                _object(
                    {"LockToken": _TOKEN, "DeadLetterReason": _REASON, "DeadLetterErrorDescription": _REASON}, ("LockToken",)
                )
            ),
        },
        closed=True,
    ),
    "Failed": _object(
        # The token as it was given, whatever that was.
        {
            "failed": _list(
                _object({"LockToken": _text(MAX_LOCK_TOKEN_LENGTH), "code": {"enum": list(STATUS_OF)}}, ("LockToken", "code"))
            )
        },
        ("failed",),
    ),
    "SequenceNumbers": _object({"SequenceNumbers": _list(_number(1), 1)}, ("SequenceNumbers",)),
    "Moved": _object({"count": _number(0)}, ("count",)),
    "Wanted": _object({"SessionId": _maybe(_SESSION_ID)}),
    "Accepted": _object({"SessionId": _SESSION_ID}, ("SessionId",)),
    "Session": _object(
        {"SessionId": _text(), "MessageCount": _maybe(_number(0)), "LockedUntilUtc": _DATE}, ("SessionId", "MessageCount")
    ),
    "Sessions": _object({"sessions": _list(_ref("Session"))}, ("sessions",)),
    "Settings": _object({name: _maybe(schema) for name, schema in _SETTINGS.items()}),
    "Queue": _object(
        {"QueueName": _ENTITY, **_SETTINGS, **_COUNTS}, ("QueueName", "LockDuration", "MaxDeliveryCount"), closed=True
    ),
    "Queues": _object({"queues": {"type": "array", "items": _ref("Queue")}}, ("queues",)),
    "Health": _object({"status": {"const": "ok"}}, ("status",)),
}


def _in_query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _in_path(name: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _in_header(name: str, pattern: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": {"type": "string", "pattern": pattern}, "description": description}


def _most(default: int) -> dict[str, Any]:
    return _in_query("max", _number(1, MAX_BATCH, default=default), "How many at the most.")


_SECONDS = {"type": "number", "minimum": 0, "maximum": MAX_TIMEOUT, "default": DEFAULT_TIMEOUT}
_ONE_MANY = "How many at the most, in an envelope. Without it one comes, in the form of its own if it fits headers."

PARAMETERS: dict[str, Any] = {
    "entity": _in_path("entity", _ENTITY, "orders"),
    "sid": _in_path("sid", _SESSION_ID, "order-42"),
    "token": _in_path("token", _TOKEN, "6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"),
    "number": _in_path("number", _number(0), 7),
    "timeout": _in_query("timeout", _SECONDS, "Seconds to wait, with up to nine decimals."),
    "maxReceived": _in_query("max", _number(1, MAX_BATCH), _ONE_MANY),
    "maxShown": _most(10),
    "maxListed": _most(100),
    "from": _in_query("from", _number(0, default=0), "The sequence number to begin at."),
    "after": _in_query("after", _SESSION_ID, "The session id to begin behind."),
    LOCK_ID_HEADER: _in_header(LOCK_ID_HEADER, f"^{IDENTIFIER}$", "Who holds the session; all without it are one holder."),
    LOCK_HELD_HEADER: _in_header(
        LOCK_HELD_HEADER, "^[01]$", "1: the caller has the lock, as it was told; it must not get it anew."
    ),
    ROUTE_HEADER: _in_header(ROUTE_HEADER, "^[A-Za-z0-9-]{0,64}$", "Which of several gateways; for what balances."),
    REQUEST_ID_HEADER: _in_header(REQUEST_ID_HEADER, f"^{IDENTIFIER}$", "The same in a call's retries."),
    "BrokerProperties": {
        "name": "BrokerProperties",
        "in": "header",
        "description": "Of a message that is not in an envelope: a JSON object in ASCII, with a SessionId.",
        "content": {JSON_TYPE: {"schema": _ref("SentProperties"), "example": {"SessionId": "order-42"}}},
    },
}


def _header(schema: dict[str, Any], description: str, *, required: bool = True) -> dict[str, Any]:
    return {"schema": schema, "description": description, "required": required}


_DECIMAL = {"type": "number", "minimum": 0}

HEADERS: dict[str, Any] = {
    PROTOCOL_HEADER: _header({"type": "string", "const": PROTOCOL_VERSION}, "The version of the protocol."),
    LOCK_EXPIRES_HEADER: _header(_DECIMAL, "Seconds that the lock has left."),
    f"{LOCK_EXPIRES_HEADER}-Maybe": _header(_DECIMAL, "Seconds that the other holder's lock has left.", required=False),
    WAITED_HEADER: _header(_DECIMAL, "Seconds that the request was held back: what the lock has left counts from then."),
    COUNT_HEADER: _header(_number(0, MAX_BATCH), "How many messages the envelope has.", required=False),
    ERROR_CODE_HEADER: _header({"enum": list(STATUS_OF)}, "The error's code."),
    "Retry-After": _header(_number(0), "Seconds to wait before the next try.", required=False),
    "WWW-Authenticate": _header({"const": "SharedAccessSignature"}, "How to authenticate."),
    "Allow": _header(_text(), "The methods of this path.", required=False),
}
