"""The error codes of the protocol, with the HTTP status and the exception of each.

All code that names an error code takes it from here. The gateway converts an exception into a response with `answer_to`, the
client converts a response into an exception with `error_from`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from ..errors import (
    AuthenticationFailedError,
    ConfigurationError,
    ConnectionFailedError,
    InvalidReceiptError,
    MessageTooLargeError,
    NoSessionAvailableError,
    PermissionDeniedError,
    ProviderError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
    ValidationError,
    revised,
)
from . import ERROR_CODE_HEADER

INVALID_REQUEST = "InvalidRequest"
UNAUTHORIZED = "Unauthorized"
FORBIDDEN = "Forbidden"
ENTITY_NOT_FOUND = "EntityNotFound"
MESSAGE_NOT_FOUND = "MessageNotFound"
NOT_SUPPORTED = "NotSupported"
CONFLICT = "Conflict"
SESSION_LOCK_LOST = "SessionLockLost"
MESSAGE_LOCK_LOST = "MessageLockLost"
MESSAGE_TOO_LARGE = "MessageTooLarge"
SESSION_LOCKED = "SessionLocked"
THROTTLED = "Throttled"
INTERNAL_ERROR = "InternalError"
SERVER_BUSY = "ServerBusy"
#: The gateway could not reach Azure Service Bus, or got no response from it.
CONNECTION_FAILED = "ConnectionFailed"
#: The response to a request of the gateway to Azure Service Bus was lost: the request may have taken effect.
OUTCOME_UNKNOWN = "OutcomeUnknown"
ENTITY_DISABLED = "EntityDisabled"
QUOTA_EXCEEDED = "QuotaExceeded"
#: Azure granted a session that azsession cannot serve. It was released at once; the message names it.
SESSION_UNUSABLE = "SessionUnusable"

#: The HTTP status of each code.
STATUS_OF = {
    INVALID_REQUEST: 400,
    UNAUTHORIZED: 401,
    FORBIDDEN: 403,
    ENTITY_NOT_FOUND: 404,
    MESSAGE_NOT_FOUND: 404,
    NOT_SUPPORTED: 405,
    CONFLICT: 409,
    OUTCOME_UNKNOWN: 409,
    ENTITY_DISABLED: 409,
    SESSION_UNUSABLE: 409,
    SESSION_LOCK_LOST: 410,
    MESSAGE_LOCK_LOST: 410,
    MESSAGE_TOO_LARGE: 413,
    SESSION_LOCKED: 423,
    THROTTLED: 429,
    INTERNAL_ERROR: 500,
    CONNECTION_FAILED: 502,
    SERVER_BUSY: 503,
    QUOTA_EXCEEDED: 507,
}

#: The code of an exception without a code of its own. The first matching class counts.
_CODE_OF: list[tuple[type[QueueError], str]] = [
    (ValidationError, INVALID_REQUEST),
    (ConfigurationError, INVALID_REQUEST),
    (AuthenticationFailedError, UNAUTHORIZED),
    (PermissionDeniedError, FORBIDDEN),
    (QueueNotFoundError, ENTITY_NOT_FOUND),
    (SessionNotFoundError, SESSION_LOCK_LOST),
    (InvalidReceiptError, MESSAGE_LOCK_LOST),
    (MessageTooLargeError, MESSAGE_TOO_LARGE),
    (SessionLockedError, SESSION_LOCKED),
    (NoSessionAvailableError, SERVER_BUSY),
    (UnsupportedOperationError, NOT_SUPPORTED),
    (ThrottledError, THROTTLED),
    (ConnectionFailedError, CONNECTION_FAILED),
    (ProviderError, INTERNAL_ERROR),
]

#: Why a message could not be settled, by code.
_NOT_SETTLED = {
    MESSAGE_LOCK_LOST: "the lock token is unknown: the message is settled already, or its lock was lost",
    SESSION_LOCK_LOST: "the session lock was lost, and with it the lock of the message",
    CONFLICT: "the message is settled already, in another way",
}

#: The statuses after which the client retries a request.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

#: The subject of a request. The meaning of 404, 409 and 410 depends on it.
ABOUT_SESSION = "session"
ABOUT_RECEIPT = "receipt"
ABOUT_QUEUE = "queue"


def not_settled(code: str) -> InvalidReceiptError:
    """Return the error of a message that could not be settled."""
    return InvalidReceiptError(_NOT_SETTLED.get(code, f"the server did not settle the message: {code}"), code=code)


def code_of(error: QueueError) -> str:
    """Return the error code of an exception."""
    if error.code in STATUS_OF:
        return error.code
    return next((code for kind, code in _CODE_OF if isinstance(error, kind)), INTERNAL_ERROR)


def answer_to(error: QueueError) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON body of the response for `error`."""
    code = code_of(error)
    details: dict[str, Any] = {"code": code, "message": str(error)}
    if isinstance(error, MessageTooLargeError):
        details.update({name: getattr(error, name) for name in ("size", "limit") if getattr(error, name) is not None})
    if code == CONNECTION_FAILED and isinstance(error, ConnectionFailedError) and error.maybe_delivered:
        details["maybeDelivered"] = True
    if error.accepted:
        details["accepted"] = error.accepted
    return STATUS_OF[code], {"error": details}


