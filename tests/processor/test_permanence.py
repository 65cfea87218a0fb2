"""Errors that end a processor, because another attempt cannot resolve them."""

from __future__ import annotations

import time

import pytest

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
    ConnectionFailedError,
    PermissionDeniedError,
    QueueNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
    ValidationError,
)
from azsession.processor.permanence import REFUSED_PATIENCE, Permanence


@pytest.mark.parametrize(
    "error", [ConfigurationError, PermissionDeniedError, QueueNotFoundError, UnsupportedOperationError, ValidationError]
)
def test_an_error_that_no_attempt_resolves_is_permanent_at_once(error: type[Exception]) -> None:
    assert Permanence().is_permanent(error("x"))


def test_refused_credentials_are_permanent_after_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    permanence = Permanence()
    assert not permanence.is_permanent(AuthenticationFailedError("refused"))
    now += REFUSED_PATIENCE - 1
    assert not permanence.is_permanent(AuthenticationFailedError("refused"))
    # Without an answer, nobody knows.
    assert not permanence.is_permanent(ConnectionFailedError("gone"))
    assert not permanence.is_permanent(ThrottledError("busy"))
    now += 1
    assert not permanence.is_permanent(ConnectionFailedError("gone"))
    assert permanence.is_permanent(AuthenticationFailedError("refused"))


def test_accepted_credentials_begin_a_new_period(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    permanence = Permanence()
    permanence.is_permanent(AuthenticationFailedError("refused"))
    now += REFUSED_PATIENCE
    permanence.succeeded()
    assert not permanence.is_permanent(AuthenticationFailedError("refused"))
