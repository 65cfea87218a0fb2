"""Every exception that azsession raises on purpose, as one tree. All rooms raise these; nothing else crosses a public call.

QueueError                          .is_transient  .retry_after  .code
├── ProviderError                   the broker or the network failed (.provider, .code, .status)
│   ├── ConnectionFailedError       no answer; .maybe_delivered says that the request may have taken effect
│   ├── ThrottledError              429, after the retries
│   └── UnsupportedOperationError   this server lacks the operation
├── SessionNotFoundError            the session is gone, or its lock expired, was lost or was closed
├── SessionLockedError              another holder has it (.locked_until)
├── NoSessionAvailableError         no session with messages came in time
├── InvalidReceiptError             not received here, already settled, or its lock expired
├── QueueNotFoundError              the queue or subscription does not exist
├── AuthenticationFailedError       401
├── PermissionDeniedError           403
├── MessageTooLargeError            (.size, .limit)
├── ConfigurationError              also a ValueError
└── ValidationError                 also a ValueError
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

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


# What could steer a terminal, begin a line of a log, or turn text around. Errors hold what servers and others wrote.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\t-\r\x85\u2028\u2029]+")


def printable(text: str, *, keep: str = "") -> str:
    """Return text in which no character but those in `keep` steers a terminal or breaks a line: they are shown escaped."""

    def shown(found: re.Match[str]) -> str:
        code = ord(found[0])
        return found[0] if found[0] in keep else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return _STEERING.sub(shown, text)


def one_line(text: str) -> str:
    """Return text in one line, in which nothing steers a terminal."""
    return printable(_BREAKS.sub(" ", text))


def _rebuild(cls: type[QueueError], message: str, fields: Mapping[str, Any]) -> QueueError:
    error = cls(message)
    error.__dict__.update(fields)
    return error


class QueueError(Exception):
    """Whatever azsession raises. Its text is one line without control characters, whoever wrote part of it.

    Attributes:
        code: The protocol's error code, such as ``"SessionLockLost"``, where there is one.
        is_transient: The same call may succeed if it is made again later.
        retry_after: Seconds that the server asked to wait, where it did.
    """

    is_transient: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        is_transient: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(one_line(message))
        self.code = code
        self.retry_after = retry_after
        if is_transient is not None:
            self.is_transient = is_transient

    def __reduce__(self) -> tuple[Any, ...]:
        # Celery and multiprocessing pickle exceptions; the default forgets keyword arguments.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class ProviderError(QueueError):
    """The broker or the network failed.

    Attributes:
        provider: Which kind of service failed, ``"azure-servicebus"``.
        status: The HTTP status, where an answer came.
    """

    provider: str = "azure-servicebus"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        is_transient: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, is_transient=is_transient, retry_after=retry_after)
        self.status = status


class ConnectionFailedError(ProviderError):
    """No answer came, or a broken one.

    Attributes:
        maybe_delivered: The request may have taken effect on the server; ``False`` means that it surely did not.
    """

    is_transient = True

    def __init__(self, message: str, *, maybe_delivered: bool = False) -> None:
        super().__init__(message)
        self.maybe_delivered = maybe_delivered


class ThrottledError(ProviderError):
    """The server answered 429, and went on doing so through the retries."""

    is_transient = True


class UnsupportedOperationError(ProviderError):
    """The server does not have this operation: it speaks the plain dialect only, or answered 405 or 501."""


class SessionNotFoundError(QueueError):
    """The session is gone, or its lock expired, was lost to another holder, or was closed."""


class SessionLockedError(QueueError):
    """Another holder has the session.

    Attributes:
        locked_until: When its lock ends unless it is renewed (aware, UTC), where the server told.
    """

    is_transient = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        locked_until: datetime | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.locked_until = locked_until


class NoSessionAvailableError(QueueError):
    """No session with messages became available within the time given."""

    is_transient = True


class InvalidReceiptError(QueueError):
    """The receipt was not received here, is settled already, or its lock expired."""


class QueueNotFoundError(QueueError):
    """There is no such queue or subscription."""


class AuthenticationFailedError(QueueError):
    """The server refused the token (401), or no token could be had."""


class PermissionDeniedError(QueueError):
    """The key or identity lacks the right for this operation (403)."""


class MessageTooLargeError(QueueError):
    """A message, or a request, is larger than the server takes.

    Attributes:
        size: The size that was refused, in bytes (attributes: in characters), where known.
        limit: The largest size taken, in the same, where known.
    """

    def __init__(self, message: str, *, code: str | None = None, size: int | None = None, limit: int | None = None) -> None:
        super().__init__(message, code=code)
        self.size = size
        self.limit = limit


class ConfigurationError(QueueError, ValueError):
    """A connection string, setting or environment variable is missing or wrong, or an extra is not installed."""


class ValidationError(QueueError, ValueError):
    """An argument is wrong: raised before a request is made, or for a request that the server found malformed."""
