"""The retry policy alone: injected attempts, no server, and pauses that are recorded instead of slept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tenacity import RetryCallState, Retrying, wait_fixed

from azsession import AuthenticationFailedError, ConnectionFailedError, ProviderError, QueueError, QueueNotFoundError
from azsession.client import retry
from azsession.client.call import Call, ServerResponse
from azsession.client.retry import FailedAttemptError, retry_call, wait_at_least_retry_after
from azsession.config import ServiceBusConfig


class Attempts:
    """Fails with the given errors, one an attempt, and then succeeds with "done"."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.waits: list[float] = []

    def __call__(self, wait: float) -> str:
        self.waits.append(wait)
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", found.append)
    return found


def failure(*, maybe_delivered: bool = False, retry_after: float | None = None, **details: Any) -> FailedAttemptError:
    error = ProviderError("busy", code="ServerBusy", status=503, is_transient=True, retry_after=retry_after, **details)
    return FailedAttemptError(error, maybe_delivered=maybe_delivered)


def call(**fields: Any) -> Call[str]:
    return Call(method="POST", path="/q", entity="q", read=lambda response: "gone", **fields)


def run(
    attempts: Callable[[float], str],
    first: FailedAttemptError | None = None,
    *,
    made: Call[str] | None = None,
    idempotent: bool = True,
    ago: float = 0.0,
    **config: Any,
) -> str:
    return retry_call(
        call() if made is None else made,
        failure() if first is None else first,
        attempts,
        started=time.monotonic() - ago,
        config=ServiceBusConfig(gateway_url="https://h", **config),
        is_idempotent=lambda: idempotent,
    )


def test_a_call_is_repeated_until_it_succeeds(pauses: list[float]) -> None:
    attempts = Attempts(failure(), failure())
    assert run(attempts) == "done"
    assert len(attempts.waits) == len(pauses) == 3


def test_retry_attempts_bounds_the_repetitions(pauses: list[float]) -> None:
    attempts = Attempts(*[failure() for _ in range(9)])
    with pytest.raises(ProviderError, match="busy"):
        run(attempts, retry_attempts=2)
    assert len(attempts.waits) == len(pauses) == 2


def test_no_repetition_with_zero_retry_attempts(pauses: list[float]) -> None:
    attempts = Attempts()
    with pytest.raises(ProviderError, match="busy"):
        run(attempts, retry_attempts=0)
    assert (attempts.waits, pauses) == ([], [])


def test_pauses_are_random_below_a_limit_that_doubles(pauses: list[float]) -> None:
    run(Attempts(*[failure() for _ in range(8)]), retry_attempts=9)
    limits = [min(retry.LONGEST_PAUSE, retry.FIRST_PAUSE * 2.0**n) for n in range(9)]
    assert all(0 <= pause <= limit for pause, limit in zip(pauses, limits, strict=True))
    assert len(set(pauses)) == 9


def test_a_pause_is_at_least_what_the_server_asked_for(pauses: list[float]) -> None:
    run(Attempts(failure(retry_after=0.01)), failure(retry_after=7.0))
    assert pauses[0] == 7.0
    assert pauses[1] >= 0.01


def test_a_pause_that_passes_the_deadline_is_not_begun(pauses: list[float]) -> None:
    with pytest.raises(ProviderError, match="busy"):
        run(Attempts(), failure(retry_after=31.0), retry_deadline=30.0)
    assert pauses == []


def test_a_call_can_be_retried_for_less_long_than_the_configuration_says(pauses: list[float]) -> None:
    with pytest.raises(ProviderError, match="busy"):
        run(Attempts(), made=call(retry_within=0.0))
    assert pauses == []


def test_a_receive_is_retried_within_its_own_timeout_and_waits_for_the_rest_of_it(pauses: list[float]) -> None:
    attempts = Attempts()
    assert run(attempts, failure(retry_after=4.0), made=call(wait=5.0)) == "done"
    assert attempts.waits[0] <= 5.0
    with pytest.raises(ProviderError, match="busy"):
        run(Attempts(), failure(retry_after=6.0), made=call(wait=5.0))


def test_a_stopped_call_is_not_repeated(pauses: list[float]) -> None:
    stopped = threading.Event()
    stopped.set()
    attempts = Attempts()
    with pytest.raises(ProviderError, match="busy"):
        run(attempts, made=call(stopped=stopped))
    assert attempts.waits == []


