"""`HttpExchange`: everything that a session of requests can have keeps its effect, also if it changes between requests."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth, HTTPProxyAuth

from azsession import ConnectionFailedError, QueueError, ServiceBusConfig
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_exchange import HttpExchange
from azsession.client.http_sockets import ERROR_SIZE
from azsession.client.transport import Transport
from azsession.server import AccessKey, GatewayService
from azsession.telemetry import Telemetry

from ..support.plain_server import Fate, PlainServer, answer
from .http_sessions import call, headers_of, http, made, new_session, transport

__all__ = ["http", "transport"]

TOKEN = "SharedAccessSignature sr="


def called_by(work: Callable[[], object], *functions: Any) -> list[bool]:
    """Do some work, and return for each function whether the work called it. The functions are not replaced for that."""
    codes: set[Any] = set()
    sys.setprofile(lambda frame, event, arg: codes.add(frame.f_code))
    try:
        work()
    finally:
        sys.setprofile(None)
    return [function.__code__ in codes for function in functions]


@pytest.mark.parametrize(("way", "calls"), [("pool", [False, False]), ("adapter", [False, True]), ("session", [True, True])])
def test_each_request_takes_the_shortest_way(server: PlainServer, way: str, calls: list[bool]) -> None:
    with new_session(way) as http:
        transport = made(server.url, http)
        server.next(answer(200), answer(200))
        for _ in range(2):
            assert called_by(lambda: transport.send(call()), requests.Session.send, HTTPAdapter.send) == calls


# Hooks, authentication and cookies


def test_a_hook_runs_while_the_session_has_it(server: PlainServer, http: requests.Session, transport: Transport) -> None:
    seen: list[int] = []
    http.hooks["response"].append(lambda response, **settings: seen.append(response.status_code))
    headers_of(server, transport)
    http.hooks["response"].clear()
    headers_of(server, transport)
    assert seen == [200]


class _Key(AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["X-Key"] = f"{request.method} {request.url}"
        request.register_hook("response", lambda response, **settings: self.seen.append(response.status_code))
        return request

    def __init__(self) -> None:
        self.seen: list[int] = []


def test_authentication_adds_headers_and_hooks_while_the_session_has_it(
    server: PlainServer, http: requests.Session, transport: Transport
) -> None:
    key = http.auth = _Key()
    assert headers_of(server, transport)["X-Key"] == f"GET {server.url}/q/x"
    assert key.seen == [200]
    http.auth = HTTPProxyAuth("user", "password")
    assert headers_of(server, transport)["Proxy-Authorization"].startswith("Basic ")
    http.auth = None
    found = headers_of(server, transport)
    assert "X-Key" not in found
    assert "Proxy-Authorization" not in found


@pytest.mark.parametrize("auth", [("user", "password"), HTTPBasicAuth("user", "password")])
def test_authentication_does_not_replace_the_token(
    server: PlainServer, http: requests.Session, transport: Transport, auth: Any
) -> None:
    http.auth = auth
    assert headers_of(server, transport)["Authorization"].startswith(TOKEN)


def test_a_netrc_does_not_replace_the_token(
    server: PlainServer, transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert headers_of(server, transport)["Authorization"].startswith(TOKEN)


@pytest.mark.parametrize("status", [200, 204, 302, 404])
def test_cookies_of_answers_are_kept_and_sent(
    server: PlainServer, http: requests.Session, transport: Transport, status: int
) -> None:
    server.next(answer(status, {"Set-Cookie": "route=a; Path=/q", "Location": "/"}))
    with suppress(QueueError):  # The answers 302 and 404 are errors.
        transport.send(call())
    assert http.cookies.get_dict() == {"route": "a"}
    assert headers_of(server, transport)["Cookie"] == "route=a"
    assert "Cookie" not in headers_of(server, transport, path="/other")
    http.cookies.clear()
    assert "Cookie" not in headers_of(server, transport)


def test_a_cookie_of_the_caller_is_sent(server: PlainServer, http: requests.Session, transport: Transport) -> None:
    http.cookies.set("mine", "b")
    assert headers_of(server, transport)["Cookie"] == "mine=b"


# Headers


def test_the_sessions_headers_are_sent_as_they_are_at_each_request(
    server: PlainServer, http: requests.Session, transport: Transport
) -> None:
    http.headers["X-Tenant"] = "a"
    assert headers_of(server, transport)["X-Tenant"] == "a"
    http.headers["X-Tenant"] = b"b"  # type: ignore[assignment]
    assert headers_of(server, transport)["X-Tenant"] == "b"
    del http.headers["X-Tenant"], http.headers["User-Agent"]
    found = headers_of(server, transport)
    assert "X-Tenant" not in found
    assert "User-Agent" in found


@pytest.mark.parametrize("name", ["authorization", "AUTHORIZATION", "content-type", "content-length"])
def test_a_header_of_the_protocol_wins_over_the_sessions_in_any_case(
    server: PlainServer, http: requests.Session, transport: Transport, name: str
) -> None:
    http.headers[name] = "7"
    headers_of(server, transport, method="POST", body=b"abc", headers={"Content-Type": "text/x"})
    found = {each.lower(): value for each, value in server.seen[-1].headers.items()}
    assert found["authorization"].startswith(TOKEN)
    assert (found["content-type"], found["content-length"]) == ("text/x", "3")
    assert len(found) == len(server.seen[-1].headers)


def test_a_header_that_could_add_another_is_refused(
    server: PlainServer, http: requests.Session, transport: Transport
) -> None:
    http.headers["X-Tenant"] = "a\r\nX-Other: b"
    with pytest.raises(ConnectionFailedError):
        transport.send(call())
    assert server.seen == []


def test_values_of_a_header_that_comes_twice_are_joined(server: PlainServer, transport: Transport) -> None:
    server.next(Fate(b"HTTP/1.1 200 OK\r\nX-A: b\r\nx-a: c\r\nContent-Length: 0\r\n\r\n"))
    response = transport.send(call())
    assert response.headers["X-A"] == "b, c"
    assert ("X-A", "b, c") in list(response.items)


# Proxies and certificates


def test_a_proxy_is_used_while_the_session_has_it(server: PlainServer, http: requests.Session, transport: Transport) -> None:
    with PlainServer() as proxy:
        http.proxies = {"http": proxy.url}
        proxy.next(answer(200))
        transport.send(call())
        assert proxy.requests() == [f"GET {server.url}/q/x"]
        http.proxies = {}
        headers_of(server, transport)
        assert len(proxy.seen) == len(server.seen) == 1


@pytest.mark.parametrize("trusts", [True, False])
def test_the_environment_counts_if_the_session_trusts_it(
    http: requests.Session, monkeypatch: pytest.MonkeyPatch, trusts: bool
) -> None:
    with PlainServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        http.trust_env = trusts
        proxy.next(answer(200))
        transport = made("http://gateway.invalid", http)
        if trusts:
            transport.send(call())
        else:
            with pytest.raises(ConnectionFailedError):
                transport.send(call())
        assert len(proxy.seen) == trusts
        http.trust_env = True
        monkeypatch.setenv("no_proxy", "gateway.invalid")
        with pytest.raises(ConnectionFailedError):
            made("http://gateway.invalid", http).send(call())
        assert len(proxy.seen) == trusts


class _Certificates:
    """The files of an authority, of a certificate for 127.0.0.1 and of its key."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.ca, self.cert, self.key = (str(folder / f"{name}.pem") for name in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)


