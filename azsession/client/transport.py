"""Requests of the protocol on their way: built, sent, sent again where that is safe, and turned into a result or an error.

There is no other way to the server. `SessionClient`, `ServiceBusProvider` and the renewer describe what they want as a
`Call`, and get what its `read` makes of the answer.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import urllib3.exceptions
from requests.structures import CaseInsensitiveDict

from ..config import ServiceBusConfig, is_loopback
from ..errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    PermissionDeniedError,
    ProviderError,
    QueueError,
    UnsupportedOperationError,
    one_line,
    revised,
)
from ..protocol import LOCK_EXPIRES_HEADER, PROTOCOL_HEADER, PROTOCOL_VERSION
from ..protocol.error_codes import (
    ENTITY_NOT_FOUND,
    MESSAGE_NOT_FOUND,
    RETRIED_STATUSES,
    error_from,
    parse_retry_after,
    parse_seconds,
)
from ..protocol.wire import MalformedError
from ..tokens import Token, TokenCache
from . import operations
from .call import Call, ServerResponse
from .cancellation import PendingCalls, RequestInFlight, ResponseTooLargeError
from .http_sockets import drop_inherited, send_prepared, stay, track
from .redacted import Redacted
from .retry import FailedAttemptError, clock_hint, final, may_have_acted, reason_of, root_of

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from .inprocess import InProcessAdapter

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of the first pause before a request is sent again, and the longest; each is drawn from 0 to it (full jitter).
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 10.0
#: What else than its own success an answer of version 1 means something by.
_MEANT_STATUSES = frozenset({404, 409, 410, 423})
#: What a proxy answers that passes a request on to nobody: it did not arrive in time, or is one too many.
_NOT_PASSED_ON = frozenset({408, 429})


class Transport:
    """Sends the requests of one provider. Safe to use from many threads.

    Args:
        http: What sends them.
        url: The base of all routes.
        config: Retries and timeouts.
        tokens: What authorizes them; `None` where the gateway is this process's own, which trusts its callers.
        local: Such a gateway's adapter, where it can be asked without `http` in between.

    Attributes:
        speaks_v1: The server said that it has version 1 of the protocol.
    """

    def __init__(
        self,
        http: requests.Session,
        url: str,
        config: ServiceBusConfig,
        tokens: TokenCache | None,
        local: InProcessAdapter | None = None,
    ) -> None:
        self._http = http
        self._local = local
        self._url = url.rstrip("/")
        self._config = config
        self._tokens = tokens
        self._settings: tuple[Any, dict[str, Any]] | None = None
        self.speaks_v1: bool = local is not None

    def __repr__(self) -> str:
        return f"<Transport to {self._url}>"

    @property
    def url(self) -> str:
        """The base of all routes."""
        return self._url

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's connections."""
        drop_inherited(self._http)
        self._settings = None
        if self._tokens is not None:
            self._tokens.after_fork()

    def send(self, call: Call[T], pending: PendingCalls | None = None) -> T:
        """Send a call, retry it if that is safe, and return its result. Blocks.

        Args:
            call: The call.
            pending: Cancels the call when it is stopped. `None`: the call always runs to its end.

        Raises:
            QueueError: The server refused the call, or did not answer.
        """
        if pending is None:
            return self._send(call)
        pending.add(call)
        try:
            return self._send(call)
        finally:
            pending.discard(call)

    def _send(self, call: Call[T]) -> T:
        started = time.monotonic()
        try:
            return self._attempt(call, call.wait or 0.0)
        except FailedAttemptError as failure:
            return self._send_again(call, failure, started)

    def _send_again(self, call: Call[T], failure: FailedAttemptError, started: float) -> T:
        # Here, not above: it would make importing azsession a good deal slower, and most calls never get here.
        from tenacity import Retrying, retry_if_exception

        first_failed = time.monotonic()
        patience = self._config.retry_deadline if call.retry_within is None else call.retry_within
        last = first_failed + patience
        if call.wait is not None:
            # A receive is bounded by its own timeout, but a short one still gets over a broken connection.
            last = min(last, started + max(call.wait, 1.0))
        pending = [failure]
        acted = failure.acted

        def attempt() -> T:
            if pending:
                raise pending.pop()
            nonlocal acted
            try:
                return self._attempt(call, max(0.0, (call.wait or 0.0) - (time.monotonic() - started)))
            except FailedAttemptError as again:
                acted = acted or again.acted
                raise

        def may_pass(error: BaseException) -> bool:
            return isinstance(error, FailedAttemptError) and (not error.acted or call.repeatable or self.speaks_v1)

        def is_over(state: RetryCallState) -> bool:
            return (
                state.attempt_number > self._config.retry_attempts
                or time.monotonic() + state.upcoming_sleep > last
                or (call.stopped is not None and call.stopped.is_set())
            )

        def sleep(seconds: float) -> None:
            if call.stopped is None:
                time.sleep(seconds)
            else:
                call.stopped.wait(seconds)

        retrying = Retrying(
            stop=is_over, wait=_pause, retry=retry_if_exception(may_pass), sleep=sleep, reraise=True, before_sleep=_log_pause
        )
        try:
            return retrying(attempt)
        except FailedAttemptError as last_one:
            raise final(last_one.error, acted) from last_one.error.__cause__
        except (AuthenticationFailedError, PermissionDeniedError) as error:
            # That this attempt was refused says nothing of the others.
            raise final(error, acted) from error.__cause__
        except QueueError as error:
            if acted and call.missing_is_success and error.code in (ENTITY_NOT_FOUND, MESSAGE_NOT_FOUND):
                return call.read(ServerResponse(204, {}, b"", started))
            if (getattr(error, "status", None) or 0) >= 500:
                # The server could not; whether an earlier attempt did, that does not tell.
                raise final(error, acted) from error.__cause__
            raise

    def _attempt(self, call: Call[T], wait: float) -> T:
        tokens = self._tokens
        if tokens is None:
            answer = self._exchange(call, wait, None)
        else:
            resource = f"{self._url}/{call.entity}"
            token = tokens.token(resource)
            answer = self._exchange(call, wait, token)
            if answer.status == 401:
                tokens.drop(resource, token.header)
                token = tokens.token(resource)
                answer = self._exchange(call, wait, token)
        succeeded = 200 <= answer.status < 300
        is_gateways = self._local is not None or answer.headers.get(PROTOCOL_HEADER) == PROTOCOL_VERSION
        if is_gateways:
            self.speaks_v1 = True
        elif self.speaks_v1 and (succeeded or answer.status in _MEANT_STATUSES):
            # What stands before the gateway said that, and it knows of no message and no lock.
            raise self._broken(f"answered {answer.status} without saying {PROTOCOL_HEADER}, as no gateway does")
        if not succeeded:
            # What another says of the gateway does not tell whether that has acted, unless it was not asked at all.
            acted = self.speaks_v1 and not is_gateways and answer.status not in _NOT_PASSED_ON
            raise self._error(call, answer, acted=acted)
        if answer.status not in call.success_statuses:
            raise self._broken(f"answered {answer.status}, which is no success of the protocol")
        try:
            return call.read(answer)
        except MalformedError as error:
            raise self._broken(f"gave a broken answer: {error}") from None

    def _broken(self, what: str) -> FailedAttemptError:
        return FailedAttemptError(ConnectionFailedError(f"{self._url} {what}", maybe_delivered=True), acted=True)

    def _error(self, call: Call[Any], answer: ServerResponse, *, acted: bool) -> Exception:
        status, headers = answer.status, answer.headers
        if 300 <= status < 400 or status < 200:
            return ProviderError(f"{self._url} answered {status}, which is no part of the protocol", status=status)
        error = error_from(
            status,
            headers,
            answer.body,
            call.about,
            lock_expires_in=parse_seconds(headers.get(LOCK_EXPIRES_HEADER)),
            retry_after=parse_retry_after(headers.get("Retry-After")),
        )
        if status == 401 and self._tokens is not None:
            error = revised(error, f"{error}{clock_hint(headers.get('Date'))}")
        return FailedAttemptError(error, acted=acted) if status in RETRIED_STATUSES else error

    def _exchange(self, call: Call[Any], wait: float, token: Token | None) -> ServerResponse:
        """Send once; return the answer, whatever it is."""
        limit = self._config.request_timeout + wait
        if call.response_timeout is not None:
            limit = max(0.1, min(limit, call.response_timeout))
        flight = RequestInFlight(time.monotonic() + limit, call.max_response_size)
        call.in_flight = flight
        if call.stopped is not None and call.stopped.is_set():
            flight.cancelled = True
        target = Redacted(call.path if call.query is None else f"{call.path}?{call.query(wait)}")
        sent = time.monotonic()
        try:
            if self._local is not None:
                own = self._local.ask(call.method, target, call.headers, call.body or b"", limit, flight)
                return ServerResponse(own.status, own.headers, own.body or b"", sent, own.messages)
            request = self._prepare(call, target, token)
            sent = time.monotonic()
            response = send_prepared(
                self._http,
                request,
                flight,
                timeout=(min(CONNECT_TIMEOUT, limit), limit),
                **self._current_settings(),
            )
            return ServerResponse(response.status_code, response.headers, response.content, sent)
        except QueueError:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Also what urllib3 raises for a few broken answers: its own errors, and those of reading a number that is none.
            cause = root_of(error)
            # It may quote what the server wrote, and a traceback shows it.
            cause.args = tuple(one_line(arg) if isinstance(arg, str) else arg for arg in cause.args)
            acted = may_have_acted(error, flight)
            failed = ConnectionFailedError(f"no answer from {self._url}: {reason_of(error, cause)}", maybe_delivered=acted)
            # Without its frames, whose locals are the request: its token, its body, its lock token.
            failed.__cause__ = cause.with_traceback(None)
            if isinstance(cause, ResponseTooLargeError):
                # It would be as large again.
                raise failed from failed.__cause__
            raise FailedAttemptError(failed, acted=acted) from None
        finally:
            call.in_flight = None

    def _prepare(self, call: Call[Any], target: str, token: Token | None) -> requests.PreparedRequest:
        """Return the request. What `requests` would look up anew each time, proxies and netrc, is left out here."""
        request = requests.PreparedRequest()
        request.method = call.method
        request.url = f"{self._url}{target}"
        headers: CaseInsensitiveDict[str | bytes] = CaseInsensitiveDict(self._http.headers.items())
        if token is not None:
            headers["Authorization"] = token.header
        for name, value in call.headers.items():
            headers[name] = value
        request.headers = headers
        if call.body is not None or call.method != "DELETE":
            request.body = call.body or b""
            if call.method != "GET":
                headers["Content-Length"] = str(len(request.body))
            elif not request.body:
                request.body = None
        request.hooks = _with_stay(self._http.hooks)
        request._cookies = self._http.cookies
        if self._http.cookies:
            request.prepare_cookies(self._http.cookies)
        return request

    def _current_settings(self) -> dict[str, Any]:
        """Return proxies, CA and client certificates, looked up in the environment once for the session's settings."""
        http = self._http
        key = (http.verify, http.cert, http.trust_env, tuple(http.proxies.items()))
        known = self._settings
        if known is None or known[0] != key:
            found = http.merge_environment_settings(self._url, {}, False, None, None)
            if not self._config.tls and is_loopback(self._config.host):
                # A proxy of the environment has a loopback of its own, and would be shown tokens in the clear on the way.
                found["proxies"] = dict(http.proxies)
            if self._config.ca_bundle is not None:
                found["verify"] = self._config.ca_bundle
            track(http, self._url, found["proxies"])
            known = self._settings = (key, dict(found))
        return known[1]

    def require_v1(self, operation: str) -> None:
        """Return where the server has version 1, asking it if it has not said so yet.

        Raises:
            UnsupportedOperationError: It does not.
        """
        if self.speaks_v1:
            return
        try:
            self.send(operations.check_health())
        except AuthenticationFailedError:
            raise
        except QueueError as error:
            if error.is_transient:
                # A gateway that starts, or what stands before it: that does not tell which dialect there is.
                raise
            if not self.speaks_v1:
                raise UnsupportedOperationError(
                    f"{self._url} has only the plain dialect, which has no way to {operation}"
                ) from None
        if not self.speaks_v1:
            raise UnsupportedOperationError(f"{self._url} has only the plain dialect, which has no way to {operation}")


def _with_stay(hooks: Any) -> dict[str, Any]:
    """Return the session's hooks, and behind them ours."""
    given = hooks.get("response") or []
    return {**hooks, "response": [*([given] if callable(given) else given), stay]}


def _pause(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: full jitter, but no less than the server asked for."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(state.attempt_number, 10))
    failure = state.outcome.exception() if state.outcome is not None else None
    asked = failure.error.retry_after if isinstance(failure, FailedAttemptError) else None
    return max(asked or 0.0, random.uniform(0, longest))  # noqa: S311 - no secret


def _log_pause(state: RetryCallState) -> None:
    failure = state.outcome.exception() if state.outcome is not None else None
    if isinstance(failure, FailedAttemptError):
        logger.info("trying again in %.2f s: %s", state.upcoming_sleep, failure.error)
