"""Only the right server gets a token: TLS is verified by default, and required for hosts other than loopback."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests
import trustme
from flask import Flask
from urllib3.exceptions import InsecureRequestWarning

from azsession import ConfigurationError, ConnectionFailedError, ServiceBusConfig, ServiceBusProvider
from azsession.config import is_loopback
from azsession.contrib.flask import AzSession

KEYED = "SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0"
YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)


class Capture:
    """A server that records its requests: with TLS and a certificate, without TLS, or behind a proxy's CONNECT."""

    def __init__(self, certificate: trustme.LeafCert | None, *, proxy: bool = False) -> None:
        self.received = b""
        self.handshakes: list[str] = []
        self._proxy = proxy
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(10)
                try:
                    self._answer(sock)
                except OSError as error:
                    self.handshakes.append(f"failed: {error}")

    def _answer(self, sock: socket.socket) -> None:
        if self._proxy:
            self.received += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        if self._context is None:
            self.received += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            return
        with self._context.wrap_socket(sock, server_side=True) as wrapped:
            self.handshakes.append("done")
            self.received += wrapped.recv(65536)
            wrapped.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(port: int, host: str = "localhost", *, http: requests.Session | None = None, **fields: object) -> None:
    text = f"Endpoint=https://{host}:{port}/;{KEYED}"
    config = ServiceBusConfig(connection_string=text, retry_attempts=0, **fields)  # type: ignore[arg-type]
    with (
        ServiceBusProvider(config, http=http) as provider,
        provider.create_session_client("orders", "s", auto_renew=False) as session,
    ):
        session.receive_message(timeout=0)


@contextmanager
def refused(certificate: trustme.LeafCert | None, why: str) -> Iterator[Capture]:
    """Check that the client refuses the server and sends nothing of the request."""
    with Capture(certificate) as server, pytest.raises(ConnectionFailedError, match=why) as caught:
        yield server
    assert b"SharedAccessSignature" not in server.received
    assert b"orders" not in server.received
    assert caught.value.maybe_delivered is False


def test_a_valid_certificate_is_accepted(authority: trustme.CA, trusted: str) -> None:
    with Capture(authority.issue_cert("localhost")) as server:
        ask(server.port, ca_bundle=trusted)
    assert b"\r\nAuthorization: SharedAccessSignature sr=https" in server.received


def test_a_certificate_of_an_untrusted_authority_is_refused(authority: trustme.CA) -> None:
    with refused(authority.issue_cert("localhost"), "certificate") as server:
        ask(server.port)


def test_a_certificate_of_an_authority_outside_the_bundle_is_refused(trusted: str) -> None:
    with refused(trustme.CA().issue_cert("localhost"), "certificate") as server:
        ask(server.port, ca_bundle=trusted)


@pytest.mark.parametrize("name", ["elsewhere.example", "localhost.elsewhere.example", "*.localhost", "127.0.0.1", "::1"])
def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, trusted: str, name: str) -> None:
    with refused(authority.issue_cert(name), "localhost|[Hh]ostname") as server:
        ask(server.port, ca_bundle=trusted)


def test_a_certificate_for_a_name_is_refused_for_an_address(authority: trustme.CA, trusted: str) -> None:
    with refused(authority.issue_cert("localhost"), "127.0.0.1|IP address") as server:
        ask(server.port, "127.0.0.1", ca_bundle=trusted)


def test_an_expired_certificate_is_refused(authority: trustme.CA, trusted: str) -> None:
    with refused(authority.issue_cert("localhost", not_after=YESTERDAY), "expired") as server:
        ask(server.port, ca_bundle=trusted)


def test_a_server_without_tls_is_refused(trusted: str) -> None:
    with refused(None, "SSL|TLS") as server:
        ask(server.port, ca_bundle=trusted)


def test_a_certificate_is_also_verified_behind_a_proxy_of_the_environment(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Capture(authority.issue_cert("gateway.example"), proxy=True) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectionFailedError, match="certificate"):
            ask(443, "gateway.example")
    assert proxy.received.startswith(b"CONNECT gateway.example:443 ")
    assert b"SharedAccessSignature" not in proxy.received


