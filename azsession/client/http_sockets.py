"""The sockets under requests: adapters with tracked connections, the size of response bodies, and forks.

`HttpExchange` is the caller.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import extract_cookies_to_jar
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import Timeout

from ..errors import ConfigurationError
from ..proxies import check_proxy, variable_of, without_password
from .cancellation import RequestInFlight, ResponseTooLargeError, current_request, set_current_request
from .http_connections import WholeResponse
from .http_pools import TrackedPool, forget_inherited, tracked
from .response_sink import ResponseSink

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

#: The bytes of an error's body that are read.
ERROR_SIZE = 65536
_CHUNK = 65536


class PooledAdapter(HTTPAdapter):
    """An adapter that remembers the pool for each server. requests looks the pool up for each request."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._known_pools: dict[Any, Any] = {}
        super().init_poolmanager(*args, **kwargs)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPConnectionPool:
        server, _ = _split_url(request.url or "")
        key = (server, verify, cert, tuple(proxies.items()) if proxies else None)
        pool = self._known_pools.get(key)
        if pool is None or pool.pool is None:
            pool = self._known_pools[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        found: HTTPConnectionPool = pool
        return found

    def pool(self, server: str, *, verify: Any, cert: Any, proxies: Mapping[str, str]) -> HTTPConnectionPool:
        """Return the pool for a server, as `send` uses it.

        Args:
            server: Scheme and host of the URL.
            verify: The setting of requests.
            cert: The setting of requests.
            proxies: The setting of requests.

        Raises:
            OSError: There is no such certificate.
        """
        pool = self._known_pools.get((server, verify, cert, tuple(proxies.items()) if proxies else None))
        if pool is None or pool.pool is None:
            request = requests.PreparedRequest()
            request.prepare_url(f"{server}/", None)
            pool = self.get_connection_with_tls_context(request, verify, proxies, cert)
            self.cert_verify(pool, f"{server}/", verify, cert)
        found: HTTPConnectionPool = pool
        return found

    def close(self) -> None:
        # urllib3 closes connections in the finalizers of the pools, which have already run at the end of the process.
        for pool in list(self._known_pools.values()):
            pool.close()
        super().close()

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        return super().request_url(request, proxies) if proxies else _split_url(request.url or "")[1]


@contextmanager
def free_cookies(http: requests.Session) -> Iterator[None]:
    """Release the lock of the cookies after the block, if an interrupt of `http.cookiejar` left it taken."""
    lock: Any = http.cookies._cookies_lock
    # A signal handler that makes a request may have interrupted another request of this thread.
    was_taken = lock._is_owned()
    try:
        yield
    finally:
        while not was_taken and lock._is_owned():
            lock.release()


def _split_url(url: str) -> tuple[str, str]:
    """Return scheme and host of a URL, and the rest."""
    at = url.find("/", len("https://"))
    return url[:at], url[at:]


def send_prepared(
    http: requests.Session,
    request: requests.PreparedRequest,
    in_flight: RequestInFlight,
    sink: ResponseSink | None = None,
    adapter: BaseAdapter | None = None,
    **settings: Any,
) -> requests.Response:
    """Send a prepared request, and return the response with its body read. Blocks.

    The body of an error is cut off at `ERROR_SIZE`.

    Args:
        http: The HTTP session.
        request: The request.
        in_flight: The limits of the response. It is told how far the request came.
        sink: Takes the body of a success. `None`: the response has it.
        adapter: Sends the request without the session, whose hooks do not run then. `None`: the session sends it.
        settings: Further arguments of `requests.Session.send`.

    Raises:
        requests.RequestException: There was no response, or a malformed one.
        ResponseTooLargeError: The body of a success is larger than the request allows.
    """
    settings["stream"] = True
    # A signal handler that makes a request may have interrupted another request of this thread.
    before = current_request()
    set_current_request(in_flight)
    try:
        if adapter is None:
            with free_cookies(http):
                response = http.send(request, allow_redirects=False, **settings)
        else:
            response = adapter.send(request, **settings)
        try:
            if adapter is not None and "Set-Cookie" in response.headers:
                keep_cookies(http, request, response.raw)
            response._content = _read_body(response, in_flight, sink)
            return response
        except BaseException:
            if response.raw is not None:
                response.close()
            raise
    finally:
        set_current_request(before)


def send_with_pool(
    pool: HTTPConnectionPool,
    request: tuple[str, str, dict[str, str], bytes | None],
    in_flight: RequestInFlight,
    sink: ResponseSink | None,
    *,
    retries: Any,
    timeouts: tuple[float, float],
    on_cookies: Callable[[Any], object],
) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request without an adapter, and return the status, the headers and the body of the response. Blocks.

    Args:
        pool: The pool of the server, whose connections are tracked.
        request: The method, the target, the headers and the body.
        in_flight: See `send_prepared`.
        sink: See `send_prepared`.
        retries: How often urllib3 tries to connect.
        timeouts: Seconds to connect and to write, and seconds for each read.
        on_cookies: Called with a response that sets cookies.

    Raises:
        urllib3.exceptions.HTTPError: There was no response, or a malformed one.
        ResponseTooLargeError: The body of a success is larger than the request allows.
    """
    method, target, headers, body = request
    in_flight.takes_whole = sink is None
    before = current_request()
    set_current_request(in_flight)
    try:
        reading = {"preload_content": False, "decode_content": False}
        response: BaseHTTPResponse | WholeResponse | None = None
        if isinstance(pool, TrackedPool):
            response = pool.ask(method, target, body, headers, timeouts, **reading)
        if response is None:
            response = pool.urlopen(
                method,
                target,
                body=body,
                headers=headers,
                retries=retries,
                redirect=False,
                assert_same_host=False,
                timeout=Timeout(connect=timeouts[0], read=timeouts[1]),
                **reading,
            )
        try:
            if "Set-Cookie" in response.headers:
                on_cookies(response)
            if isinstance(response, WholeResponse):
                response.release_to(pool)
                return response.status, response.headers, response.body
            return response.status, response.headers, _read_raw(response, in_flight, sink)
        except BaseException:
            response.close()
            raise
    finally:
        set_current_request(before)


def keep_cookies(http: requests.Session, request: requests.PreparedRequest, raw: Any) -> None:
    """Put the cookies of a response into the HTTP session, as `requests.Session.send` does."""
    with free_cookies(http):
        extract_cookies_to_jar(http.cookies, request, raw)


def _read_body(response: requests.Response, in_flight: RequestInFlight, sink: ResponseSink | None) -> bytes:
    # An adapter without sockets may leave `raw` out.
    has_raw = response.raw is not None
    parts = response.iter_content(_CHUNK) if has_raw else iter([response.content or b""])
    if sink is None and not has_raw:
        return next(parts)
    return _joined(parts, response, response.status_code, in_flight, sink)


def _read_raw(response: BaseHTTPResponse, in_flight: RequestInFlight, sink: ResponseSink | None) -> bytes:
    length, limit = response.length_remaining, ERROR_SIZE if response.status >= 300 else in_flight.max_body_size
    if sink is None and length is not None and length <= limit and "Content-Encoding" not in response.headers:
        return response.read()
    return _joined(response.stream(_CHUNK, decode_content=True), response, response.status, in_flight, sink)


def _joined(
    parts: Iterator[bytes],
    response: requests.Response | BaseHTTPResponse,
    status: int,
    in_flight: RequestInFlight,
    sink: ResponseSink | None,
) -> bytes:
    """Return the parts of a body, or give them to `sink` if there is one. Read an error's body up to `ERROR_SIZE`."""
    is_error = status >= 300
    if sink is not None and not is_error:
        sink.begin()
        for part in parts:
            sink.write(part)
        return b""
    kept: list[bytes] = []
    size, limit = 0, ERROR_SIZE if is_error else in_flight.max_body_size
    # The size is checked after decompression, part by part: a small compressed body can become a large one.
    for part in parts:
        kept.append(part)
        size += len(part)
        if size > limit:
            if not is_error:
                raise ResponseTooLargeError(f"the response has more than {limit} bytes")
            response.close()
            break
    return b"".join(kept)


class _RedactLockTokens(logging.Filter):
    """Removes lock tokens from urllib3's log records of our requests. A lock token is enough to settle a message."""

    _AFTER_MESSAGES = r"(?<=/messages/)(?!head\b)[^/?\s'\")]+"

    def filter(self, record: logging.LogRecord) -> bool:
        if current_request() is not None:
            text = record.getMessage()
            redacted = re.sub(self._AFTER_MESSAGES, "...", text)
            if redacted != text:
                record.msg, record.args = redacted, ()
        return True


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_RedactLockTokens())


