"""`Transport`: the settings of the HTTP session, tokens, and answers that are not the gateway's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import certifi
import pytest
import requests
from requests.adapters import HTTPAdapter

from azsession import (
    AuthenticationFailedError,
    ConnectionFailedError,
    ProviderError,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
    UnsupportedOperationError,
)
from azsession.client.call import Call, ServerResponse
from azsession.client.cancellation import PendingCalls
from azsession.client.provider import core_of
from azsession.client.transport import Transport
from azsession.protocol.wire import MalformedError

from ..support.plain_server import PlainServer, answer


def test_the_callers_requests_session_keeps_its_proxies_headers_and_cookies() -> None:
    used: list[tuple[requests.PreparedRequest, dict[str, Any]]] = []

    class Adapter(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:  # type: ignore[override]
            used.append((request, settings))
            response = requests.Response()
            response.status_code, response._content = 204, b""
            response.request, response.url = request, request.url or ""
            return response

    http = requests.Session()
    http.mount("https://gateway.example/", Adapter())
    http.proxies = {"https": "http://127.0.0.1:3128"}
    http.headers["X-Mine"] = "yes"
    http.cookies.set("route", "a")
    text = "Endpoint=https://gateway.example/;SharedAccessKeyName=n;SharedAccessKey=k"
    config = ServiceBusConfig(connection_string=text, ca_bundle=certifi.where())
    with http, ServiceBusProvider(config, http=http) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        assert session.receive_message(timeout=1) is None
    request, settings = used[0]
    assert request.headers["X-Mine"] == "yes"
    assert request.headers["Cookie"] == "route=a"
    assert settings["proxies"]["https"] == "http://127.0.0.1:3128"
    assert settings["verify"] == certifi.where()


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with PlainServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        text = "Endpoint=http://gateway.invalid/;SharedAccessKeyName=n;SharedAccessKey=k"
        with ServiceBusProvider.from_connection_string(text, allow_insecure_http=True) as provider:
            proxy.next(answer(204))
            with provider.create_session_client("orders", "s1", auto_renew=False) as session:
                session.renew_session_lock()
        assert proxy.requests() == ["POST http://gateway.invalid/orders/sessions/s1/renewlock"]


def test_a_refused_signature_is_replaced_and_the_request_is_sent_once_more() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        server.next(answer(401))
        session.renew_session_lock()
        assert len(server.seen) == 2
        server.next(answer(401), answer(401), answer(401))
        with pytest.raises(AuthenticationFailedError):
            session.renew_session_lock()
        assert len(server.seen) == 4


V1 = {"Azsession-Protocol": "1"}


def call(**fields: Any) -> Call[int]:
    return Call(method="GET", path="/q", entity="q", read=lambda response: len(response.body), **fields)


@pytest.fixture
def transport(server: PlainServer) -> Iterator[Transport]:
    config = ServiceBusConfig(connection_string=server.connection_string, retry_attempts=0)
    with ServiceBusProvider(config) as provider:
        yield core_of(provider).transport


def test_a_call_returns_what_its_reader_returns_and_the_dialect_is_known(server: PlainServer, transport: Transport) -> None:
    server.next(answer(200, {}, b"abc"), answer(200, V1, b"abcd"))
    assert (transport.send(call()), transport.speaks_v1) == (3, False)
    assert (transport.send(call()), transport.speaks_v1) == (4, True)


@pytest.mark.parametrize("status", [200, 204, 404, 409, 410, 423])
def test_an_answer_of_a_proxy_is_not_taken_for_the_gateways(server: PlainServer, transport: Transport, status: int) -> None:
    server.next(answer(200, V1), answer(status))
    transport.send(call())
    with pytest.raises(ConnectionFailedError, match=f"answered {status} without Azsession-Protocol") as caught:
        transport.send(call())
    assert caught.value.maybe_delivered


@pytest.mark.parametrize(("status", "maybe_delivered"), [(502, True), (408, False), (429, False)])
def test_an_error_of_a_proxy_leaves_the_outcome_open_unless_the_request_was_not_passed_on(
    server: PlainServer, transport: Transport, status: int, maybe_delivered: bool
) -> None:
    server.next(answer(200, V1), answer(status))
    transport.send(call())
    with pytest.raises(QueueError) as caught:
        transport.send(call())
    assert getattr(caught.value, "maybe_delivered", False) is maybe_delivered


def test_a_success_status_that_the_protocol_does_not_use_is_an_error(server: PlainServer, transport: Transport) -> None:
    server.next(answer(202))
    with pytest.raises(ConnectionFailedError, match="answered 202, which the protocol does not use"):
        transport.send(call())


def test_a_malformed_response_is_an_error_that_says_why(server: PlainServer, transport: Transport) -> None:
    def read(response: ServerResponse) -> None:
        raise MalformedError("no count")

    server.next(answer(200))
    with pytest.raises(ConnectionFailedError, match="gave a malformed response: no count"):
        transport.send(Call(method="GET", path="/q", entity="q", read=read))


def test_a_call_that_was_stopped_before_is_not_sent(server: PlainServer, transport: Transport) -> None:
    pending = PendingCalls()
    pending.stop()
    with pytest.raises(ConnectionFailedError, match="the request was cancelled"):
        transport.send(call(), pending)
    assert server.seen == []


def test_a_server_without_version_1_is_asked_once_for_each_operation(server: PlainServer, transport: Transport) -> None:
    server.next(answer(404), answer(200, V1))
    with pytest.raises(UnsupportedOperationError, match="only the plain dialect, which cannot list sessions"):
        transport.require_v1("list sessions")
    transport.require_v1("list sessions")
    transport.require_v1("list sessions")
    assert server.requests() == ["GET /healthz", "GET /healthz"]


def test_a_busy_server_is_not_taken_for_a_plain_one(server: PlainServer, transport: Transport) -> None:
    server.next(answer(503))
    with pytest.raises(ProviderError) as caught:
        transport.require_v1("list sessions")
    assert not isinstance(caught.value, UnsupportedOperationError)
