"""Azure's AMQP error conditions as exceptions: `error_of` for links and settlements, `refusal_of` for responses.

Every part of the broker uses this table. The conditions are those of AMQP 1.0 §2.8.15 to §2.8.18, and of Microsoft's "AMQP
errors in Azure Service Bus". Every exception has a code of `protocol.error_codes`, which means the same behind a gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ...amqp import Condition, Response
from ...errors import (
    AuthenticationFailedError,
    InvalidReceiptError,
    MessageTooLargeError,
    PermissionDeniedError,
    ProviderError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
    ValidationError,
)
from ...protocol.error_codes import (
    ENTITY_DISABLED,
    ENTITY_NOT_FOUND,
    FORBIDDEN,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    MESSAGE_TOO_LARGE,
    NOT_SUPPORTED,
    QUOTA_EXCEEDED,
    RETRIED_STATUSES,
    SERVER_BUSY,
    SESSION_LOCK_LOST,
    SESSION_LOCKED,
    STATUS_OF,
    THROTTLED,
    UNAUTHORIZED,
)
from .transport.links import CONNECTION_LOST, NO_ROOM

#: The time ran out: no session was available for an accept, or an operation took too long.
TIMEOUT = "com.microsoft:timeout"
SESSION_LOCK_LOST_CONDITION = "com.microsoft:session-lock-lost"
SESSION_CANNOT_BE_LOCKED = "com.microsoft:session-cannot-be-locked"
MESSAGE_LOCK_LOST_CONDITION = "com.microsoft:message-lock-lost"
UNAUTHORIZED_ACCESS = "amqp:unauthorized-access"
#: Conditions of links that ended without being refused: Azure makes room, or moves the entity to another machine.
LOST_LINK: frozenset[str] = frozenset({CONNECTION_LOST, "amqp:link:detach-forced", "amqp:connection:forced"})

#: Seconds to wait after ``server-busy``; see Microsoft's "Throttling operations on Azure Service Bus".
BUSY_SECONDS = 10.0

#: Tokens and signatures. They are removed from Azure's descriptions, should one ever repeat them.
_SECRET = re.compile(r"(SharedAccessSignature\s+|\bsig=|\bsr=|\bBearer\s+)[^\s,;'\"]+|\beyJ[\w-]{8,}\.[\w.-]+")
#: Azure's descriptions for an identity that is known but lacks a right. For example: "'Send' claim(s) are required".
_LACKS_RIGHT = re.compile(r"claims?\b.{0,20}\brequired|not have (the )?(required )?permission|\bforbidden\b", re.IGNORECASE)


def _provider(code: str) -> Callable[[str], QueueError]:
    status = STATUS_OF[code]
    return lambda text: ProviderError(text, code=code, status=status, is_transient=status in RETRIED_STATUSES)


def _refused_access(text: str) -> QueueError:
    if _LACKS_RIGHT.search(text):
        return PermissionDeniedError(text, code=FORBIDDEN)
    return AuthenticationFailedError(text, code=UNAUTHORIZED)


def _throttled(text: str) -> QueueError:
    return ThrottledError(text, code=THROTTLED, status=STATUS_OF[THROTTLED], retry_after=BUSY_SECONDS)


def _unsupported(text: str) -> QueueError:
    return UnsupportedOperationError(text, code=NOT_SUPPORTED, status=STATUS_OF[NOT_SUPPORTED])


def _invalid(text: str) -> QueueError:
    return ValidationError(text, code=INVALID_REQUEST)


def _not_found(text: str) -> QueueError:
    return QueueNotFoundError(text, code=ENTITY_NOT_FOUND)


def _session_lost(text: str) -> QueueError:
    return SessionNotFoundError(text, code=SESSION_LOCK_LOST)


def _session_locked(text: str) -> QueueError:
    return SessionLockedError(text, code=SESSION_LOCKED)


def _message_lost(text: str) -> QueueError:
    return InvalidReceiptError(text, code=MESSAGE_LOCK_LOST)


def _too_large(text: str) -> QueueError:
    return MessageTooLargeError(text, code=MESSAGE_TOO_LARGE)


_internal, _busy = _provider(INTERNAL_ERROR), _provider(SERVER_BUSY)

_MEANINGS: dict[str, tuple[str, Callable[[str], QueueError]]] = {
    SESSION_LOCK_LOST_CONDITION: ("the session's lock is lost", _session_lost),
    "com.microsoft:session-not-found": ("there is no such session", _session_lost),
    "com.microsoft:store-lock-lost": ("the session's lock is lost", _session_lost),
    SESSION_CANNOT_BE_LOCKED: ("another holder has this session", _session_locked),
    MESSAGE_LOCK_LOST_CONDITION: ("the message is settled already, or its lock is lost", _message_lost),
    "com.microsoft:message-not-found": ("there is no such message", _provider(MESSAGE_NOT_FOUND)),
    TIMEOUT: ("the operation took Azure too long", _busy),
    "com.microsoft:server-busy": ("Azure is busy", _throttled),
    UNAUTHORIZED_ACCESS: ("Azure refused access", _refused_access),
    "com.microsoft:auth-failed": ("Azure refused access", _refused_access),
    "amqp:not-found": ("there is no such queue or subscription", _not_found),
    "amqp:resource-deleted": ("the queue or subscription was deleted", _not_found),
    "com.microsoft:entity-not-found": ("there is no such queue or subscription", _not_found),
    "com.microsoft:entity-disabled": ("the queue or subscription is disabled", _provider(ENTITY_DISABLED)),
    "amqp:resource-limit-exceeded": ("a quota is used up", _provider(QUOTA_EXCEEDED)),
    "amqp:link:message-size-exceeded": ("the message is larger than Azure takes", _too_large),
    "amqp:frame-size-too-small": ("the message is larger than Azure takes", _too_large),
    "com.microsoft:argument-error": ("Azure found an argument invalid", _invalid),
    "com.microsoft:argument-out-of-range": ("Azure found an argument out of range", _invalid),
    "com.microsoft:precondition-failed": ("a precondition of the operation is not met", _invalid),
    "amqp:precondition-failed": ("a precondition of the operation is not met", _invalid),
    "amqp:not-allowed": ("Azure does not allow the operation", _invalid),
    "amqp:invalid-field": ("Azure found a field invalid", _invalid),
    "amqp:decode-error": ("Azure could not decode the message", _invalid),
    "amqp:not-implemented": ("Azure does not support this operation", _unsupported),
    "amqp:resource-locked": ("another client has it locked", _busy),
    "amqp:connection:forced": ("Azure closed the connection", _busy),
    "amqp:link:detach-forced": ("Azure closed the link", _busy),
    "amqp:link:stolen": ("Azure closed the link", _busy),
    "amqp:link:transfer-limit-exceeded": ("Azure closed the link", _busy),
    "com.microsoft:container-close": ("Azure closed the connection", _busy),
    "com.microsoft:operation-cancelled": ("Azure cancelled the operation", _busy),
    "amqp:internal-error": ("Azure had an internal error", _internal),
    CONNECTION_LOST: ("the connection to Azure was lost", _busy),
    NO_ROOM: ("the connection to Azure has no room for another session", _busy),
}

#: The conditions of responses of ``$cbs`` and ``$management`` that have a status only.
_CONDITION_OF_STATUS = {
    400: "com.microsoft:argument-error",
    401: UNAUTHORIZED_ACCESS,
    403: "amqp:resource-limit-exceeded",
    404: "amqp:not-found",
    405: "amqp:not-implemented",
    408: TIMEOUT,
    410: SESSION_LOCK_LOST_CONDITION,
    413: "amqp:link:message-size-exceeded",
    429: "com.microsoft:server-busy",
    500: "amqp:internal-error",
    501: "amqp:not-implemented",
    503: "com.microsoft:server-busy",
    504: TIMEOUT,
}


def error_of(condition: Condition | None, *, entity: str, session_id: str | None = None) -> QueueError:
    """Return the exception for the error of a detach, end, close or disposition.

    Args:
        condition: The error; `None` where Azure closed the link without one.
        entity: The entity that the error is about.
        session_id: The session that the error is about, if it is about one.
    """
    if condition is None:
        condition = Condition("amqp:link:detach-forced", "", {})
    meaning, make = _MEANINGS.get(
        condition.condition, (f"Azure reported {condition.condition[:80] or 'an error'}", _internal)
    )
    about = entity if session_id is None else f"{entity}, session {session_id!r}"
    description = _SECRET.sub("***", " ".join(condition.description.split()))[:800]
    return make(f"{about}: {meaning}{f' ({description})' if description else ''}")


def refusal_of(response: Response) -> Condition | None:
    """Return the error in a response of ``$cbs`` or ``$management``; `None` for a success."""
    if 200 <= response.status < 300:
        return None
    condition = response.condition
    if not condition or (condition not in _MEANINGS and response.status in _CONDITION_OF_STATUS):
        condition = _CONDITION_OF_STATUS.get(response.status)
        if response.status == 403 and _LACKS_RIGHT.search(response.description):
            condition = UNAUTHORIZED_ACCESS
    return Condition(condition or f"status {response.status}", response.description, {})
