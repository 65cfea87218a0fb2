"""The meaning of network errors: `maybe_delivered`, and a short reason for the error message.

`Transport` turns the exceptions of requests and urllib3 into `ConnectionFailedError` here.
"""

from __future__ import annotations

import time
from datetime import timedelta

import requests
import urllib3.exceptions

from ..errors import ConnectionFailedError, one_line
from ..protocol.wire import MalformedError, parse_date
from .cancellation import RequestInFlight
from .retry import FailedAttemptError

#: The errors that a request can raise. urllib3 raises errors of its own, and `ValueError`, for some malformed responses.
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)
#: Seconds that this machine's clock may differ from the server's before an error message mentions it.
CLOCK_TOLERANCE = 60.0
#: The longest text of another library's error in an error message, in characters.
_MAX_TEXT = 300


def failure_of(error: Exception, url: str, in_flight: RequestInFlight, *, proxy: str | None = None) -> FailedAttemptError:
    """Return the failure of an attempt that ended with a network error.

    Args:
        error: One of `NETWORK_ERRORS`.
        url: The base URL, for the message.
        in_flight: The attempt.
        proxy: The proxy that the request went through, for the message.
    """
    cause = root_cause(error)
    # A traceback shows the cause, whose text may quote the server.
    cause.args = tuple(one_line(arg) if isinstance(arg, str) else arg for arg in cause.args)
    # The local variables of its frames include the token, the body and the lock token.
    cause = cause.with_traceback(None)
    maybe_delivered = _may_have_arrived(error, in_flight)
    failed = ConnectionFailedError(f"{_subject(error, url, proxy)}: {_reason(error, cause)}", maybe_delivered=maybe_delivered)
    return FailedAttemptError(failed, maybe_delivered=maybe_delivered, cause=cause)


def _subject(error: Exception, url: str, proxy: str | None) -> str:
    if proxy is None:
        return f"no answer from {url}"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy {proxy} gave no connection to {url}"
    return f"no answer from {url} through the proxy {proxy}"


def _may_have_arrived(error: Exception, in_flight: RequestInFlight) -> bool:
    """Return whether the server may have received the request."""
    if in_flight.tracked:
        return in_flight.written
    if isinstance(root_cause(error), (urllib3.exceptions.ClosedPoolError, urllib3.exceptions.EmptyPoolError)):
        return False  # There was no connection for it: a signal handler closed the client, for example.
    text = repr(error)
    never_sent = (requests.exceptions.ConnectTimeout, requests.exceptions.ProxyError, requests.exceptions.SSLError)
    return not isinstance(error, never_sent) and "NewConnectionError" not in text and "NameResolutionError" not in text


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost cause. The errors around it show the whole URL, and with it lock tokens."""
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


def _reason(error: Exception, cause: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout) or isinstance(cause, TimeoutError):
        return "it timed out"
    if isinstance(cause, requests.RequestException):
        return type(cause).__name__
    # The text of a ValueError can quote a secret number or header. Certificate errors are ValueErrors, but quote none.
    quotes = isinstance(cause, ValueError) and not isinstance(cause, OSError)
    text = "" if quotes else str(cause)[:_MAX_TEXT].strip()
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def clock_hint(date: str | None) -> str:
    """Return a hint for the error message of a refused token if this machine's clock differs from the server's, else ``""``.

    Args:
        date: The ``Date`` header of the response.
    """
    try:
        behind = parse_date(date or "").timestamp() - time.time()
    except MalformedError:
        return ""
    if abs(behind) < CLOCK_TOLERANCE:
        return ""
    difference = timedelta(seconds=round(abs(behind)))
    direction = "behind" if behind > 0 else "ahead of"
    return f" (this machine's clock is {difference} {direction} the server's, which decides when a token expires)"