def test_each_request_uses_the_certificates_that_the_session_trusts_then(
    http: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    files = _Certificates(tmp_path)
    with GatewayService(EmbeddedBroker(), [AccessKey.generate()], tls_cert=files.cert, tls_key=files.key) as service:
        transport = made(service.url, http)

        def is_trusted() -> bool:
            try:
                return transport.send(call("/healthz", entity="")).status == 200
            except ConnectionFailedError as error:
                return "certificate verify failed" not in str(error)

        assert not is_trusted()
        http.verify = files.ca
        assert is_trusted()
        http.verify = True
        assert not is_trusted()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", files.ca)
        transport.after_fork()  # Reads the environment again.
        assert is_trusted()
        http.trust_env = False
        assert not is_trusted()
        http.verify, http.cert = files.ca, (files.cert, files.key)
        assert is_trusted()
        http.cert = (files.cert, str(tmp_path / "missing.pem"))
        with pytest.raises(ConnectionFailedError, match="missing"):
            transport.send(call("/healthz", entity=""))


# Bodies


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_beyond_the_limit_of_its_call_is_refused(server: PlainServer, transport: Transport, packed: bool) -> None:
    def fate(size: int) -> Fate:
        body, more = b"x" * size, {}
        if packed:
            body, more = gzip.compress(body), {"Content-Encoding": "gzip"}
        return answer(200, more, body)

    server.next(fate(1000), fate(1001))
    assert len(transport.send(call(max_response_size=1000)).body) == 1000
    with pytest.raises(ConnectionFailedError, match="more than 1000 bytes"):
        transport.send(call(max_response_size=1000))


def test_the_body_of_an_error_is_cut_off(server: PlainServer, http: requests.Session) -> None:
    large = answer(404, {"Azsession-Protocol": "1"}, b"x" * 1_000_000)
    config = ServiceBusConfig(connection_string=server.connection_string)
    exchange = HttpExchange(http, server.url, config, Telemetry())
    for fate, lowest, highest in ((large, ERROR_SIZE + 1, 2 * ERROR_SIZE), (answer(404, {}, b"short"), 5, 5)):
        server.next(fate)
        response = exchange.send(call(), "/q/x", None, RequestInFlight(time.monotonic() + 20), 20)
        assert response.status == 404
        assert lowest <= len(response.body) <= highest


class _Sink:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def begin(self) -> None:
        self.pieces.clear()

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)


def test_a_sink_takes_the_body_in_pieces(server: PlainServer, transport: Transport) -> None:
    sink = _Sink()
    server.next(answer(200, {}, b"x" * 1_000_000))
    assert transport.send(call(sink=sink, max_response_size=2_000_000)).body == b""
    assert b"".join(sink.pieces) == b"x" * 1_000_000
    assert len(sink.pieces) > 5