def error_from(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    about: str,
    *,
    lock_expires_in: float | None = None,
    retry_after: float | None = None,
) -> QueueError:
    """Return the exception for a response that reports an error.

    Args:
        status: The HTTP status.
        headers: The headers of the response, a case-insensitive mapping.
        body: The body: JSON of the protocol, XML of Azure, or any bytes.
        about: The subject of the request: `ABOUT_SESSION`, `ABOUT_RECEIPT` or `ABOUT_QUEUE`.
        lock_expires_in: Seconds until the other holder's lock expires (423), or `None`.
        retry_after: Seconds that the server asked to wait, or `None`.
    """
    code, text, details = _read_error(headers, body)
    error = _error_of(status, code, text, details, about, lock_expires_in, retry_after)
    accepted = _int(details, "accepted") or 0
    return revised(error, accepted=accepted) if accepted > 0 else error


def _error_of(
    status: int,
    code: str | None,
    text: str | None,
    details: Mapping[str, Any],
    about: str,
    lock_expires_in: float | None,
    retry_after: float | None,
) -> QueueError:
    message = text or f"the server answered {status}"
    if status == 400:
        return ValidationError(message, code=code)
    if status == 401:
        return AuthenticationFailedError(message, code=code)
    if status == 403:
        return PermissionDeniedError(message, code=code)
    if code in (OUTCOME_UNKNOWN, CONNECTION_FAILED):
        unknown = code == OUTCOME_UNKNOWN or details.get("maybeDelivered") is True
        return ConnectionFailedError(message, code=code, maybe_delivered=unknown)
    # InvalidRequest: the gateway does not know the path, for example because a proxy changed it. The session may exist.
    if status in (404, 410, 409) and code not in (MESSAGE_NOT_FOUND, INVALID_REQUEST, ENTITY_DISABLED):
        error = _gone(status, code, message, about)
        if error is not None:
            return error
    if status in (405, 501):
        return UnsupportedOperationError(message, code=code, status=status)
    if status == 413:
        return MessageTooLargeError(message, code=code, size=_int(details, "size"), limit=_int(details, "limit"))
    if status == 423:
        until = None
        if lock_expires_in is not None:
            until = datetime.now(timezone.utc) + timedelta(seconds=lock_expires_in)
        return SessionLockedError(message, code=code, locked_until=until, retry_after=retry_after)
    if status == 429:
        return ThrottledError(message, code=code, status=status, retry_after=retry_after)
    transient = status in RETRIED_STATUSES
    return ProviderError(message, code=code, status=status, is_transient=transient, retry_after=retry_after)


def _gone(status: int, code: str | None, message: str, about: str) -> QueueError | None:
    if status == 404 and (code == ENTITY_NOT_FOUND or about == ABOUT_QUEUE):
        return QueueNotFoundError(message, code=code)
    if about == ABOUT_RECEIPT:
        return InvalidReceiptError(message, code=code)
    if about == ABOUT_SESSION and status != 409:
        return SessionNotFoundError(message, code=code)
    return None


def _read_error(headers: Mapping[str, str], body: bytes) -> tuple[str | None, str | None, Mapping[str, Any]]:
    """Return the code, message and further details of an error response. Missing or malformed parts are left out."""
    code: Any = headers.get(ERROR_CODE_HEADER)
    text: Any = None
    details: Any = {}
    head = body[:65536].lstrip()
    if head.startswith(b"{"):
        try:
            details = json.loads(body[:65536]).get("error")
            code, text = code or details.get("code"), details.get("message")
        except (ValueError, AttributeError, TypeError, RecursionError):
            details = {}
    elif head.startswith(b"<"):
        xml = head.decode("utf-8", "replace")
        found = re.search(r"<Code>([^<]{1,100})</Code>", xml)
        detail = re.search(r"<Detail>([^<]{1,2000})", xml)
        # In Azure's XML the code is the HTTP status, and the detail is the text.
        code = code or (found[1] if found and not found[1].isdigit() else None)
        text = detail[1].strip() if detail else None
    if not isinstance(code, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", code):
        code = None
    if not isinstance(text, str) or not text:
        text = None
    return code, None if text is None else text[:2000], details if isinstance(details, dict) else {}


def _int(details: Mapping[str, Any], name: str) -> int | None:
    value = details.get(name)
    return value if isinstance(value, int) else None


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3), a number or a date. `None` if it is neither."""
    if not value:
        return None
    # Also removes whitespace that `float` does not accept.
    number = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number):
        return float(number)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())


def parse_seconds(value: str | None) -> float | None:
    """Return the seconds of a header with a decimal number, or `None` if it is missing or malformed."""
    number = "" if value is None else value.strip()
    return float(number) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) else None
