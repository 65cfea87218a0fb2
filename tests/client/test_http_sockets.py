"""The sockets under requests: each kind of connection can be shut down from another thread."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    Message,
    ProviderError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionNotFoundError,
)
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.cancellation import RequestInFlight, ResponseTooLargeError
from azsession.client.http_sockets import (
    ERROR_SIZE,
    PooledAdapter,
    ignore_redirect,
    send_prepared,
    track_connections,
)
from azsession.server import AccessKey, GatewayService

from ..concurrency.servers import Handler, Proxy, QuietHTTPServer, SilentServer
from ..conftest import eventually
from ..support.internals import pending_calls
from ..support.plain_server import CLOSED_IN_HEADERS, MANY_HEADERS, ONE_HUGE_HEADER, Fate, PlainServer, answer


class _Gateway:
    """A gateway with or without TLS and proxy, and a provider that reaches it."""

    def __init__(self, stack: ExitStack, folder: Path, *, tls: bool, proxy: bool, own: bool) -> None:
        files: dict[str, Any] = {}
        bundle = None
        if tls:
            authority = trustme.CA()
            issued = authority.issue_cert("127.0.0.1")
            issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
            issued.private_key_pem.write_to_path(str(folder / "key.pem"))
            authority.cert_pem.write_to_path(str(folder / "ca.pem"))
            files = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
            bundle = str(folder / "ca.pem")
        service = stack.enter_context(
            GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()], max_waiting=16, **files)
        )
        config = ServiceBusConfig(connection_string=service.connection_string(), ca_bundle=bundle)
        session = stack.enter_context(requests.Session()) if proxy or own else None
        self.proxy = stack.enter_context(Proxy()) if proxy else None
        if session is not None and self.proxy is not None:
            session.proxies = {"http": self.proxy.url, "https": self.proxy.url}
        self.provider = stack.enter_context(ServiceBusProvider(config, http=session))


_WAYS = {
    "plain": {"tls": False, "proxy": False, "own": False},
    "tls": {"tls": True, "proxy": False, "own": False},
    "own session": {"tls": False, "proxy": False, "own": True},
    "own session and tls": {"tls": True, "proxy": False, "own": True},
    "forward proxy": {"tls": False, "proxy": True, "own": True},
    "tunnel": {"tls": True, "proxy": True, "own": True},
}


@pytest.fixture(params=list(_WAYS))
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Gateway]:
    with ExitStack() as stack:
        yield _Gateway(stack, tmp_path, **_WAYS[request.param])


def _in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def _waits(client: Any) -> bool:
    return any(call.in_flight is not None and call.in_flight.written for call in pending_calls(client))


def test_closing_ends_a_waiting_receive_over_each_kind_of_connection(gateway: _Gateway) -> None:
    provider = gateway.provider
    provider.send_message("q", Message(b"1", session_id="s"))
    client = provider.create_session_client("q", "s")
    message = client.receive_message(timeout=10)
    assert message is not None
    client.complete_message(message)
    thread, errors = _in_thread(lambda: client.receive_message(timeout=300))
    eventually(lambda: _waits(client))
    client.close_session()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [SessionNotFoundError]
    # Other sessions work on.
    provider.send_message("q", Message(b"2", session_id="s"))
    with provider.create_session_client("q", "s") as other:
        found = other.receive_message(timeout=10)
        assert found is not None
        assert found.body == b"2"
    if gateway.proxy is not None:
        assert gateway.proxy.used


def test_closing_ends_a_wait_for_a_tls_handshake() -> None:
    with SilentServer() as server:
        config = ServiceBusConfig(connection_string=server.connection_string.replace("http:", "https:"))
        with ServiceBusProvider(config) as provider:
            client = provider.create_session_client("q", "s")
            thread, errors = _in_thread(lambda: client.receive_message(timeout=300))
            assert server.asked.acquire(timeout=20)
            client.close_session()
            thread.join(20)
            assert not thread.is_alive(), "the handshake was waited for until it timed out"
    assert [type(error) for error in errors] == [SessionNotFoundError]


class _OK(Handler):
    def answer(self) -> None:
        self.give(200, {}, b"x")


def _sent(body: bytes, status: int = 200, size: int = 1000) -> requests.Response:
    """Return the response to a request that allows `size` bytes, from a server that answers with `body`."""

    class Answer(Handler):
        def answer(self) -> None:
            self.give(status, {"Location": "/elsewhere"}, body)

    with QuietHTTPServer(Answer) as server, requests.Session() as http:
        request = http.prepare_request(requests.Request("GET", f"{server.url}/", hooks={"response": ignore_redirect}))
        return send_prepared(http, request, RequestInFlight(max_body_size=size), timeout=20)


def test_the_body_of_a_success_beyond_the_limit_of_its_request_is_refused() -> None:
    assert len(_sent(b"x" * 1000).content) == 1000
    with pytest.raises(ResponseTooLargeError, match="more than 1000 bytes"):
        _sent(b"x" * 1001)


def test_the_body_of_an_error_is_cut_off() -> None:
    assert _sent(b"x" * 100, 500).content == b"x" * 100
    body = _sent(b"x" * 1_000_000, 500).content
    assert ERROR_SIZE < len(body) <= 2 * ERROR_SIZE


def test_a_redirect_has_no_target() -> None:
    response = _sent(b"", 302)
    assert response.status_code == 302
    assert "Location" not in response.headers


def test_urllib3_logs_no_lock_token_of_our_requests(caplog: pytest.LogCaptureFixture) -> None:
    with (
        QuietHTTPServer(_OK) as server,
        requests.Session() as http,
        caplog.at_level(logging.DEBUG, "urllib3.connectionpool"),
    ):
        track_connections(http, server.url, {})
        for path in ("messages/secret-token", "messages/head"):
            request = http.prepare_request(requests.Request("DELETE", f"{server.url}/q/sessions/s/{path}"))
            send_prepared(http, request, RequestInFlight(), timeout=20)
    assert "messages/..." in caplog.text
    assert "messages/head" in caplog.text
    assert "secret-token" not in caplog.text


def test_a_pool_is_looked_up_once_for_each_server() -> None:
    adapter = PooledAdapter()

    def pool(url: str) -> object:
        return adapter.get_connection_with_tls_context(requests.Request("GET", url).prepare(), True)

    first = pool("http://127.0.0.1:9/a")
    assert pool("http://127.0.0.1:9/b") is first
    assert pool("http://127.0.0.1:10/a") is not first
    adapter.close()
    assert pool("http://127.0.0.1:9/a") is not first


# Sessions of the caller


class _OwnConnection(HTTPConnection):
    pass


class _OwnPool(HTTPConnectionPool):
    ConnectionCls = _OwnConnection


class _OwnAdapter(HTTPAdapter):
    """An adapter with classes of its own, as adapters for SOCKS proxies have them."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _OwnPool, "https": HTTPSConnectionPool}


