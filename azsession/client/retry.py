"""What the failures of a request tell: whether it may have taken effect, and what its caller is told."""

from __future__ import annotations

import time
from datetime import timedelta

import requests

from ..errors import ConnectionFailedError, QueueError
from ..protocol.wire import MalformedError, parse_date
from .cancellation import RequestInFlight

#: Seconds that this machine's clock may differ from the server's without a word.
CLOCK_TOLERANCE = 60.0


class FailedAttemptError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        error: What the caller gets if no other attempt is made.
        acted: The request may have taken effect without our knowing the answer.
    """

    def __init__(self, error: QueueError, *, acted: bool) -> None:
        super().__init__()
        self.error = error
        self.acted = acted


def final(error: QueueError, acted: bool) -> QueueError:
    """Return the error of the last attempt, where an earlier one may have taken effect: that is what the caller must know."""
    if not acted or (isinstance(error, ConnectionFailedError) and error.maybe_delivered):
        return error
    told = ConnectionFailedError(f"{error} (an attempt may have taken effect)", maybe_delivered=True)
    told.code, told.retry_after = error.code, error.retry_after
    told.status, told.is_transient = getattr(error, "status", None), error.is_transient
    return told


def clock_hint(date: str | None) -> str:
    """Return what to add to the refusal of a token where the clocks differ: tokens end by the server's."""
    try:
        behind = parse_date(date or "").timestamp() - time.time()
    except MalformedError:
        return ""
    if abs(behind) < CLOCK_TOLERANCE:
        return ""
    by = timedelta(seconds=round(abs(behind)))
    return f" (this machine's clock is {by} {'behind' if behind > 0 else 'ahead of'} the server's: tokens end by that one)"


def may_have_acted(error: Exception, flight: RequestInFlight) -> bool:
    """Tell whether a request whose answer did not come may have reached the server."""
    if flight.tracked:
        return flight.written
    text = repr(error)
    never_sent = (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError)
    return not isinstance(error, never_sent) and "NewConnectionError" not in text and "NameResolutionError" not in text


def root_of(error: BaseException) -> BaseException:
    """Return the innermost cause: the ones around it show the whole URL, and with it lock tokens."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            return error
        error = inner
    return error


def reason_of(error: Exception, cause: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout) or isinstance(cause, TimeoutError):
        return "it timed out"
    if isinstance(cause, requests.RequestException):
        return type(cause).__name__
    # What numbers and headers were wrong may be secret; an OSError may be a ValueError too, over a certificate.
    text = "" if isinstance(cause, ValueError) and not isinstance(cause, OSError) else str(cause)
    return f"{type(cause).__name__}: {text[:300].strip()}" if text.strip() else type(cause).__name__
