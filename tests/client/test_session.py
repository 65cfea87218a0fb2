"""`SessionClient` and `ServiceBusProvider`: session state, `requests` settings, wrong arguments, closing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
import responses
from requests.adapters import HTTPAdapter

from azsession import (
    InvalidReceiptError,
    Message,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    ValidationError,
)
from azsession.testing import AzsessionServer

from ..support.plain_server import PlainServer, answer
from .orders import CONNECTION_STRING, HEAD, URL, send, take


def test_the_next_holder_reads_the_session_state(azsession_provider: ServiceBusProvider) -> None:
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() is None
        session.set_session_state(b"\x00step 2")
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert session.get_session_state() == b"\x00step 2"
        session.set_session_state(b"")
        assert session.get_session_state() == b""
        session.set_session_state(None)
        assert session.get_session_state() is None


def test_a_session_state_that_is_not_bytes_is_refused(session: SessionClient) -> None:
    with pytest.raises(ValidationError, match="bytes"):
        session.set_session_state("text")  # type: ignore[arg-type]


def test_dead_lettering_a_session_moves_all_its_messages(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, *(b"%d" % n for n in range(5)))
    message = next(session.messages(timeout=5, prefetch=3))
    assert session.dead_letter_session("poison", "more") == 5
    assert [(one.body, one.dead_letter_reason) for one in azsession_provider.dead_letters("orders")] == [
        (b"%d" % n, "poison") for n in range(5)
    ]
    assert session.receive_message(timeout=0) is None
    with pytest.raises(InvalidReceiptError):
        session.complete_message(message)


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


@responses.activate
def test_the_responses_library_can_replace_the_server() -> None:
    responses.delete(HEAD, status=201, body=b"paid", headers={"BrokerProperties": '{"LockToken": "t"}'})
    responses.delete(f"{URL}/orders/sessions/s1/messages/t", status=200)
    with ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        message = take(session)
        session.complete_message(message)
    assert message.body == b"paid"
    assert len(responses.calls) == 2


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, True, "0&max=5"])
def test_a_wrong_from_sequence_number_is_refused_without_a_request(number: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.peek_messages("orders", "s1", from_sequence_number=number)
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.dead_letters("orders", from_sequence_number=number)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", None, True])
def test_a_wrong_timeout_is_refused_without_a_request(timeout: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1")
        for receive in (session.receive_message, session.messages, lambda timeout: session.receive_messages(2, timeout)):
            with pytest.raises(ValidationError):
                receive(timeout)


def test_a_closed_provider_refuses_every_call(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    session = provider.create_session_client("orders", "s1")
    session.receive_message(timeout=0)
    provider.close()
    provider.close()
    assert session.closed
    with pytest.raises(QueueError, match="closed"):
        provider.send_message("orders", Message(b"x", session_id="s"))
    with pytest.raises(QueueError, match="closed"):
        provider.create_session_client("orders", "s1")


def test_repr_shows_the_state_of_the_lock(azsession_provider: ServiceBusProvider) -> None:
    session = azsession_provider.create_session_client("orders", "s1")
    assert repr(session) == "<SessionClient 's1' of 'orders', not locked yet>"
    session.receive_message(timeout=0)
    assert re.fullmatch(r"<SessionClient 's1' of 'orders', locked until \d\d:\d\d:\d\d UTC>", repr(session))
    session.close()
    assert repr(session) == "<SessionClient 's1' of 'orders', closed>"