def test_the_bundle_of_the_configuration_overrides_that_of_the_environment(
    authority: trustme.CA, trusted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trusted)
    with Capture(authority.issue_cert("localhost")) as server:
        ask(server.port)
    assert b"SharedAccessSignature" in server.received
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with refused(authority.issue_cert("localhost"), "certificate") as server:
        ask(server.port, ca_bundle=str(other))


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_empty_bundle_in_the_environment_does_not_disable_verification(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    with refused(authority.issue_cert("localhost"), "certificate") as server:
        ask(server.port)


@pytest.mark.parametrize("verify", ["", None, 0, Path("")])
def test_only_false_disables_verification_in_a_session_of_the_caller(authority: trustme.CA, verify: object) -> None:
    with requests.Session() as http:
        http.verify = verify  # type: ignore[assignment]
        with refused(authority.issue_cert("localhost"), "certificate|CA") as server:
            ask(server.port, http=http)
        http.verify = False
        with Capture(authority.issue_cert("localhost")) as server, pytest.warns(InsecureRequestWarning):
            ask(server.port, http=http)
        assert b"SharedAccessSignature" in server.received


def test_an_empty_bundle_is_refused_and_ignored_in_a_setting_of_flask(authority: trustme.CA) -> None:
    with pytest.raises(ConfigurationError, match="ca_bundle must be the path"):
        ask(1, ca_bundle="")
    app = Flask(__name__)
    with Capture(authority.issue_cert("localhost")) as server:
        text = f"Endpoint=https://localhost:{server.port}/;{KEYED}"
        app.config.update(AZSESSION_CONNECTION_STRING=text, AZSESSION_CA_BUNDLE="", AZSESSION_RETRY_ATTEMPTS=0)
        extension = AzSession(app)
        with app.app_context(), pytest.raises(ConnectionFailedError, match="certificate"):
            extension.provider.list_sessions("orders")
        extension.close(app)
    assert server.handshakes != ["done"]


@pytest.mark.parametrize("endpoint", ["https://localhost:1", "sb://myns.servicebus.windows.net"])
def test_a_bundle_that_cannot_be_read_is_refused_when_the_provider_is_created(tmp_path: Path, endpoint: str) -> None:
    text = f"Endpoint={endpoint}/;{KEYED}"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ServiceBusProvider.from_connection_string(text, ca_bundle=str(tmp_path / "missing.pem"))
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="has no certificates"):
        ServiceBusProvider.from_connection_string(text, ca_bundle=str(tmp_path / "empty.pem"))
    # A folder is not read before a connection.
    ServiceBusProvider.from_connection_string(text, ca_bundle=str(tmp_path)).close()


def test_a_configured_bundle_enables_verification_in_a_session_without_it(authority: trustme.CA, trusted: str) -> None:
    with requests.Session() as http:
        http.verify = False
        with refused(trustme.CA().issue_cert("localhost"), "certificate") as server:
            ask(server.port, http=http, ca_bundle=trusted)


# http:// to other hosts than loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost.evil.com",
        "localhost.",
        "xlocalhost",
        "my-localhost",
        "localhost.localdomain",
        "127.0.0.1.nip.io",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "0.0.0.0",
        "[::]",
        "[::ffff:10.0.0.1]",
        "[::ffff:0.0.0.0]",
        "[2001:db8::1]",
        "10.0.0.1",
        "169.254.169.254",
        "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
        "loc\u0430lhost",
        "\uff11\uff12\uff17.0.0.1",
        "gateway",
    ],
)
def test_a_host_that_only_looks_like_loopback_needs_tls(host: str) -> None:
    for config in ({"connection_string": f"Endpoint=http://{host}/;{KEYED}"}, {"gateway_url": f"http://{host}:8720"}):
        with pytest.raises(ConfigurationError):
            ServiceBusConfig(**config)  # type: ignore[arg-type]
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@evil.example/",
        "http://localhost:80@evil.example/",
        "http://evil.example#@127.0.0.1/",
        "http://evil.example?@127.0.0.1/",
        "http://evil.example\\@127.0.0.1/",
        "http://127.0.0.1\\@evil.example/",
        "http:\\\\evil.example/",
        "http://evil.example%2F@127.0.0.1/",
        "http://127.0.0.1\t.evil.example/",
        "http://127.0.0.1\n.evil.example/",
        "http://user:password@127.0.0.1/",
        "http:///127.0.0.1/",
        "//127.0.0.1/",
    ],
)
def test_a_url_that_parsers_read_differently_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        ServiceBusConfig(gateway_url=url)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]"])
def test_loopback_needs_no_tls_in_any_spelling(host: str) -> None:
    assert is_loopback(host)
    assert not ServiceBusConfig(gateway_url=f"http://{host}:1").tls