def ignore_redirect(response: requests.Response, *args: object, **kwargs: object) -> None:
    """Remove the target of a redirect from a response, as a hook of requests.

    Otherwise requests would prepare a request to the target, and read the whole body before that.
    """
    response.headers.pop("Location", None)


def track_connections(http: requests.Session, url: str, proxies: Mapping[str, str]) -> None:
    """Make the adapter that `http` uses for `url` open tracked connections, if it is an adapter of requests.

    Connections that were opened before are not used again: they are not tracked.

    Raises:
        ConfigurationError: The proxy is not a URL that can be used, or is a SOCKS proxy whose package is not installed.
    """
    adapter = http.get_adapter(url)
    if not isinstance(adapter, HTTPAdapter):
        return
    managers: list[Any] = [getattr(adapter, "poolmanager", None)]
    proxy = select_proxy(url, dict(proxies))
    if proxy:
        given = proxy in http.proxies.values()
        source = None if given else variable_of(proxy, url.partition(":")[0])
        check_proxy(proxy, source or ("the `proxies` of the requests.Session" if given else "the settings of the system"))
        try:
            managers.append(adapter.proxy_manager_for(prepend_scheme_if_needed(proxy, "http")))
        except requests.exceptions.InvalidSchema as error:
            raise ConfigurationError(
                f"the proxy {without_password(proxy)} is a SOCKS proxy, which needs the package PySocks. Install it with: "
                'pip install "requests[socks]"'
            ) from error
    for manager in managers:
        classes = getattr(manager, "pool_classes_by_scheme", {})
        replaced = {scheme: tracked(pool_class) for scheme, pool_class in classes.items()}
        if replaced != classes:
            manager.pool_classes_by_scheme = replaced
            manager.clear()


def proxy_of(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL, as messages name it."""
    proxy: str | None = select_proxy(url, dict(proxies))
    return without_password(proxy) if proxy else None


def drop_inherited(http: requests.Session) -> None:
    """In a forked child: give `http` new pools, and close the child's copies of the parent's sockets."""
    forget_inherited()
    adapter: Any
    for adapter in http.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            pool_classes = adapter.poolmanager.pool_classes_by_scheme
            adapter.init_poolmanager(adapter._pool_connections, adapter._pool_maxsize, block=adapter._pool_block)
            adapter.poolmanager.pool_classes_by_scheme = pool_classes
            adapter.proxy_manager = {}
    http.cookies._cookies_lock = threading.RLock()