def test_stopping_a_call_ends_its_pause() -> None:
    stopped = threading.Event()
    threading.Timer(0.1, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(ProviderError, match="busy"):
        run(Attempts(failure()), failure(retry_after=20.0), made=call(stopped=stopped))
    assert time.monotonic() - began < 10


def test_a_call_that_may_have_taken_effect_is_repeated_only_if_that_is_safe(pauses: list[float]) -> None:
    assert run(Attempts(), failure(maybe_delivered=True)) == "done"
    attempts = Attempts()
    with pytest.raises(ConnectionFailedError) as caught:
        run(attempts, failure(maybe_delivered=True), idempotent=False)
    assert (attempts.waits, caught.value.maybe_delivered) == ([], True)


@pytest.mark.parametrize(
    "last",
    [
        failure(),
        AuthenticationFailedError("no"),
        ProviderError("no", status=500),
        ProviderError("no", status=501, code="NotSupported"),
    ],
)
def test_an_error_that_does_not_tell_the_outcome_says_that_an_attempt_may_have_taken_effect(
    pauses: list[float], last: Exception
) -> None:
    with pytest.raises(ConnectionFailedError, match="may have taken effect") as caught:
        run(Attempts(last), failure(maybe_delivered=True), retry_attempts=1)
    known = last.error if isinstance(last, FailedAttemptError) else last
    assert isinstance(known, QueueError)
    assert (caught.value.code, caught.value.maybe_delivered) == (known.code, True)


def test_a_refusal_after_an_attempt_that_may_have_taken_effect_is_the_outcome(pauses: list[float]) -> None:
    with pytest.raises(QueueNotFoundError):
        run(Attempts(QueueNotFoundError("gone", code="EntityNotFound")), failure(maybe_delivered=True))


def test_a_deletion_whose_first_attempt_took_effect_succeeds(pauses: list[float]) -> None:
    deletion = call(missing_is_success=True)
    gone = QueueNotFoundError("gone", code="EntityNotFound")
    assert run(Attempts(gone), failure(maybe_delivered=True), made=deletion) == "gone"
    with pytest.raises(QueueNotFoundError):
        run(Attempts(gone), failure(), made=deletion)


def test_an_interrupt_goes_through_at_once(pauses: list[float]) -> None:
    def interrupted(wait: float) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
    assert len(pauses) == 1


def test_each_repetition_is_logged_without_a_secret(pauses: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession")
    run(Attempts())
    assert ["busy" in message for message in caplog.messages] == [True, False]
    assert "succeeded at attempt 2" in caplog.text


def test_a_repetition_waits_for_the_rest_of_the_calls_wait(pauses: list[float]) -> None:
    attempts = Attempts()
    run(attempts, made=call(wait=5.0), ago=3.0)
    assert 0 < attempts.waits[0] <= 2
    attempts = Attempts()
    run(attempts, made=call(wait=None))
    run(attempts, made=call(wait=0.25), ago=0.5)
    assert attempts.waits == [0, 0]


def test_the_last_error_is_raised_as_it_is_with_its_cause(pauses: list[float]) -> None:
    cause = OSError("refused")
    error = ProviderError("busy", code="ServerBusy", status=503)
    with pytest.raises(ProviderError) as caught:
        run(Attempts(FailedAttemptError(error, maybe_delivered=False, cause=cause)), retry_attempts=1)
    assert caught.value is error
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("transient", [False, True])
def test_an_error_with_an_unknown_outcome_keeps_what_the_server_said(pauses: list[float], transient: bool) -> None:
    last = ProviderError("no", code="NotSupported", status=501, is_transient=transient, retry_after=3.0)
    last.__cause__ = OSError("refused")
    with pytest.raises(ConnectionFailedError) as caught:
        run(Attempts(last), failure(maybe_delivered=True))
    error = caught.value
    assert str(error) == "no (an attempt may have taken effect)"
    assert (error.code, error.status, error.is_transient, error.retry_after) == ("NotSupported", 501, transient, 3.0)
    assert error.__cause__ is last.__cause__


def test_a_lost_connection_with_an_unknown_outcome_is_raised_as_it_is(pauses: list[float]) -> None:
    lost = ConnectionFailedError("cut", maybe_delivered=True)
    with pytest.raises(ConnectionFailedError) as caught:
        run(Attempts(FailedAttemptError(lost, maybe_delivered=True)), retry_attempts=1)
    assert caught.value is lost


def test_a_repeated_deletion_reads_an_empty_success(pauses: list[float]) -> None:
    seen: list[ServerResponse] = []
    deletion: Call[Any] = Call(method="DELETE", path="/q", entity="q", read=seen.append, missing_is_success=True)
    for code in ("EntityNotFound", "MessageNotFound"):
        run(Attempts(QueueNotFoundError("gone", code=code)), failure(maybe_delivered=True), made=deletion, ago=7.0)
        (response,) = seen
        assert (response.status, response.headers, response.body) == (204, {}, b"")
        assert 7 <= time.monotonic() - response.sent_at < 20
        seen.clear()


def test_the_pause_depends_on_the_failure_and_on_the_policy_below() -> None:
    pause = wait_at_least_retry_after(wait_fixed(3))
    state = RetryCallState(Retrying(), None, (), {})
    assert pause(state) == 3
    for error, expected in ((failure(retry_after=9.0), 9), (failure(retry_after=1.0), 3), (failure(), 3), (OSError(), 3)):
        state.set_exception((type(error), error, None))
        assert pause(state) == expected
