"""The retry policy: which failed attempts of a call are repeated, after which pauses, and for how long.

`Transport` makes the first attempt of each call itself, so that a call that succeeds costs nothing here. `retry_call` makes
the others. tenacity's building blocks are the policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from ..config import ServiceBusConfig
from ..errors import AuthenticationFailedError, ConnectionFailedError, PermissionDeniedError, ProviderError, QueueError
from ..protocol.error_codes import ENTITY_NOT_FOUND, MESSAGE_NOT_FOUND
from . import request_log
from .call import Call, ServerResponse

if TYPE_CHECKING:
    import threading

T = TypeVar("T")

#: Each pause is random, from 0 to a limit in seconds. The limit of the first pause; it doubles with each attempt.
FIRST_PAUSE = 0.2
#: The highest limit of a pause, in seconds.
LONGEST_PAUSE = 5.0
#: A receive is retried for at least this many seconds, also if its own timeout is shorter.
SHORTEST_RECEIVE = 1.0


class FailedAttemptError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        error: The error for the caller if there is no further attempt.
        maybe_delivered: The request may have taken effect although its response is unknown.
        cause: The exception behind `error`, or `None`.
    """

    def __init__(self, error: QueueError, *, maybe_delivered: bool, cause: BaseException | None = None) -> None:
        super().__init__(str(error))
        self.error: QueueError = error
        self.maybe_delivered: bool = maybe_delivered
        self.cause: BaseException | None = cause


class wait_at_least_retry_after(wait_base):  # noqa: N801 - named as tenacity names its building blocks
    """Waits as `wait` says, and at least as long as the server asked with ``Retry-After``."""

    def __init__(self, wait: wait_base) -> None:
        self._wait = wait

    def __call__(self, retry_state: RetryCallState) -> float:
        failure = None if retry_state.outcome is None else retry_state.outcome.exception()
        retry_after = failure.error.retry_after if isinstance(failure, FailedAttemptError) else None
        return max(retry_after or 0.0, self._wait(retry_state))


_WAIT = wait_at_least_retry_after(wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE))


class _Attempts(Generic[T]):
    """The attempts of one call, for tenacity to call.

    Attributes:
        maybe_delivered: An attempt may have taken effect although its response is unknown.
    """

    __name__ = "send"  # tenacity logs it.

    def __init__(self, first_failure: FailedAttemptError, attempt: Callable[[], T]) -> None:
        self._first_failure: FailedAttemptError | None = first_failure
        self._attempt = attempt
        self.maybe_delivered = first_failure.maybe_delivered

    def __call__(self) -> T:
        if self._first_failure is not None:
            # `Transport` made the first attempt. tenacity counts it, and waits before the second.
            failure, self._first_failure = self._first_failure, None
            raise failure
        try:
            return self._attempt()
        except FailedAttemptError as failure:
            self.maybe_delivered = self.maybe_delivered or failure.maybe_delivered
            raise


def retry_call(
    call: Call[T],
    first_failure: FailedAttemptError,
    attempt: Callable[[float], T],
    *,
    started: float,
    config: ServiceBusConfig,
    is_idempotent: Callable[[], bool],
) -> T:
    """Repeat a call whose first attempt failed, and return its result. Blocks.

    Args:
        call: The call.
        first_failure: The failure of the first attempt.
        attempt: Makes one attempt. Its argument is the number of seconds that the server may wait.
        started: When the first attempt began, on the monotonic clock.
        config: The number of attempts and the deadline.
        is_idempotent: Returns whether the server allows a repetition of this call although it may have taken effect.

    Raises:
        ConnectionFailedError: No attempt was answered; or an attempt may have taken effect, and the last one does not tell.
        QueueError: The server refused the call.
    """
    max_delay = config.retry_deadline if call.retry_within is None else call.retry_within
    if call.wait is not None:
        max_delay = min(max_delay, started + max(call.wait, SHORTEST_RECEIVE) - time.monotonic())
    stop: stop_base = stop_after_attempt(config.retry_attempts + 1) | stop_before_delay(max_delay)
    # tenacity uses only methods that both kinds of events have.
    stopped = cast("threading.Event | None", call.stopped)
    if stopped is not None:
        stop = stop | stop_when_event_set(stopped)

    def may_retry(error: BaseException) -> bool:
        return isinstance(error, FailedAttemptError) and (not error.maybe_delivered or is_idempotent())

    def note_repetition(state: RetryCallState) -> None:
        failed = None if state.outcome is None else state.outcome.exception()
        if isinstance(failed, FailedAttemptError):
            request_log.repetition(call, failed.error, state.attempt_number + 1, state.upcoming_sleep)

    attempts = _Attempts(first_failure, lambda: attempt(max(0.0, (call.wait or 0.0) - (time.monotonic() - started))))
    retrying = Retrying(
        retry=retry_if_exception(may_retry),
        stop=stop,
        wait=_WAIT,
        sleep=time.sleep if stopped is None else sleep_using_event(stopped),
        before_sleep=note_repetition,
        reraise=True,
    )
    try:
        result = retrying(attempts)
        request_log.success(call, retrying.statistics["attempt_number"])
        return result
    except FailedAttemptError as failure:
        error = _with_unknown_outcome(failure.error) if attempts.maybe_delivered else failure.error
        raise error from failure.cause
    except QueueError as error:
        if not attempts.maybe_delivered:
            raise
        if call.missing_is_success and error.code in (ENTITY_NOT_FOUND, MESSAGE_NOT_FOUND):
            return call.read(ServerResponse(204, {}, b"", started))
        if _tells_outcome(error):
            raise
        raise _with_unknown_outcome(error) from error.__cause__


def _tells_outcome(error: QueueError) -> bool:
    """Return whether the last error tells the outcome of earlier attempts. For example, a refusal of access does not."""
    if isinstance(error, (AuthenticationFailedError, PermissionDeniedError)):
        return False
    return not isinstance(error, ProviderError) or (error.status or 0) < 500


def _with_unknown_outcome(error: QueueError) -> QueueError:
    """Return the error of a call of which an attempt may have taken effect."""
    if isinstance(error, ConnectionFailedError) and error.maybe_delivered:
        return error
    return ConnectionFailedError(
        f"{error} (an attempt may have taken effect)",
        maybe_delivered=True,
        code=error.code,
        status=error.status if isinstance(error, ProviderError) else None,
        is_transient=error.is_transient,
        retry_after=error.retry_after,
    )
