"""Network errors of requests and urllib3 as connection errors: what they say, and whether the request may have arrived."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
import requests
import urllib3.exceptions
from urllib3 import HTTPConnectionPool

from azsession.client.cancellation import RequestInFlight
from azsession.client.network_errors import clock_hint, failure_of, root_cause

URL = "https://gateway.example"


@pytest.mark.parametrize("written", [True, False])
def test_a_tracked_request_may_have_arrived_if_it_was_written(written: bool) -> None:
    in_flight = RequestInFlight()
    in_flight.tracked, in_flight.written = True, written
    failure = failure_of(requests.ReadTimeout("x"), URL, in_flight)
    assert failure.maybe_delivered is written
    assert str(failure.error) == f"no answer from {URL}: it timed out"


@pytest.mark.parametrize(
    ("error", "maybe_delivered"),
    [
        (requests.ConnectTimeout("x"), False),
        (requests.exceptions.ProxyError("x"), False),
        (requests.exceptions.SSLError("x"), False),
        (requests.ConnectionError("NewConnectionError: refused"), False),
        (requests.ConnectionError("NameResolutionError: unknown host"), False),
        (requests.ReadTimeout("x"), True),
        (requests.ConnectionError(urllib3.exceptions.ClosedPoolError(HTTPConnectionPool("a"), "Pool is closed.")), False),
        (requests.ConnectionError("reset"), True),
    ],
)
def test_an_untracked_request_may_have_arrived_unless_the_error_excludes_it(error: Exception, maybe_delivered: bool) -> None:
    assert failure_of(error, URL, RequestInFlight()).maybe_delivered is maybe_delivered


def raised() -> Exception:
    """Return an error as requests raises it: around urllib3's, around that of the socket."""
    try:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as inner:
            raise urllib3.exceptions.ProtocolError("POST /q/messages/secret-token", inner) from inner
    except urllib3.exceptions.HTTPError as middle:
        return requests.ConnectionError(middle)


def test_the_reason_is_the_innermost_error_and_not_the_url() -> None:
    error = raised()
    assert isinstance(root_cause(error), ConnectionRefusedError)
    failure = failure_of(error, URL, RequestInFlight())
    assert "Connection refused" in str(failure.error)
    assert "secret-token" not in str(failure.error)
    assert failure.cause is not None
    assert failure.cause.__traceback__ is None


def test_errors_that_are_causes_of_each_other_have_an_end() -> None:
    first, second = OSError("1"), OSError("2")
    first.__cause__, second.__cause__ = second, first
    assert root_cause(first) in (first, second)


def test_the_text_of_a_value_error_is_not_quoted() -> None:
    failure = failure_of(ValueError("invalid header value: secret"), URL, RequestInFlight())
    assert str(failure.error) == f"no answer from {URL}: ValueError"


def test_a_cause_is_one_line() -> None:
    failure = failure_of(OSError("two\r\nlines"), URL, RequestInFlight())
    assert failure.cause is not None
    assert "\n" not in str(failure.cause)


@pytest.mark.parametrize(("seconds", "words"), [(3600, "1:00:00 behind the"), (-3600, "1:00:00 ahead of the")])
def test_a_clock_that_differs_from_the_servers_is_mentioned(seconds: int, words: str) -> None:
    hint = clock_hint(formatdate(time.time() + seconds + 0.5, usegmt=True))
    assert words in hint.replace("0:59:59", "1:00:00").replace("1:00:01", "1:00:00")


def test_a_clock_that_is_right_is_not_mentioned() -> None:
    assert clock_hint(formatdate(usegmt=True)) == ""


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_malformed_date_is_ignored(date: str | None) -> None:
    assert clock_hint(date) == ""
