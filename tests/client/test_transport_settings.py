"""`Transport`: proxies and certificates of the HTTP session and the environment, and forks."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from azsession import ConfigurationError, ConnectionFailedError, ProviderError, ServiceBusConfig
from azsession.client.call import Call
from azsession.client.transport import Transport
from azsession.token_cache import TokenCache
from azsession.tokens import SasKey

from ..support.plain_server import PlainServer, answer
from .http_sessions import http

__all__ = ["http"]


class Recorder(HTTPAdapter):
    """Records the settings of each request, and answers it with 204."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[dict[str, Any]] = []

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:  # type: ignore[override]
        self.settings.append(settings)
        response = requests.Response()
        response.status_code, response._content = 204, b""
        response.request, response.url = request, request.url or ""
        return response


@pytest.fixture
def recorder(http: requests.Session) -> Recorder:
    recorder = Recorder()
    http.mount("https://gateway.example/", recorder)
    return recorder


def secure(http: requests.Session, **fields: Any) -> Transport:
    text = "Endpoint=https://gateway.example/;SharedAccessKeyName=n;SharedAccessKey=k"
    return Transport(http, "https://gateway.example", ServiceBusConfig(connection_string=text, **fields), None)


def plain(server: PlainServer, http: requests.Session, tokens: TokenCache | None = None, **fields: Any) -> Transport:
    return Transport(http, server.url, ServiceBusConfig(connection_string=server.connection_string, **fields), tokens)


def call(**fields: Any) -> Call[None]:
    return Call(**{"method": "GET", "path": "/q", "entity": "q", "read": lambda response: None, **fields})


@pytest.mark.parametrize(("given", "used"), [("", True), (None, True), (0, True), (True, True), (False, False)])
def test_only_false_turns_the_verification_of_certificates_off(
    http: requests.Session, recorder: Recorder, given: Any, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    http.verify = given
    secure(http).send(call())
    assert recorder.settings[0]["verify"] is used


def test_a_change_of_the_sessions_settings_is_used_by_the_next_request(http: requests.Session, recorder: Recorder) -> None:
    transport = secure(http)
    for proxy in ("http://127.0.0.1:3128", "http://127.0.0.1:3129"):
        http.proxies = {"https": proxy}
        transport.send(call())
    assert [settings["proxies"]["https"] for settings in recorder.settings] == [
        "http://127.0.0.1:3128",
        "http://127.0.0.1:3129",
    ]


def test_the_environment_is_read_once_while_the_sessions_settings_stay(
    http: requests.Session, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = secure(http)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    transport.send(call())
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3129")
    transport.send(call())
    transport.after_fork()
    transport.send(call())
    found = [settings["proxies"]["https"] for settings in recorder.settings]
    assert found == ["http://127.0.0.1:3128"] * 2 + ["http://127.0.0.1:3129"]


def test_the_wait_for_a_connection_is_shorter_than_the_wait_for_an_answer(http: requests.Session, recorder: Recorder) -> None:
    transport = secure(http, request_timeout=30)
    transport.send(call(wait=5.0))
    transport.send(call(response_timeout=3.0))
    transport.send(call(response_timeout=0.0))
    assert [settings["timeout"] for settings in recorder.settings] == [(10, 35), (3, 3), (0.1, 0.1)]


def test_a_proxy_of_the_environment_does_not_see_requests_to_this_machine(
    http: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PlainServer() as server, PlainServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        server.next(answer(200))
        plain(server, http).send(call())
        assert (server.requests(), proxy.seen) == (["GET /q"], [])


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", None])
@pytest.mark.parametrize(
    "proxy", ["http://user:hunter2@h:99999", "http://user:hunter2@", "http://hunter2 h", "ftp://hunter2@h"]
)
def test_a_malformed_proxy_is_named_by_its_source_alone(
    variable: str | None, proxy: str, http: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if variable is None:
        http.proxies = {"https": proxy}
    else:
        monkeypatch.setenv(variable, proxy)
    source = variable or "the `proxies` of the requests.Session"
    # It is an error of the configuration, which no retry repairs.
    with pytest.raises(ConfigurationError, match=f"^the proxy in {source} .*: use a URL like http://") as caught:
        secure(http, retry_attempts=5).send(call())
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown


def test_an_error_of_a_proxy_names_the_proxy(http: requests.Session) -> None:
    with PlainServer() as proxy:
        http.proxies = {"http": proxy.url}
        text = "Endpoint=http://gateway.invalid/;SharedAccessKeyName=n;SharedAccessKey=k"
        config = ServiceBusConfig(connection_string=text, allow_insecure_http=True)
        proxy.next(answer(407))
        with pytest.raises(ProviderError, match=f"^the proxy {proxy.url} refused the request"):
            Transport(http, "http://gateway.invalid", config, None).send(call())


def test_an_answer_that_is_not_the_protocols_is_not_repeated_in_the_plain_dialect(http: requests.Session) -> None:
    with PlainServer() as server:
        server.next(answer(202), answer(200))
        with pytest.raises(ConnectionFailedError, match="answered 202"):
            plain(server, http, retry_attempts=3).send(call(method="POST"))
        assert len(server.seen) == 1


def test_after_a_fork_requests_are_sent_with_and_without_tokens(http: requests.Session) -> None:
    with PlainServer() as server:
        cache = TokenCache(SasKey("reader", "key"))
        guard = cache._lock
        for tokens in (None, cache):
            transport = plain(server, http, tokens)
            server.next(answer(200), answer(200))
            transport.send(call())
            transport.after_fork()
            transport.send(call())
        # A thread of the parent may have held the former one.
        assert cache._lock is not guard
