"""AMQP over TLS and WebSockets: certificates are verified, and messages arrive whole."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from azsession import ConfigurationError, ConnectionFailedError, Message, ServiceBusProvider

from ....conftest import eventually
from ....namespaces import Namespace
from ....namespaces.choice import namespace_on
from ....support.plain_server import PlainServer
from ..holders import QUEUE
from .websocket_bridge import Bridge

BODY = os.urandom(700_000)


class Certificates:
    """A certificate authority, and a certificate that it issued for a host."""

    def __init__(self, place: Path, host: str) -> None:
        authority = trustme.CA()
        self.bundle = str(place / "ca.pem")
        authority.cert_pem.write_to_path(self.bundle)
        issued = authority.issue_cert(host)
        self.files = (str(place / "cert.pem"), str(place / "key.pem"))
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.files[0], append=bool(number))
        issued.private_key_pem.write_to_path(self.files[1])

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.files)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path, "127.0.0.1")


@pytest.fixture
def plain(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE, max_message_size=2_000_000)
        yield namespace


def send_and_receive(provider: ServiceBusProvider) -> None:
    """Send and receive a large and a small message."""
    provider.send_messages(QUEUE, [Message(BODY, session_id="s1"), Message("small", session_id="s1")])
    with provider.create_session_client(QUEUE, "s1") as client:
        bodies = []
        for _ in range(2):
            message = client.receive_message(timeout=10)
            assert message is not None
            bodies.append(message.body)
            client.complete_message(message.receipt)
        assert bodies == [BODY, b"small"]


def test_a_certificate_of_a_trusted_authority_is_accepted(server: str, certificates: Certificates) -> None:
    with namespace_on(server, tls=certificates.files) as namespace:
        namespace.create_queue(QUEUE, max_message_size=2_000_000)
        with ServiceBusProvider.from_connection_string(
            namespace.connection_string, transport="amqp", ca_bundle=certificates.bundle
        ) as provider:
            send_and_receive(provider)


@pytest.mark.parametrize("transport", ["amqp", "amqp-websockets"])
@pytest.mark.parametrize(
    ("host", "trusted", "why"),
    [("127.0.0.1", False, "not trusted"), ("elsewhere.example", True, "not trusted .*mismatch")],
    ids=["unknown-authority", "another-host"],
)
def test_an_invalid_certificate_is_refused_with_the_reason(
    server: str, tmp_path: Path, transport: str, host: str, trusted: bool, why: str
) -> None:
    certificates = Certificates(tmp_path, host)
    bundle = certificates.bundle if trusted else None
    with namespace_on(server) as namespace, Bridge(namespace.port, certificates.context) as bridge:
        string = namespace.connection_string.replace(f":{namespace.port}", f":{bridge.port}")
        string = string.replace(";UseDevelopmentEmulator=true", "")
        with (
            ServiceBusProvider.from_connection_string(
                string, transport=transport, ca_bundle=bundle, retry_attempts=0
            ) as provider,
            pytest.raises(ConnectionFailedError, match=why) as caught,
        ):
            provider.send_message(QUEUE, Message("x", session_id="s1"))
        assert not caught.value.maybe_delivered
        assert namespace.log["open"] == 0


@pytest.mark.parametrize("piece", [700, 65536])
def test_messages_are_sent_and_received_over_websockets(plain: Namespace, certificates: Certificates, piece: int) -> None:
    with Bridge(plain.port, certificates.context, piece=piece) as bridge:
        string = plain.connection_string.replace(f":{plain.port}", f":{bridge.port}")
        string = string.replace(";UseDevelopmentEmulator=true", "")
        with ServiceBusProvider.from_connection_string(
            string, transport="amqp-websockets", ca_bundle=certificates.bundle
        ) as provider:
            send_and_receive(provider)
        head = bridge.requests[0]
        assert head.startswith("GET /$servicebus/websocket HTTP/1.1\r\n")
        assert "Sec-WebSocket-Protocol: AMQPWSB10\r\n" in head
        eventually(lambda: len(bridge.pongs) >= 3)
        assert bridge.pongs[:3] == [b"ping 1", b"ping 2", b"ping 3"]


def test_websockets_without_tls_reach_an_emulator(plain: Namespace) -> None:
    with Bridge(plain.port) as bridge:
        string = plain.connection_string.replace(f":{plain.port}", f":{bridge.port}")
        with ServiceBusProvider.from_connection_string(string, transport="amqp-websockets") as provider:
            send_and_receive(provider)
            # The next call replaces a connection that the peer closed.
            plain.drop_connections()
            # Peek first: a peek is repeated on a new connection, a send is not.
            assert provider.peek_messages(QUEUE, "s1") == []
            provider.send_message(QUEUE, Message("again", session_id="s1"))
        assert len(bridge.requests) == 2


def test_a_server_with_another_subprotocol_is_refused(plain: Namespace) -> None:
    with Bridge(plain.port, protocol="chat") as bridge:
        string = plain.connection_string.replace(f":{plain.port}", f":{bridge.port}")
        with (
            ServiceBusProvider.from_connection_string(string, transport="amqp-websockets", retry_attempts=0) as provider,
            pytest.raises(ConnectionFailedError, match="did not accept a WebSocket connection"),
        ):
            provider.send_message(QUEUE, Message("x", session_id="s1"))


def test_a_proxy_that_gives_no_connection_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed, PlainServer() as refusing:
        closed.bind(("127.0.0.1", 0))  # It does not listen.
        port = closed.getsockname()[1]
        for place in (f"127.0.0.1:{port}", refusing.url.removeprefix("http://")):
            monkeypatch.setenv("https_proxy", f"http://user:secret@{place}")
            with (
                ServiceBusProvider.from_connection_string(
                    "Endpoint=sb://myns.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=k",
                    transport="amqp-websockets",
                    retry_attempts=0,
                ) as provider,
                pytest.raises(ConnectionFailedError, match=f"443 .* through the proxy http://{place}: ") as caught,
            ):
                provider.send_message(QUEUE, Message("x", session_id="s1"))
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["http://user:secret@h:99999", "http://user:secret", "secret.invalid:3128", "ftp://secret@h"]
)
def test_a_malformed_proxy_is_refused_without_showing_it(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    string = "Endpoint=sb://myns.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=k"
    with pytest.raises(ConfigurationError, match=r"^the proxy in HTTPS_PROXY .*: use a URL like http://") as caught:
        ServiceBusProvider.from_connection_string(string, transport="amqp-websockets")
    assert "secret" not in str(caught.value)


def test_no_proxy_is_named_for_a_host_that_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        string = f"Endpoint=sb://127.0.0.1:{closed.getsockname()[1]};SharedAccessKeyName=n;SharedAccessKey=k"
        with (
            ServiceBusProvider.from_connection_string(
                f"{string};UseDevelopmentEmulator=true", transport="amqp-websockets", retry_attempts=0
            ) as provider,
            pytest.raises(ConnectionFailedError, match="cannot be reached: "),
        ):
            provider.send_message(QUEUE, Message("x", session_id="s1"))
