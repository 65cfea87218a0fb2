"""Errors on the wire: the response for an exception, and the exception for a response."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import errors
from azsession.protocol.error_codes import (
    ABOUT_QUEUE,
    ABOUT_RECEIPT,
    ABOUT_SESSION,
    RETRIED_STATUSES,
    STATUS_OF,
    answer_to,
    code_of,
    error_from,
    parse_retry_after,
    parse_seconds,
)

S, R, Q = ABOUT_SESSION, ABOUT_RECEIPT, ABOUT_QUEUE

#: The error table of the protocol: status, code, subject of the request, exception of the client.
TABLE: list[tuple[int, str | None, str, type[errors.QueueError]]] = [
    *[(400, "InvalidRequest", about, errors.ValidationError) for about in (S, R, Q)],
    *[(401, "Unauthorized", about, errors.AuthenticationFailedError) for about in (S, R, Q)],
    *[(403, "Forbidden", about, errors.PermissionDeniedError) for about in (S, R, Q)],
    *[(404, "EntityNotFound", about, errors.QueueNotFoundError) for about in (S, R, Q)],
    (410, "SessionLockLost", S, errors.SessionNotFoundError),
    (410, None, S, errors.SessionNotFoundError),
    (404, None, S, errors.SessionNotFoundError),
    (410, "MessageLockLost", R, errors.InvalidReceiptError),
    (410, "SessionLockLost", R, errors.InvalidReceiptError),
    (410, None, R, errors.InvalidReceiptError),
    (404, None, R, errors.InvalidReceiptError),
    (404, None, Q, errors.QueueNotFoundError),
    (404, "MessageNotFound", S, errors.ProviderError),
    (404, "MessageNotFound", Q, errors.ProviderError),
    (405, "NotSupported", S, errors.UnsupportedOperationError),
    (501, None, R, errors.UnsupportedOperationError),
    (409, "Conflict", R, errors.InvalidReceiptError),
    (409, "Conflict", Q, errors.ProviderError),
    (409, "Conflict", S, errors.ProviderError),
    (413, "MessageTooLarge", Q, errors.MessageTooLargeError),
    (423, "SessionLocked", S, errors.SessionLockedError),
    (429, "Throttled", S, errors.ThrottledError),
    *[(status, None, S, errors.ProviderError) for status in (408, 418, 500, 502, 503, 504, 599)],
]


@pytest.mark.parametrize(("status", "code", "about", "kind"), TABLE)
def test_a_response_becomes_the_exception_of_the_table(
    status: int, code: str | None, about: str, kind: type[errors.QueueError]
) -> None:
    body = json.dumps({"error": {"code": code, "message": "why"}}).encode()
    for headers, data in [({}, body), ({"x-ms-error-code": code} if code else {}, b"")]:
        error = error_from(status, headers, data, about)
        assert type(error) is kind
        assert error.code == code
        assert error.is_transient == (status in RETRIED_STATUSES or status in (423, 429))
        if isinstance(error, errors.ProviderError):
            assert error.status == status
        assert str(error) == ("why" if data else f"the server answered {status}")


EXAMPLES: list[tuple[errors.QueueError, int, str]] = [
    (errors.ValidationError("m"), 400, "InvalidRequest"),
    (errors.AuthenticationFailedError("m"), 401, "Unauthorized"),
    (errors.PermissionDeniedError("m"), 403, "Forbidden"),
    (errors.QueueNotFoundError("m"), 404, "EntityNotFound"),
    (errors.ProviderError("m", code="MessageNotFound"), 404, "MessageNotFound"),
    (errors.UnsupportedOperationError("m"), 405, "NotSupported"),
    (errors.InvalidReceiptError("m", code="Conflict"), 409, "Conflict"),
    (errors.SessionNotFoundError("m"), 410, "SessionLockLost"),
    (errors.InvalidReceiptError("m"), 410, "MessageLockLost"),
    (errors.InvalidReceiptError("m", code="SessionLockLost"), 410, "SessionLockLost"),
    (errors.MessageTooLargeError("m", size=9, limit=5), 413, "MessageTooLarge"),
    (errors.SessionLockedError("m"), 423, "SessionLocked"),
    (errors.ThrottledError("m"), 429, "Throttled"),
    (errors.ProviderError("m"), 500, "InternalError"),
    (errors.ProviderError("m", code="SomethingElse"), 500, "InternalError"),
    (errors.ProviderError("m", code="ServerBusy"), 503, "ServerBusy"),
]


@pytest.mark.parametrize(("error", "status", "code"), EXAMPLES)
def test_an_exception_survives_conversion_to_a_response_and_back(error: errors.QueueError, status: int, code: str) -> None:
    found, body = answer_to(error)
    assert (found, body["error"]["code"], body["error"]["message"]) == (status, code, "m")
    about = R if isinstance(error, errors.InvalidReceiptError) else S
    again = error_from(found, {}, json.dumps(body).encode(), about)
    assert type(again) is type(error)
    assert (str(again), again.code) == ("m", code)
    if isinstance(error, errors.MessageTooLargeError) and isinstance(again, errors.MessageTooLargeError):
        assert (again.size, again.limit) == (9, 5)


def test_every_error_has_a_code_and_every_code_a_status() -> None:
    for name in errors.__all__:
        assert code_of(getattr(errors, name)("m")) in STATUS_OF


def test_errors_in_azures_xml_are_read() -> None:
    body = b"<Error><Code>404</Code><Detail>The messaging entity could not be found. TrackingId:1</Detail></Error>"
    error = error_from(404, {}, body, Q)
    assert isinstance(error, errors.QueueNotFoundError)
    assert str(error) == "The messaging entity could not be found. TrackingId:1"
    assert error.code is None
    assert (
        error_from(410, {}, b'<?xml version="1.0"?><Error><Code>MessageLockLost</Code></Error>', R).code == "MessageLockLost"
    )


def test_a_locked_session_says_when_its_lock_expires() -> None:
    before = datetime.now(timezone.utc)
    error = error_from(423, {}, b"", S, lock_expires_in=12.5, retry_after=12.5)
    assert isinstance(error, errors.SessionLockedError)
    assert error.locked_until is not None
    assert timedelta(seconds=12.4) < error.locked_until - before < timedelta(seconds=20)
    assert error.retry_after == 12.5


BODIES = st.binary(max_size=200) | st.sampled_from(
    [b"[]", b"{", b'{"error": 5}', b'{"error": {"code": 5, "message": []}}', b"<", b"<Error>", b"<Code></Code>", b"{" * 70000]
)


@given(st.integers(400, 599), BODIES, st.sampled_from([S, R, Q]), st.text(max_size=20))
def test_any_error_response_becomes_a_queue_error(status: int, body: bytes, about: str, code: str) -> None:
    error = error_from(status, {"x-ms-error-code": code}, body, about)
    assert isinstance(error, errors.QueueError)
    assert len(str(error)) <= 2100


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("5", 5.0), (" 1.5 ", 1.5)])
def test_retry_after_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_can_be_a_date() -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=100)
    found = parse_retry_after(format_datetime(soon, usegmt=True))
    assert found is not None
    assert 60 < found <= 100
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0


SUNDAY = "Sun, 06 Nov 1994 08:49:37"


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "1e9", "nan", "Xxx, 99 Nov 1994", f"{SUNDAY} +{'9' * 20}"])
def test_a_malformed_retry_after_is_none(text: Any) -> None:
    assert parse_retry_after(text) is None


@given(st.text(max_size=40))
def test_any_header_is_a_number_of_seconds_or_none(text: str) -> None:
    for found in (parse_retry_after(text), parse_seconds(text)):
        assert found is None or found >= 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("0.001", 0.001), ("-1", None), ("inf", None), ("nan", None), (None, None)]
)
def test_a_header_with_a_decimal_number_is_read_as_seconds(text: str | None, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds
