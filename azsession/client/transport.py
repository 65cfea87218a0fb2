"""`Transport`: the only way to the server. It sends a `Call` as a request, and returns its result or raises its error.

`SessionClient`, `ServiceBusProvider` and the lock renewer send their calls here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import requests

from .. import interrupts
from ..config import ServiceBusConfig
from ..errors import (
    AuthenticationFailedError,
    ConfigurationError,
    ConnectionFailedError,
    ProviderError,
    QueueError,
    UnsupportedOperationError,
    revised,
)
from ..protocol import (
    COMBINED,
    FETCH_AHEAD,
    LOCK_EXPIRES_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    SERVER_EXTENSIONS,
)
from ..protocol.error_codes import RETRIED_STATUSES, error_from, parse_retry_after, parse_seconds
from ..protocol.routes import entity_path
from ..protocol.wire import MalformedError
from ..telemetry import Telemetry
from ..token_cache import TokenCache
from ..tokens import Token
from . import operations, request_log
from .call import Call, ServerResponse, SessionTarget
from .cancellation import PendingCalls, RequestInFlight, ResponseTooLargeError
from .http_exchange import HttpExchange
from .network_errors import NETWORK_ERRORS, clock_hint, failure_of
from .redacted import Redacted
from .response_sink import copy_file
from .responses import LockGrant
from .retry import FailedAttemptError, retry_call

if TYPE_CHECKING:
    from .inprocess import InProcessAdapter

T = TypeVar("T")

#: Statuses other than 2xx that have a meaning in version 1 of the protocol. Only a gateway answers with them.
_PROTOCOL_STATUSES = frozenset({404, 409, 410, 423})
#: Statuses of a proxy that did not pass the request on: it arrived too late, or it was one too many.
_NOT_PASSED_ON = frozenset({408, 429})


class Transport:
    """Sends the calls of one provider. Thread-safe.

    Args:
        http: The HTTP session.
        url: The base URL of all routes.
        config: Retries and timeouts.
        tokens: The tokens for ``Authorization``. `None` if the backend runs in this process and trusts its callers.
        in_process: The adapter of that backend, if requests can go to it without passing through `http`.
        telemetry: Adds the trace context of the current span to the headers of requests.

    Attributes:
        speaks_v1: The server is known to speak version 1 of the protocol.
        fetches_ahead: The server is known to let clients fetch messages ahead without counting a delivery.
        combines: The server is known to take two steps in one request. A grant says whether the session's own gateway does.
    """

    def __init__(
        self,
        http: requests.Session,
        url: str,
        config: ServiceBusConfig,
        tokens: TokenCache | None,
        in_process: InProcessAdapter | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._in_process = in_process
        self._url = url.rstrip("/")
        self._config = config
        self._tokens = tokens
        self._http = HttpExchange(http, self._url, config, telemetry or Telemetry())
        self.speaks_v1: bool = in_process is not None
        self.fetches_ahead: bool = in_process is not None
        self.combines: bool = in_process is not None
        self._has_answered_plainly = False

    @property
    def may_speak_v1(self) -> bool:
        """Whether the server speaks version 1, or has not shown yet which dialect it speaks."""
        return self.speaks_v1 or not self._has_answered_plainly

    def __repr__(self) -> str:
        return f"<Transport to {self._url}>"

    @property
    def url(self) -> str:
        """The base URL of all routes."""
        return self._url

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's connections."""
        self._http.after_fork()
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

    def take_offered(self, session: SessionTarget, request_id: str) -> LockGrant | None:
        """Return the result of a receive of one message that needs no request. Does not block.

        A broker in this process can have the message at hand: AMQP brings it with the settlement of the message before.

        Args:
            session: The session, which the caller holds.
            request_id: The request id of the receive. A request with the same id gets the same message again.

        Returns:
            The lock and the message; `None` if a request is needed.
        """
        if self._in_process is None or request_log.is_on():
            return None
        return self._in_process.take_offered(session, request_id)

    def _send(self, call: Call[T]) -> T:
        started = time.monotonic()
        try:
            return self._attempt(call, call.wait or 0.0)
        except FailedAttemptError as failure:
            return retry_call(
                call,
                failure,
                lambda wait: self._attempt(call, wait),
                started=started,
                config=self._config,
                is_idempotent=lambda: call.repeatable or self.speaks_v1,
            )

    def _attempt(self, call: Call[T], wait: float) -> T:
        """Send a call once, and return its result. `wait`: seconds that the server may wait."""
        response = self._respond(call, wait)
        if request_log.is_on():
            request_log.response(call, response)
        succeeded = 200 <= response.status < 300
        from_gateway = self._in_process is not None or response.headers.get(PROTOCOL_HEADER) == PROTOCOL_VERSION
        if from_gateway:
            self.speaks_v1 = True
            # Gateways behind a load balancer may have different versions.
            self.fetches_ahead = FETCH_AHEAD in response.extensions
            self.combines = COMBINED in response.extensions and self.fetches_ahead
        elif self.speaks_v1 and (succeeded or response.status in _PROTOCOL_STATUSES):
            # A proxy in front of the gateway answered. It knows nothing about messages and locks.
            raise self._malformed(f"answered {response.status} without {PROTOCOL_HEADER}: the answer is not the gateway's")
        elif succeeded:
            self._has_answered_plainly = True
        if not succeeded:
            # A proxy's error does not say whether the gateway got the request, unless the proxy did not pass it on.
            maybe_delivered = self.speaks_v1 and not from_gateway and response.status not in _NOT_PASSED_ON
            raise self._error_of(call, response, maybe_delivered=maybe_delivered)
        if response.status not in call.success_statuses:
            raise self._malformed(f"answered {response.status}, which the protocol does not use")
        try:
            return call.read(response)
        except MalformedError as error:
            raise self._malformed(f"gave a malformed response: {error}") from None

    def _respond(self, call: Call[T], wait: float) -> ServerResponse:
        """Send a call, and once more with a new token if the server refuses the token; return the response."""
        if self._tokens is None:
            return self._exchange(call, wait, None)
        resource = f"{self._url}{entity_path(call.entity)}"
        token = self._token(self._tokens, call, resource)
        response = self._exchange(call, wait, token)
        if response.status == 401 and self._tokens.drop(resource, token.header):
            response = self._exchange(call, wait, self._token(self._tokens, call, resource))
        return response

    def _token(self, tokens: TokenCache, call: Call[T], resource: str) -> Token:
        """Return the token for a resource. Cancelling the call ends the wait for a new one."""
        timeout = self._config.request_timeout
        if call.response_timeout is not None:
            timeout = min(timeout, call.response_timeout)

        def on_cancel(end_wait: Callable[[], object] | None) -> None:
            if end_wait is None:
                call.in_flight = None
            else:
                self._begin(call, timeout).on_cancel(end_wait)

        try:
            return tokens.token(resource, timeout, on_cancel)
        except AuthenticationFailedError:
            if call.stopped is None or not call.stopped.is_set():
                raise
            error = ConnectionFailedError(f"the request to {self._url} was cancelled", maybe_delivered=False)
            raise FailedAttemptError(error, maybe_delivered=False) from None

    @staticmethod
    def _begin(call: Call[T], timeout: float) -> RequestInFlight:
        """Return a new attempt to send a call. Closing the client cancels it."""
        in_flight = RequestInFlight(time.monotonic() + timeout, call.max_response_size)
        call.in_flight = in_flight
        if call.stopped is not None and call.stopped.is_set():
            in_flight.cancelled = True
        return in_flight

    def _malformed(self, what: str) -> FailedAttemptError:
        return FailedAttemptError(ConnectionFailedError(f"{self._url} {what}", maybe_delivered=True), maybe_delivered=True)

    def _error_of(self, call: Call[T], response: ServerResponse, *, maybe_delivered: bool) -> Exception:
        """Return the error for a response that is not a success."""
        status, headers = response.status, response.headers
        if 300 <= status < 400 or status < 200:
            return ProviderError(f"{self._url} answered {status}, which the protocol does not use", status=status)
        if status == 407:
            proxy = self._http.proxy or self._url
            text = f"the proxy {proxy} refused the request (407): it needs a user and a password in its URL"
            return ProviderError(text, status=status)
        error = error_from(
            status,
            headers,
            response.body,
            call.about,
            lock_expires_in=parse_seconds(headers.get(LOCK_EXPIRES_HEADER)),
            retry_after=parse_retry_after(headers.get("Retry-After")),
        )
        if status == 401 and self._tokens is not None:
            error = revised(error, f"{error}{clock_hint(headers.get('Date'))}")
        return FailedAttemptError(error, maybe_delivered=maybe_delivered) if status in RETRIED_STATUSES else error

    def _exchange(self, call: Call[T], wait: float, token: Token | None) -> ServerResponse:
        """Send one request, and return the response, whatever its status."""
        timeout = self._config.request_timeout + wait
        if call.response_timeout is not None:
            timeout = max(0.1, min(timeout, call.response_timeout))
        in_flight = self._begin(call, timeout)
        target = Redacted(call.path if call.query is None else f"{call.path}?{call.query(wait)}")
        sent_at, older = time.monotonic(), interrupts.handled()
        try:
            if self._in_process is not None:
                if call.completes is None:
                    answer = self._in_process.ask(call.method, target, call.headers, call.body or b"", timeout, in_flight)
                else:
                    answer = self._in_process.complete(*call.completes, timeout, in_flight)
                if answer.download is not None and call.sink is not None:
                    copy_file(answer.download.file, call.sink)
                body = answer.body or b""
                return ServerResponse(answer.status, answer.headers, body, sent_at, answer.messages, SERVER_EXTENSIONS)
            return self._http.send(call, target, None if token is None else token.header, in_flight, timeout)
        except QueueError:
            raise
        except NETWORK_ERRORS as error:
            interrupts.let_pass(error, older)
            failure = failure_of(error, self._url, in_flight, proxy=self._http.proxy)
            if isinstance(failure.cause, ResponseTooLargeError):
                # A retry would get the same response.
                raise failure.error from failure.cause
            raise failure from None
        finally:
            call.in_flight = None

    def require_v1(self, operation: str) -> None:
        """Return if the server speaks version 1 of the protocol. Ask the server first if that is unknown. Blocks.

        Args:
            operation: The operation that needs version 1, for the error message. For example ``"list sessions"``.

        Raises:
            UnsupportedOperationError: The server speaks only the plain dialect.
            AuthenticationFailedError: The server refused the token.
            ConfigurationError: The proxy cannot be used.
            QueueError: The server did not answer, or is overloaded, so that its dialect is unknown.
        """
        if self.speaks_v1:
            return
        try:
            self.send(operations.check_health())
        except (AuthenticationFailedError, ConfigurationError):
            raise
        except QueueError as error:
            # A transient error comes from a gateway that is starting, or from a proxy: the dialect stays unknown.
            if error.is_transient or interrupts.raised_by_handler(error):
                raise
        if not self.speaks_v1:
            raise UnsupportedOperationError(f"{self._url} speaks only the plain dialect, which cannot {operation}")
