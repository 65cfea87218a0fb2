"""Azure's error conditions as exceptions, in process and behind a gateway."""

from __future__ import annotations

import json

import pytest

from azsession import errors
from azsession.amqp import Condition, Response
from azsession.broker.azure.error_mapping import _MEANINGS, error_of, refusal_of
from azsession.protocol.error_codes import ABOUT_QUEUE, ABOUT_RECEIPT, ABOUT_SESSION, answer_to, error_from

#: The condition, its exception, the exception's code, and whether the exception is transient.
TABLE: list[tuple[str, type[errors.QueueError], str, bool]] = [
    ("com.microsoft:session-lock-lost", errors.SessionNotFoundError, "SessionLockLost", False),
    ("com.microsoft:session-cannot-be-locked", errors.SessionLockedError, "SessionLocked", True),
    ("com.microsoft:message-lock-lost", errors.InvalidReceiptError, "MessageLockLost", False),
    ("com.microsoft:message-not-found", errors.ProviderError, "MessageNotFound", False),
    ("com.microsoft:timeout", errors.ProviderError, "ServerBusy", True),
    ("com.microsoft:server-busy", errors.ThrottledError, "Throttled", True),
    ("com.microsoft:auth-failed", errors.AuthenticationFailedError, "Unauthorized", False),
    ("amqp:unauthorized-access", errors.AuthenticationFailedError, "Unauthorized", False),
    ("amqp:not-found", errors.QueueNotFoundError, "EntityNotFound", False),
    ("com.microsoft:entity-disabled", errors.ProviderError, "EntityDisabled", False),
    ("amqp:resource-limit-exceeded", errors.ProviderError, "QuotaExceeded", False),
    ("amqp:link:message-size-exceeded", errors.MessageTooLargeError, "MessageTooLarge", False),
    ("com.microsoft:argument-error", errors.ValidationError, "InvalidRequest", False),
    ("com.microsoft:argument-out-of-range", errors.ValidationError, "InvalidRequest", False),
    ("com.microsoft:precondition-failed", errors.ValidationError, "InvalidRequest", False),
    ("amqp:not-allowed", errors.ValidationError, "InvalidRequest", False),
    ("amqp:not-implemented", errors.UnsupportedOperationError, "NotSupported", False),
    ("amqp:internal-error", errors.ProviderError, "InternalError", True),
    ("amqp:link:detach-forced", errors.ProviderError, "ServerBusy", True),
    ("amqp:connection:forced", errors.ProviderError, "ServerBusy", True),
    ("com.microsoft:operation-cancelled", errors.ProviderError, "ServerBusy", True),
    ("com.contoso:never-heard-of", errors.ProviderError, "InternalError", True),
]


def of(condition: str, description: str = "") -> errors.QueueError:
    return error_of(Condition(condition, description, {}), entity="orders", session_id="s1")


def over_http(error: errors.QueueError, about: str) -> errors.QueueError:
    status, body = answer_to(error)
    return error_from(status, {}, json.dumps(body).encode(), about, retry_after=error.retry_after)


@pytest.mark.parametrize(("condition", "kind", "code", "transient"), TABLE)
def test_a_condition_becomes_the_error_of_the_table(
    condition: str, kind: type[errors.QueueError], code: str, transient: bool
) -> None:
    error = of(condition, "why")
    assert (type(error), error.code, error.is_transient) == (kind, code, transient)
    assert "orders" in str(error)
    assert "why" in str(error)


@pytest.mark.parametrize("about", [ABOUT_SESSION, ABOUT_RECEIPT, ABOUT_QUEUE])
@pytest.mark.parametrize("condition", [*sorted(_MEANINGS), "com.contoso:never-heard-of"])
def test_the_exception_of_a_condition_is_the_same_behind_a_gateway(condition: str, about: str) -> None:
    error = of(condition)
    # In the protocol, the status of a lost lock depends on the kind of request.
    if isinstance(error, (errors.SessionNotFoundError, errors.InvalidReceiptError)):
        about = ABOUT_SESSION if isinstance(error, errors.SessionNotFoundError) else ABOUT_RECEIPT
    back = over_http(error, about)
    assert type(back) is type(error)
    assert (back.code, back.is_transient, back.retry_after) == (error.code, error.is_transient, error.retry_after)
    assert str(back) == str(error)
    if isinstance(error, errors.ProviderError):
        assert isinstance(back, errors.ProviderError)
        assert back.status == error.status


def test_the_error_of_a_busy_namespace_has_a_time_to_wait() -> None:
    assert of("com.microsoft:server-busy").retry_after == 10


def test_a_detach_without_an_error_is_transient() -> None:
    error = error_of(None, entity="orders")
    assert isinstance(error, errors.ProviderError)
    assert error.is_transient


@pytest.mark.parametrize(
    "description",
    [
        "Unauthorized access. 'Send' claim(s) are required to perform this operation. Resource: 'sb://ns/q'. TrackingId:1_G2",
        "Unauthorized access. 'Listen' claim(s) are required to perform this operation. TrackingId:1_G2",
    ],
)
def test_a_missing_claim_is_a_denied_permission(description: str) -> None:
    assert type(of("amqp:unauthorized-access", description)) is errors.PermissionDeniedError


@pytest.mark.parametrize(
    "description",
    [
        "ExpiredToken: The token is expired. Expiration time: '2026-01-01', TrackingId:1",
        "InvalidSignature: The token has an invalid signature. TrackingId:1",
        "",
    ],
)
def test_a_refused_token_is_a_failed_authentication(description: str) -> None:
    assert type(of("amqp:unauthorized-access", description)) is errors.AuthenticationFailedError


@pytest.mark.parametrize(
    "secret",
    [
        "SharedAccessSignature sr=sb%3a%2f%2fns&sig=topsecret%3d&se=1&skn=root",
        "token sig=topsecret&se=1",
        "Bearer eyJhbGciOi.topsecret.sig",
        "jwt eyJhbGciOiJSUzI1.topsecret",
    ],
)
def test_a_token_in_a_description_is_removed(secret: str) -> None:
    assert "topsecret" not in str(of("amqp:unauthorized-access", f"Bad token {secret} TrackingId:7"))


def test_a_long_description_of_many_lines_becomes_one_short_line() -> None:
    text = str(of("amqp:internal-error", "a\r\nb\n" + "c" * 5000))
    assert "\n" not in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("status", "condition", "description", "kind"),
    [
        (410, "com.microsoft:session-lock-lost", "", errors.SessionNotFoundError),
        (410, "com.microsoft:message-lock-lost", "", errors.InvalidReceiptError),
        (404, "com.microsoft:message-not-found", "", errors.ProviderError),
        (404, None, "", errors.QueueNotFoundError),
        (401, None, "InvalidSignature", errors.AuthenticationFailedError),
        (403, None, "'Manage' claim(s) are required", errors.PermissionDeniedError),
        (403, None, "the quota is exceeded", errors.ProviderError),
        (401, "com.contoso:new", "", errors.AuthenticationFailedError),
        (503, None, "", errors.ThrottledError),
        (500, None, "", errors.ProviderError),
        (302, None, "", errors.ProviderError),
    ],
)
def test_the_error_of_a_response_follows_its_condition_or_else_its_status(
    status: int, condition: str | None, description: str, kind: type[errors.QueueError]
) -> None:
    refusal = refusal_of(Response("1", status, description, condition, None))
    error = error_of(refusal, entity="orders")
    assert refusal is not None
    assert type(error) is kind


def test_a_successful_response_has_no_error() -> None:
    assert refusal_of(Response("1", 202, "Accepted", None, None)) is None
