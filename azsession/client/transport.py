"""`Transport`: the only way to the server. It sends a `Call` as a request, and returns its result or raises its error.

`SessionClient`, `ServiceBusProvider` and the lock renewer send their calls here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from requests.structures import CaseInsensitiveDict

from .. import interrupts
from ..config import ServiceBusConfig, is_loopback
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
    EXTENSIONS_HEADER,
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
from .call import Call, ServerResponse
from .cancellation import PendingCalls, RequestInFlight, ResponseTooLargeError
from .http_sockets import drop_inherited, free_cookies, ignore_redirect, proxy_of, send_prepared, track_connections
from .network_errors import NETWORK_ERRORS, clock_hint, failure_of
from .redacted import Redacted
from .response_sink import copy_file
from .retry import FailedAttemptError, retry_call

if TYPE_CHECKING:
    from .inprocess import InProcessAdapter

T = TypeVar("T")

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 10.0
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
        self._http = http
        self._in_process = in_process
        self._url = url.rstrip("/")
        self._config = config
        self._tokens = tokens
        self._telemetry = telemetry or Telemetry()
        self._http_settings: tuple[object, dict[str, Any]] | None = None
        self._proxy: str | None = None
        self.speaks_v1: bool = in_process is not None
        self.fetches_ahead: bool = in_process is not None
        self.combines: bool = in_process is not None and COMBINED in SERVER_EXTENSIONS
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
        drop_inherited(self._http)
        self._http_settings = None
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
            return ProviderError(
                f"the proxy {self._proxy or self._url} refused the request (407): it needs a user and a password in its URL",
                status=status,
            )
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
                answer = self._in_process.ask(call.method, target, call.headers, call.body or b"", timeout, in_flight)
                if answer.download is not None and call.sink is not None:
                    copy_file(answer.download.file, call.sink)
                body = answer.body or b""
                return ServerResponse(answer.status, answer.headers, body, sent_at, answer.messages, SERVER_EXTENSIONS)
            request = self._prepare(call, target, token)
            sent_at = time.monotonic()
            response = send_prepared(
                self._http,
                request,
                in_flight,
                call.sink,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                **self._current_http_settings(),
            )
            extensions = response.headers.get(EXTENSIONS_HEADER, "")
            return ServerResponse(response.status_code, response.headers, response.content, sent_at, extensions=extensions)
        except QueueError:
            raise
        except NETWORK_ERRORS as error:
            interrupts.let_pass(error, older)
            failure = failure_of(error, self._url, in_flight, proxy=self._proxy)
            if isinstance(failure.cause, ResponseTooLargeError):
                # A retry would get the same response.
                raise failure.error from failure.cause
            raise failure from None
        finally:
            call.in_flight = None

    def _prepare(self, call: Call[T], target: str, token: Token | None) -> requests.PreparedRequest:
        """Return the request. `requests.Session.prepare_request` would look for proxies and netrc each time."""
        request = requests.PreparedRequest()
        request.method = call.method
        request.url = f"{self._url}{target}"
        headers: CaseInsensitiveDict[str | bytes] = CaseInsensitiveDict(self._http.headers.items())
        if token is not None:
            headers["Authorization"] = token.header
        for name, value in call.headers.items():
            headers[name] = value
        self._telemetry.inject(headers)
        request.headers = headers
        if call.body is not None or call.method != "DELETE":
            request.body = call.body or b""
            if call.method != "GET":
                headers["Content-Length"] = str(len(request.body))
            elif not request.body:
                request.body = None
        request.hooks = _with_own_hook(self._http.hooks)
        request._cookies = self._http.cookies
        if self._http.cookies:
            with free_cookies(self._http):
                request.prepare_cookies(self._http.cookies)
        return request

    def _current_http_settings(self) -> dict[str, Any]:
        """Return proxies, CA and client certificates. The environment is read again only if the session's settings change."""
        http = self._http
        key = (http.verify, http.cert, http.trust_env, tuple(http.proxies.items()))
        known = self._http_settings
        if known is None or known[0] != key:
            found = http.merge_environment_settings(self._url, {}, False, None, None)
            if not self._config.tls and is_loopback(self._config.host):
                # A proxy of the environment would see the tokens in clear text, and would connect to its own loopback.
                found["proxies"] = dict(http.proxies)
            if self._config.ca_bundle is not None:
                found["verify"] = self._config.ca_bundle
            elif not found["verify"] and found["verify"] is not False:
                # requests does not verify certificates for any false value, for example an empty text.
                found["verify"] = True
            track_connections(http, self._url, found["proxies"])
            self._proxy = proxy_of(self._url, found["proxies"])
            known = self._http_settings = (key, dict(found))
        return known[1]

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


def _with_own_hook(hooks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hooks of the HTTP session, and after them `ignore_redirect`."""
    given: Callable[..., object] | list[Callable[..., object]] = hooks.get("response") or []
    return {**hooks, "response": [*([given] if callable(given) else given), ignore_redirect]}