@contextmanager
def _used_before(server: PlainServer, *, proxy: Proxy | None = None, own: bool = False) -> Iterator[ServiceBusProvider]:
    """Yield a provider with a session of requests that has open connections to the server already."""
    with requests.Session() as http:
        if own:
            http.mount("http://", _OwnAdapter())
        if proxy is not None:
            http.proxies = {"http": proxy.url}
            http.trust_env = False
        http.get(server.url)
        config = ServiceBusConfig(connection_string=server.connection_string, retry_attempts=0)
        with ServiceBusProvider(config, http=http) as provider:
            yield provider


_KINDS = pytest.mark.parametrize("kind", ["used before", "used with a proxy before", "with own pools"])


@contextmanager
def _of_kind(kind: str, server: PlainServer) -> Iterator[ServiceBusProvider]:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy()) if "proxy" in kind else None
        yield stack.enter_context(_used_before(server, proxy=proxy, own="own" in kind))


@_KINDS
def test_closing_ends_a_waiting_receive_of_any_session_of_requests(kind: str) -> None:
    with PlainServer() as server, _of_kind(kind, server) as provider:
        client = provider.create_session_client("q", "s")
        thread, errors = _in_thread(lambda: client.receive_message(timeout=30))
        eventually(lambda: _waits(client) and len(server.seen) == 2)
        began = time.monotonic()
        client.close_session()
        thread.join(20)
        assert time.monotonic() - began < 20
        assert [type(error) for error in errors] == [SessionNotFoundError]


@pytest.mark.parametrize("kind", ["used before", "with own pools"])
@pytest.mark.parametrize("fate", [CLOSED_IN_HEADERS, ONE_HUGE_HEADER, MANY_HEADERS])
def test_any_session_of_requests_refuses_answers_that_are_cut_or_too_large(kind: str, fate: Fate) -> None:
    with PlainServer() as server, _of_kind(kind, server) as provider, provider.create_session_client("q", "s") as client:
        server.next(fate)
        with pytest.raises(ConnectionFailedError) as caught:
            client.renew_session_lock()
        assert caught.value.maybe_delivered


# Proxies


def _through(proxy: str, **fields: Any) -> ServiceBusProvider:
    http = requests.Session()
    http.trust_env = False
    http.proxies = {"http": proxy, "https": proxy}
    text = f"Endpoint={fields.pop('scheme', 'http')}://gateway.invalid/;SharedAccessKeyName=n;SharedAccessKey=k"
    config = ServiceBusConfig(connection_string=text, allow_insecure_http=True, retry_attempts=0, **fields)
    return ServiceBusProvider(config, http=http)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_named_without_its_password(scheme: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # It does not listen, and nobody else takes its port.
        port = closed.getsockname()[1]
        with (
            _through(f"http://user:hunter2@127.0.0.1:{port}", scheme=scheme) as provider,
            pytest.raises(ConnectionFailedError, match=f"the proxy http://127.0.0.1:{port} gave no connection") as caught,
        ):
            provider.list_sessions("q")
    assert "hunter2" not in str(caught.value)
    assert "user" not in str(caught.value)
    assert not caught.value.maybe_delivered


def test_a_silent_proxy_is_named() -> None:
    with (
        SilentServer() as proxy,
        _through(proxy.url, request_timeout=0.3) as provider,
        pytest.raises(ConnectionFailedError, match=f"gateway.invalid through the proxy {proxy.url}: it timed out"),
    ):
        provider.list_sessions("q")


def test_a_proxy_that_wants_a_password_is_named() -> None:
    with PlainServer() as proxy, _through(proxy.url) as provider:
        proxy.next(answer(407))
        with pytest.raises(ProviderError, match=f"the proxy {proxy.url} refused .* a user and a password"):
            provider.create_session_client("q", "s").receive_message(timeout=0)


def test_a_socks_proxy_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **options: Any) -> Any:
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    # The name is this function already if PySocks is not installed.
    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", missing)
    with (
        _through("socks5h://user:hunter2@127.0.0.1:9") as provider,
        pytest.raises(ConfigurationError, match=r'the proxy socks5h://127.0.0.1:9 is .* pip install "requests\[socks\]"'),
    ):
        provider.list_sessions("q")
