"""The errors that the endpoint reports: AMQP conditions (AMQP 1.0 §2.8.15 to §2.8.18) and Azure's own.

The conditions of Azure are those of Microsoft's "AMQP errors in Azure Service Bus", and the texts are like Azure's.
"""

from __future__ import annotations

from ...amqp import Condition
from ...errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    InvalidReceiptError,
    MessageTooLargeError,
    PermissionDeniedError,
    QueueError,
    QueueNotFoundError,
    SessionLockedError,
    SessionNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
    ValidationError,
)
from ...protocol.error_codes import (
    INVALID_REQUEST,
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    SERVER_BUSY,
    SESSION_LOCK_LOST,
    code_of,
)

SESSION_LOST = "com.microsoft:session-lock-lost"
MESSAGE_LOST = "com.microsoft:message-lock-lost"
NOT_ALLOWED = "amqp:not-allowed"
NOT_FOUND = "amqp:not-found"
NOT_IMPLEMENTED = "amqp:not-implemented"
INVALID_FIELD = "amqp:invalid-field"
ARGUMENT_ERROR = "com.microsoft:argument-error"
UNAUTHORIZED = "amqp:unauthorized-access"
TOO_MANY = "amqp:resource-limit-exceeded"
STOLEN = "amqp:link:stolen"
TOO_LARGE = "amqp:link:message-size-exceeded"
TIMEOUT = "com.microsoft:timeout"
BUSY = "com.microsoft:server-busy"
INTERNAL = "amqp:internal-error"
FORCED = "amqp:connection:forced"


class RefusedError(Exception):
    """The endpoint refuses one operation. `status` is the status code of a response of ``$management`` or ``$cbs``."""

    def __init__(self, condition: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description
        self.status = status

    @property
    def error(self) -> Condition:
        """The error for a frame."""
        return Condition(self.condition, self.description, {})


class LinkFaultError(RefusedError):
    """The client violated the protocol of a link: the link is detached."""


class SessionFaultError(RefusedError):
    """The client violated the protocol of an AMQP session: the session is ended."""


class ConnectionFaultError(RefusedError):
    """The client violated the protocol of the connection: the connection is closed."""


def inactive(seconds: float) -> ConnectionFaultError:
    """Return the fault of a connection that had no link for so many seconds."""
    text = f"The connection was inactive for more than the allowed {int(seconds * 1000)} milliseconds."
    return ConnectionFaultError(FORCED, text)


def session_lost() -> RefusedError:
    """Return the refusal for a session whose lock this client does not have any more."""
    return RefusedError(SESSION_LOST, "The session lock has expired on the session. Accept a new session.", 410)


def message_lost() -> RefusedError:
    """Return the refusal for a lock token that is not known any more."""
    text = "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue."
    return RefusedError(MESSAGE_LOST, text, 410)


def not_settled(code: str) -> RefusedError:
    """Return the refusal for a settlement that a broker answered with an error code."""
    if code == INVALID_REQUEST:
        return RefusedError(ARGUMENT_ERROR, "With these changes, the properties of the message would be too large.")
    return session_lost() if code == SESSION_LOCK_LOST else message_lost()


_BY_CODE = {
    MESSAGE_LOCK_LOST: (MESSAGE_LOST, 410),
    MESSAGE_NOT_FOUND: ("com.microsoft:message-not-found", 404),
    SERVER_BUSY: (BUSY, 503),
}

_BY_CLASS: list[tuple[type[QueueError], str, int]] = [
    (InvalidReceiptError, MESSAGE_LOST, 410),
    (MessageTooLargeError, TOO_LARGE, 413),
    (AuthenticationFailedError, UNAUTHORIZED, 401),
    (ValidationError, NOT_ALLOWED, 400),
    (UnsupportedOperationError, NOT_IMPLEMENTED, 501),
    (ThrottledError, BUSY, 503),
    (ConnectionFailedError, BUSY, 503),
]


def refusal_of(error: QueueError, entity: str, session_id: str | None = None) -> RefusedError:
    """Return the refusal for an error of the broker or of the guard."""
    if isinstance(error, QueueNotFoundError):
        return RefusedError(NOT_FOUND, f"The messaging entity '{entity}' could not be found.", 404)
    if isinstance(error, SessionNotFoundError):
        return session_lost()
    if isinstance(error, SessionLockedError):
        text = f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver."
        return RefusedError("com.microsoft:session-cannot-be-locked", text, 410)
    if isinstance(error, PermissionDeniedError):
        text = f"Unauthorized access. {error}: claim(s) are required to perform this operation. Resource: '{entity}'."
        return RefusedError(UNAUTHORIZED, text, 401)
    known = _BY_CODE.get(code_of(error))
    if known is None:
        matching = ((condition, status) for kind, condition, status in _BY_CLASS if isinstance(error, kind))
        known = next(matching, (INTERNAL, 500))
    return RefusedError(known[0], str(error), known[1])
