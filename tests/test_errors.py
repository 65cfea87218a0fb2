"""The exceptions: their tree is as `azsession.errors` draws it, they pickle, and they are complete when they are created."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from datetime import datetime, timezone
from typing import Any

import pytest

import azsession
from azsession import errors

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

EXAMPLES: list[errors.QueueError] = [
    errors.QueueError("m", code="c", is_transient=True, retry_after=2.5),
    errors.ProviderError("m", code="c", status=500, is_transient=True, retry_after=1.0),
    errors.ConnectionFailedError("m", maybe_delivered=True),
    errors.ThrottledError("m", code="Throttled", status=429, retry_after=3.0),
    errors.UnsupportedOperationError("m", status=405),
    errors.SessionNotFoundError("m", code="SessionLockLost"),
    errors.SessionLockedError("m", code="SessionLocked", locked_until=NOW, retry_after=4.0),
    errors.NoSessionAvailableError("m"),
    errors.InvalidReceiptError("m", code="Conflict"),
    errors.QueueNotFoundError("m", code="EntityNotFound"),
    errors.AuthenticationFailedError("m", code="Unauthorized"),
    errors.PermissionDeniedError("m", code="Forbidden"),
    errors.MessageTooLargeError("m", code="MessageTooLarge", size=10, limit=5),
    errors.ConfigurationError("m"),
    errors.ValidationError("m", code="InvalidRequest"),
]


def drawn_tree() -> dict[str, str]:
    """Return each class of the drawn tree with its parent."""
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


def test_the_classes_inherit_as_the_module_docstring_draws_them() -> None:
    found = {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__ if name != "QueueError"}
    assert drawn_tree() == found


def test_every_error_is_exported_and_has_an_example_here() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(errors.__all__)
    assert set(errors.__all__) <= set(azsession.__all__)


@pytest.mark.parametrize("kind", [errors.ConfigurationError, errors.ValidationError])
def test_configuration_and_validation_errors_are_value_errors(kind: type[Exception]) -> None:
    assert issubclass(kind, ValueError)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_error_keeps_its_text_and_attributes(error: errors.QueueError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.is_transient == error.is_transient


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_copied_error_keeps_its_attributes(error: errors.QueueError) -> None:
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_takes_the_common_keyword_arguments(name: str) -> None:
    error = getattr(errors, name)("m", code="c", is_transient=True, retry_after=1.5, accepted=3)
    assert (error.code, error.is_transient, error.retry_after, error.accepted) == ("c", True, 1.5, 3)
    assert pickle.loads(pickle.dumps(error)).accepted == 3


@pytest.mark.parametrize(
    "kind", [errors.ProviderError, errors.ConnectionFailedError, errors.ThrottledError, errors.UnsupportedOperationError]
)
def test_every_provider_error_takes_status_and_provider(kind: type[errors.ProviderError]) -> None:
    error = pickle.loads(pickle.dumps(kind("m", status=503, provider="emulator")))
    assert (error.status, error.provider) == (503, "emulator")


def failing() -> None:
    try:
        raise OSError("no route")
    except OSError as error:
        raise errors.ConnectionFailedError("no answer", maybe_delivered=True) from error


def test_a_revised_error_keeps_all_but_its_revisions() -> None:
    try:
        failing()
    except errors.ConnectionFailedError as error:
        original, again = error, errors.revised(error, "no answer\n(2 of 3)", code="OutcomeUnknown", accepted=2)
    assert (type(again), str(again)) == (errors.ConnectionFailedError, "no answer (2 of 3)")
    assert (again.code, again.accepted, again.maybe_delivered) == ("OutcomeUnknown", 2, True)
    assert isinstance(again.__cause__, OSError)
    assert [frame.name for frame in traceback.extract_tb(again.__traceback__)][-1] == "failing"
    assert (str(original), original.code, original.accepted) == ("no answer", None, 0)


TRANSIENT = {errors.ConnectionFailedError, errors.ThrottledError, errors.SessionLockedError, errors.NoSessionAvailableError}


@pytest.mark.parametrize("name", errors.__all__)
def test_only_these_errors_are_transient_by_default(name: str) -> None:
    kind: Any = getattr(errors, name)
    assert kind("m").is_transient == (kind in TRANSIENT)


def test_every_error_has_the_common_attributes() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)("m")
        assert (error.code, error.retry_after, error.accepted) == (None, None, 0)


def test_a_provider_error_names_its_provider() -> None:
    assert errors.ProviderError("m").provider == errors.ConnectionFailedError("m").provider == "azure-servicebus"
