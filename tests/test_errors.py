"""The tree of exceptions: as at the top of `azsession.errors`, and able to cross processes."""

from __future__ import annotations

import copy
import pickle
import re
from datetime import datetime, timezone
from typing import Any

import pytest

import azsession
from azsession import errors
from azsession.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    ConnectionFailedError,
    InvalidReceiptError,
    MessageTooLargeError,
    NoSessionAvailableError,
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

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

EXAMPLES: list[QueueError] = [
    QueueError("m", code="c", is_transient=True, retry_after=2.5),
    ProviderError("m", code="c", status=500, is_transient=True, retry_after=1.0),
    ConnectionFailedError("m", maybe_delivered=True),
    ThrottledError("m", code="Throttled", status=429, retry_after=3.0),
    UnsupportedOperationError("m", status=405),
    SessionNotFoundError("m", code="SessionLockLost"),
    SessionLockedError("m", code="SessionLocked", locked_until=NOW, retry_after=4.0),
    NoSessionAvailableError("m"),
    InvalidReceiptError("m", code="Conflict"),
    QueueNotFoundError("m", code="EntityNotFound"),
    AuthenticationFailedError("m", code="Unauthorized"),
    PermissionDeniedError("m", code="Forbidden"),
    MessageTooLargeError("m", code="MessageTooLarge", size=10, limit=5),
    ConfigurationError("m"),
    ValidationError("m", code="InvalidRequest"),
]


def drawn_tree() -> dict[str, str]:
    """Return each class that the picture shows, with the one that it stands under."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─\s]*)([A-Z]\w+Error)\b", line)
        if match is not None:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            if depth:
                parents[match[2]] = path[depth - 1]
    return parents


def test_the_tree_is_as_drawn() -> None:
    found = {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__ if name != "QueueError"}
    assert drawn_tree() == found


def test_every_error_has_an_example_here_and_is_a_public_name() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)
    assert set(errors.__all__) <= set(azsession.__all__)


@pytest.mark.parametrize("kind", [ConfigurationError, ValidationError])
def test_what_is_wrong_with_an_argument_is_a_value_error_too(kind: type[Exception]) -> None:
    assert issubclass(kind, ValueError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling_with_all_that_it_says(error: QueueError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.is_transient == error.is_transient


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_copying(error: QueueError) -> None:
    assert vars(copy.copy(error)) == vars(error)


def test_what_a_caller_notes_on_an_error_is_pickled_with_it() -> None:
    error = ProviderError("m")
    error.accepted = 3  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).accepted == 3


TRANSIENT = {ConnectionFailedError, ThrottledError, SessionLockedError, NoSessionAvailableError}


@pytest.mark.parametrize("name", errors.__all__)
def test_what_may_pass_says_so(name: str) -> None:
    kind: Any = getattr(errors, name)
    assert kind("m").is_transient == (kind in TRANSIENT)


def test_every_error_has_the_common_attributes() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)("m")
        assert (error.code, error.retry_after) == (None, None)


def test_a_provider_error_names_its_provider() -> None:
    assert ProviderError("m").provider == ConnectionFailedError("m").provider == "azure-servicebus"
