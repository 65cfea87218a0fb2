"""The exceptions of azsession. Every public call raises one of these, and no other kind, when an operation fails.

QueueError                          .code  .is_transient  .retry_after  .accepted
├── ProviderError                   the broker or the network failed (.provider, .code, .status)
│   ├── ConnectionFailedError       no answer; .maybe_delivered says that the request may have taken effect
│   ├── ThrottledError              the server answered 429, also to the last retry
│   └── UnsupportedOperationError   the server does not offer the operation
├── SessionNotFoundError            the session does not exist, or its lock expired, was lost or was released
├── SessionLockedError              another holder has it (.locked_until)
├── NoSessionAvailableError         no session had messages in time
├── InvalidReceiptError             unknown receipt, message already settled, or lock expired
├── QueueNotFoundError              the queue or subscription does not exist
├── AuthenticationFailedError       the server refused the credentials (401)
├── PermissionDeniedError           the credentials lack the right (403)
├── MessageTooLargeError            larger than the server accepts (.size, .limit)
├── ConfigurationError              wrong configuration; also a ValueError
└── ValidationError                 wrong argument; also a ValueError
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict, TypeVar

from .azure_names import explain_azure_names

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "AuthenticationFailedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "InvalidReceiptError",
    "MessageTooLargeError",
    "NoSessionAvailableError",
    "PermissionDeniedError",
    "ProviderError",
    "QueueError",
    "QueueNotFoundError",
    "SessionLockedError",
    "SessionNotFoundError",
    "ThrottledError",
    "UnsupportedOperationError",
    "ValidationError",
]


#: Characters that control a terminal, begin a new line, or change the direction of text. An error's text can hold words of
#: a server or of another user.
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_LINE_BREAKS = r"[\t-\r\x85\u2028\u2029]+"


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with its control characters escaped, except those in `keep`: safe to print on a terminal."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return found[0] if found[0] in keep else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return re.sub(_CONTROL, escaped, text)


def one_line(text: str) -> str:
    """Return `text` as one line with its control characters escaped."""
    return printable(re.sub(_LINE_BREAKS, " ", text))


class ErrorDetails(TypedDict, total=False):
    """The keyword arguments that every error takes."""

    code: str | None
    is_transient: bool | None
    retry_after: float | None
    accepted: int


class ProviderErrorDetails(ErrorDetails, total=False):
    """The keyword arguments that every `ProviderError` takes."""

    status: int | None
    provider: str


@explain_azure_names
class QueueError(Exception):
    """The base of all errors of azsession.

    Args:
        message: The text. It becomes one line, and control characters in it are escaped.
        code: The error code of the protocol, for example ``"SessionLockLost"``, or `None`.
        is_transient: Whether the same call may succeed later. `None` takes the class's own value.
        retry_after: Seconds that the server asked to wait, or `None`.
        accepted: How many messages the server had accepted before the error (`ServiceBusProvider.send_messages`).

    Each argument is an attribute of the same name. Errors can be pickled.

    Example:
        >>> from azsession import QueueError
        >>> error = QueueError("the queue is busy", code="ServerBusy", is_transient=True, retry_after=10.0)
        >>> error.code, error.is_transient, error.retry_after
        ('ServerBusy', True, 10.0)
    """

    is_transient: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        is_transient: bool | None = None,
        retry_after: float | None = None,
        accepted: int = 0,
    ) -> None:
        super().__init__(one_line(message))
        self.code = code
        self.retry_after = retry_after
        self.accepted = accepted
        if is_transient is not None:
            self.is_transient = is_transient

    def __reduce__(self) -> tuple[object, ...]:
        # Celery and multiprocessing pickle exceptions. The default calls the class with `args`: it loses keyword arguments.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class ProviderError(QueueError):
    """The broker or the network failed.

    Args:
        message: The text.
        status: The HTTP status, or `None` where there was no answer.
        provider: The kind of service that failed, ``"azure-servicebus"``.
        details: The other keyword arguments of `QueueError`.
    """

    provider: str = "azure-servicebus"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        provider: str | None = None,
        **details: Unpack[ErrorDetails],
    ) -> None:
        super().__init__(message, **details)
        self.status = status
        if provider is not None:
            self.provider = provider


class ConnectionFailedError(ProviderError):
    """No answer came, or a broken one.

    Args:
        message: The text.
        maybe_delivered: `True`: the request may have taken effect on the server. `False`: it certainly did not.
        details: The other keyword arguments of `ProviderError`.
    """

    is_transient = True

    def __init__(self, message: str, *, maybe_delivered: bool = False, **details: Unpack[ProviderErrorDetails]) -> None:
        super().__init__(message, **details)
        self.maybe_delivered = maybe_delivered


class ThrottledError(ProviderError):
    """The server answered 429 (too many requests), also to the last retry."""

    is_transient = True


class UnsupportedOperationError(ProviderError):
    """The server does not offer this operation: it speaks only the plain dialect, or answered 405 or 501."""


class SessionNotFoundError(QueueError):
    """The session does not exist, or its lock expired, was lost to another holder, or was released."""


class SessionLockedError(QueueError):
    """Another holder has the session's lock.

    Args:
        message: The text.
        locked_until: When that lock expires unless its holder renews it (timezone-aware, UTC), or `None` if unknown.
        details: The other keyword arguments of `QueueError`.
    """

    is_transient = True

    def __init__(self, message: str, *, locked_until: datetime | None = None, **details: Unpack[ErrorDetails]) -> None:
        super().__init__(message, **details)
        self.locked_until = locked_until


class NoSessionAvailableError(QueueError):
    """No session with messages became available in time."""

    is_transient = True


class InvalidReceiptError(QueueError):
    """The receipt is unknown or malformed, its message is already settled, or its lock expired."""


class QueueNotFoundError(QueueError):
    """The queue or subscription does not exist."""


class AuthenticationFailedError(QueueError):
    """The server refused the token (401), or the credential could not provide one."""


class PermissionDeniedError(QueueError):
    """The key or identity lacks the right for this operation (403)."""


class MessageTooLargeError(QueueError):
    """A message or a request is larger than the server accepts.

    Args:
        message: The text.
        size: The refused size in bytes (in characters if the attributes are too large), or `None` if unknown.
        limit: The largest accepted size in the same unit, or `None` if unknown.
        details: The other keyword arguments of `QueueError`.
    """

    def __init__(
        self, message: str, *, size: int | None = None, limit: int | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.size = size
        self.limit = limit


class ConfigurationError(QueueError, ValueError):
    """A connection string, setting or environment variable is missing or wrong, or an extra is not installed."""


class ValidationError(QueueError, ValueError):
    """An argument is wrong. It was found before a request was made, or by the server."""


ErrorT = TypeVar("ErrorT", bound=QueueError)


def _rebuild(cls: type[ErrorT], message: str, attributes: Mapping[str, object]) -> ErrorT:
    error = cls(message)
    error.__dict__.update(attributes)
    return error


def revised(error: ErrorT, message: str | None = None, *, code: str | None = None, accepted: int | None = None) -> ErrorT:
    """Return a copy of `error` with another message, code or number of accepted messages.

    The copy has the cause and the traceback of `error`. Raise the copy ``from error.__cause__``: a traceback then shows
    the failure once.
    """
    changes: dict[str, object] = {}
    if code is not None:
        changes["code"] = code
    if accepted is not None:
        changes["accepted"] = accepted
    text = str(error) if message is None else one_line(message)
    copy = _rebuild(type(error), text, {**error.__dict__, **changes})
    copy.__cause__ = error.__cause__
    return copy.with_traceback(error.__traceback__)
