"""`HttpExchange`: one request over HTTP with a `requests.Session`, and its response. `Transport` is the caller.

A `requests.Session` can have much that changes a request: hooks, authentication, cookies, adapters, proxies, methods that a
subclass or a mock replaced. There are three ways to send a request, and each call takes the shortest that leaves nothing out:
through the session, through its adapter, or with the pool of the provider's own adapter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.structures import CaseInsensitiveDict

from ..config import ServiceBusConfig, is_loopback
from ..protocol import EXTENSIONS_HEADER
from .call import Call, ServerResponse
from .cancellation import RequestInFlight
from .http_sockets import (
    PooledAdapter,
    drop_inherited,
    free_cookies,
    ignore_redirect,
    keep_cookies,
    proxy_of,
    send_prepared,
    send_with_pool,
    track_connections,
)
from .originals import Methods

if TYPE_CHECKING:
    from ..telemetry import Telemetry

#: Seconds to wait for a connection.
CONNECT_TIMEOUT = 10.0
#: The methods that a request through the adapter, or with its pool, does not call.
_OF_SESSIONS = Methods((requests.Session, "send"), (requests.Session, "get_adapter"))
_OF_ADAPTERS = Methods((HTTPAdapter, "send"), (HTTPAdapter, "build_response"), (HTTPAdapter, "add_headers"))


class HttpExchange:
    """Sends the requests of one provider. Thread-safe.

    Args:
        http: The HTTP session.
        url: The base URL of all routes, without a slash at its end.
        config: The certificates to trust, and whether the server is on this machine.
        telemetry: Adds the trace context of the current span to the headers of requests.

    Attributes:
        proxy: The proxy of the last request, as messages name it, or `None`.
    """

    def __init__(self, http: requests.Session, url: str, config: ServiceBusConfig, telemetry: Telemetry) -> None:
        self._http = http
        self._url = url
        path_at = url.find("/", len("https://"))
        self._server, self._prefix = (url, "") if path_at < 0 else (url[:path_at], url[path_at:])
        self._config = config
        self._telemetry = telemetry
        self._settings: tuple[object, dict[str, Any]] | None = None
        self._session_headers: tuple[tuple[tuple[str, Any], ...], dict[str, str] | None] = ((), None)
        self.proxy: str | None = None

    def after_fork(self) -> None:
        """In a forked child: let go of the parent's connections, and read the environment again."""
        drop_inherited(self._http)
        self._settings = None

    def send(
        self, call: Call[Any], target: str, token: str | None, in_flight: RequestInFlight, timeout: float
    ) -> ServerResponse:
        """Send a request, and return the response with its body read, whatever its status. Blocks.

        Args:
            call: The call.
            target: The path and query below the base URL.
            token: The header ``Authorization``.
            in_flight: The limits of the response. It is told how far the request came.
            timeout: Seconds to wait for the response.

        Raises:
            requests.RequestException: There was no response, or a malformed one.
            urllib3.exceptions.HTTPError: The same.
            ResponseTooLargeError: The body of a success is larger than the call allows.
        """
        connect_timeout = min(CONNECT_TIMEOUT, timeout)
        url = f"{self._url}{target}"
        adapter = self._adapter(url)
        settings = self._current_settings(url, self._http.get_adapter(url) if adapter is None else adapter)
        headers = self._plain_headers(call, token) if self._is_plain(adapter) else None
        if headers is not None and isinstance(adapter, PooledAdapter):
            pool = adapter.pool(self._server, **settings)
            sent_at = time.monotonic()
            status, fields, body = send_with_pool(
                pool,
                (call.method, f"{self._prefix}{target}", headers, call.body),
                in_flight,
                call.sink,
                retries=adapter.max_retries,
                timeouts=(connect_timeout, timeout),
                on_cookies=lambda raw: keep_cookies(self._http, self._prepare(call, url, token), raw),
            )
            return ServerResponse(status, fields, body, sent_at, extensions=fields.get(EXTENSIONS_HEADER, ""))
        request = self._prepare(call, url, token)
        sent_at = time.monotonic()
        response = send_prepared(
            self._http, request, in_flight, call.sink, adapter, timeout=(connect_timeout, timeout), **settings
        )
        extensions = response.headers.get(EXTENSIONS_HEADER, "")
        return ServerResponse(response.status_code, response.headers, response.content, sent_at, extensions=extensions)

    def _adapter(self, url: str) -> BaseAdapter | None:
        """Return the adapter for a URL. `None` if the session itself must send the request."""
        http = self._http
        if type(http) is not requests.Session or not _OF_SESSIONS.are_original():
            return None
        own = vars(http)
        if http.auth or http.hooks.get("response") or "send" in own or "get_adapter" in own:
            return None
        return http.get_adapter(url)

    def _is_plain(self, adapter: BaseAdapter | None) -> bool:
        """Return whether a request needs nothing of the adapter but the pool of the server."""
        return (
            type(adapter) is PooledAdapter
            and self.proxy is None
            and not self._http.cookies
            and "send" not in vars(adapter)
            and _OF_ADAPTERS.are_original()
        )

    def _plain_headers(self, call: Call[Any], token: str | None) -> dict[str, str] | None:
        """Return the headers of a request. `None` if the session has one that the call replaces in another case."""
        given = tuple(self._http.headers.items())
        known, base = self._session_headers
        if given != known:
            texts: dict[Any, Any] = dict(given)
            base = texts if all(isinstance(each, str) for item in given for each in item) else None
            self._session_headers = given, base
        if base is None:
            return None
        headers = base.copy()
        if token is not None:
            headers["Authorization"] = token
        headers.update(call.headers)
        self._telemetry.inject(headers)
        body = call.body
        if body is not None or call.method not in ("GET", "DELETE"):
            headers["Content-Length"] = str(len(body or b""))
        return headers if len(set(map(str.lower, headers))) == len(headers) else None

    def _prepare(self, call: Call[Any], url: str, token: str | None) -> requests.PreparedRequest:
        """Return the request. `requests.Session.prepare_request` would look for proxies and netrc each time."""
        http = self._http
        request = requests.PreparedRequest()
        request.method = call.method
        request.url = url
        headers: CaseInsensitiveDict[str | bytes] = CaseInsensitiveDict(http.headers.items())
        if token is not None:
            headers["Authorization"] = token
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
        request._cookies = http.cookies
        if http.cookies:
            with free_cookies(http):
                request.prepare_cookies(http.cookies)
        request.hooks = {"response": []}
        if http.auth:
            request.prepare_auth(http.auth, url)
            if token is not None:
                # Authentication may add other headers. This one has the token of the protocol.
                request.headers["Authorization"] = token
        _add_hooks(request, http.hooks)
        return request

    def _current_settings(self, url: str, adapter: BaseAdapter) -> dict[str, Any]:
        """Return proxies, CA and client certificates. The environment is read again only if the session's settings change."""
        http = self._http
        key = (adapter, http.verify, http.cert, http.trust_env, tuple(http.proxies.items()))
        known = self._settings
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
            del found["stream"]
            track_connections(http, url, found["proxies"])
            self.proxy = proxy_of(self._url, found["proxies"])
            known = self._settings = (key, dict(found))
        return known[1]


def _add_hooks(request: requests.PreparedRequest, hooks: Mapping[str, Any]) -> None:
    """Add the hooks of the HTTP session to a request, and after them `ignore_redirect`."""
    given: Callable[..., object] | list[Callable[..., object]] = hooks.get("response") or []
    added: dict[str, Any] = {**hooks, "response": [*([given] if callable(given) else given), ignore_redirect]}
    added["response"] = [*request.hooks["response"], *added["response"]]
    request.hooks = added
