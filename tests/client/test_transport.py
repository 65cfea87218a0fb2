"""`Transport`: the settings of the HTTP session, tokens, and answers that are not the gateway's."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from azsession import (
    AuthenticationFailedError,
    ServiceBusConfig,
    ServiceBusProvider,
)

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
    config = ServiceBusConfig(connection_string=text, ca_bundle="/some/bundle.pem")
    with http, ServiceBusProvider(config, http=http) as provider:
        session = provider.create_session_client("orders", "s1", auto_renew=False)
        assert session.receive_message(timeout=1) is None
    request, settings = used[0]
    assert request.headers["X-Mine"] == "yes"
    assert request.headers["Cookie"] == "route=a"
    assert settings["proxies"]["https"] == "http://127.0.0.1:3128"
    assert settings["verify"] == "/some/bundle.pem"


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
