"""AMQP over WebSockets on the port of the HTTP server."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
import websocket
from azure.servicebus import ServiceBusClient, TransportType

from azsession import Message, ServiceBusProvider, amqp
from azsession.broker.embedded import EmbeddedBroker
from azsession.config import ServiceBusConfig
from azsession.errors import ConfigurationError
from azsession.server import GatewayService
from azsession.server.amqp import limits
from azsession.server.amqp.websocket import PATH, WebSocket

from ...conftest import eventually
from ...support.sdk import message, send
from ...support.sdk import session as sdk_session
from .certificates import Certificate, issue_certificate
from .conftest import ROOT
from .raw import PATIENCE, RawClient, encoded, transfer
from .test_connections import endpoint_of

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def port_of(service: GatewayService) -> int:
    return int(service.url.rpartition(":")[2])


class _Socket:
    """A WebSocket with the methods of a socket, for `RawClient`."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self.connection = connection

    def sendall(self, data: bytes) -> None:
        self.connection.send_binary(data)

    def recv(self, _size: int) -> bytes:
        try:
            data = self.connection.recv()
        except websocket.WebSocketConnectionClosedException:
            return b""
        return data if isinstance(data, bytes) else b""

    def close(self) -> None:
        self.connection.shutdown()


class WebSocketClient(RawClient):
    """`RawClient` over a WebSocket."""

    def __init__(self, service: GatewayService, protocol: str = "amqp", path: str = PATH) -> None:
        super().__init__(SimpleNamespace(amqp_port=port_of(service)))  # type: ignore[arg-type]
        url = f"{service.url.replace('http', 'ws')}{path}"
        self.connection = websocket.create_connection(
            url, timeout=PATIENCE, subprotocols=[protocol], socket=self.socket, enable_multithread=False
        )
        self.socket: Any = _Socket(self.connection)

    def frame(self) -> tuple[int, bytes]:
        """Return the operation and the payload of the next frame."""
        frame = self.connection.recv_frame()
        return frame.opcode, frame.data


@pytest.fixture
def raw(service: GatewayService) -> Iterator[WebSocketClient]:
    with WebSocketClient(service) as raw:
        yield raw


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return issue_certificate(tmp_path_factory.mktemp("tls"))


def sdk_client(service: GatewayService, **options: Any) -> ServiceBusClient:
    """Return a client of the SDK that uses WebSockets."""
    return ServiceBusClient.from_connection_string(
        service.amqp_connection_string(),
        transport_type=TransportType.AmqpOverWebsocket,
        custom_endpoint_address=f"sb://127.0.0.1:{port_of(service)}",
        retry_total=0,
        keep_alive=None,
        **options,
    )


def converse(service: GatewayService, client: ServiceBusClient, queue: str) -> None:
    """Send messages of all sizes, and receive them from a session."""
    bodies = ["x", "y" * 70_000, "z" * 400_000]
    send(client, queue, *(message(body, "s") for body in bodies))
    with sdk_session(client, queue) as session:
        session.session.set_state(b"state")
        assert all(isinstance(each._transport, WebSocket) for each in endpoint_of(service)._connections)
        # The HTTP server counts them no more. Connections of earlier tests can end late.
        eventually(lambda: len(service._listener.connections) == 0)
        found: list[Any] = []
        while len(found) < 3:
            found += session.receive_messages(3, max_wait_time=10)
        assert [str(each) for each in found] == bodies
        for each in found:
            session.complete_message(each)
        assert session.session.get_state() == b"state"


def test_the_sdk_uses_websockets(service: GatewayService, queue: str) -> None:
    with sdk_client(service) as client:
        converse(service, client, queue)
    eventually(lambda: not endpoint_of(service).connection_count)


def test_the_sdk_uses_websockets_with_tls(tls: Certificate) -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], tls_cert=tls.cert, tls_key=tls.key, amqp_port=0) as service:
        with sdk_client(service, connection_verify=str(tls.authority)) as client:
            converse(service, client, "q")
        with pytest.raises(ssl.SSLError):
            websocket.create_connection(f"wss://127.0.0.1:{port_of(service)}{PATH}", timeout=PATIENCE)


def test_our_azure_engine_uses_websockets(tls: Certificate) -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], tls_cert=tls.cert, tls_key=tls.key, amqp_port=0) as service:
        fields = f"SharedAccessKeyName={ROOT.name};SharedAccessKey={ROOT.key}"
        config = ServiceBusConfig(
            connection_string=f"Endpoint=sb://127.0.0.1:{port_of(service)};{fields}",
            transport="amqp-websockets",
            ca_bundle=str(tls.authority),
        )
        with ServiceBusProvider(config) as provider:
            provider.send_messages("q", Message("x", session_id="s"))
            with provider.create_session_client("q", session_id="s") as session:
                assert [each.body for each in session.receive_messages(1)] == [b"x"]


@pytest.mark.parametrize("protocol", ["amqp", "AMQPWSB10"])
def test_both_names_of_the_protocol_are_known(service: GatewayService, queue: str, protocol: str) -> None:
    with WebSocketClient(service, protocol) as raw:
        assert raw.connection.subprotocol == protocol.lower()
        assert raw.open(ROOT).attach_receiver(queue).has_source


@pytest.mark.parametrize("path", [PATH + "/", "/%24servicebus/websocket", "/$ServiceBus/WebSocket?x=1"])
def test_the_path_may_be_written_differently(service: GatewayService, queue: str, path: str) -> None:
    with WebSocketClient(service, path=path) as raw:
        assert raw.open(ROOT).attach_receiver(queue).has_source


GOOD = {
    "Host": "127.0.0.1",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Protocol": "amqp",
}


@pytest.mark.parametrize(
    ("first", "changes", "status"),
    [
        (f"GET {PATH} HTTP/1.1", {}, b"101"),
        ("GET /other HTTP/1.1", {}, b"404"),
        ("GET / HTTP/1.1", {}, b"404"),
        (f"POST {PATH} HTTP/1.1", {}, b"405"),
        (f"GET {PATH} HTTP/1.1", {"Sec-WebSocket-Protocol": "mqtt"}, b"400"),
        (f"GET {PATH} HTTP/1.1", {"Sec-WebSocket-Protocol": None}, b"400"),
        (f"GET {PATH} HTTP/1.1", {"Sec-WebSocket-Key": "short"}, b"400"),
        (f"GET {PATH} HTTP/1.1", {"Sec-WebSocket-Key": None}, b"400"),
        (f"GET {PATH} HTTP/1.1", {"Sec-WebSocket-Version": "12"}, b"400"),
        (f"GET {PATH} HTTP/1.1", {"Connection": "close, x"}, b"401"),
        (f"GET {PATH} HTTP/1.1", {"X-Long": "x" * 10_000}, b"431"),
    ],
)
def test_a_bad_handshake_is_refused(
    service: GatewayService, queue: str, first: str, changes: dict[str, str | None], status: bytes
) -> None:
    headers = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=PATIENCE) as sock:
        sock.sendall(f"{first}\r\n{head}\r\n".encode())
        answer = sock.recv(65536)
        assert answer.split(b" ")[1] == status
        if status != b"101":
            while sock.recv(65536):
                pass
    # Others are served.
    assert urlopen(f"{service.url}/healthz", timeout=PATIENCE).status == 200


def test_a_request_with_a_body_is_refused(service: GatewayService) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in {**GOOD, "Content-Length": "3"}.items())
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=PATIENCE) as sock:
        sock.sendall(f"GET {PATH} HTTP/1.1\r\n{head}\r\nabc".encode())
        received = b""
        while data := sock.recv(65536):
            received += data
        assert b" 101 " not in received


def test_a_gateway_without_amqp_has_no_websockets() -> None:
    refused = pytest.raises(websocket.WebSocketBadStatusException, match="40")
    with GatewayService(EmbeddedBroker(), [ROOT]) as service, refused:
        websocket.create_connection(f"ws://127.0.0.1:{port_of(service)}{PATH}", timeout=PATIENCE, subprotocols=["amqp"])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ConfigurationError, match=r"extra 'server' with: pip install .*websockets"):
        GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0)
    GatewayService(EmbeddedBroker(), [ROOT]).stop()


def test_an_unanswered_request_before_the_handshake_does_not_reach_the_websocket(service: GatewayService) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=PATIENCE) as sock:
        sock.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET {PATH} HTTP/1.1\r\n{head}\r\n".encode())
        received = sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 101 ")
        sock.sendall(masked(BINARY, amqp.SASL_HEADER))
        assert amqp.SASL_HEADER in sock.recv(65536)


def masked(operation: int, payload: bytes, *, fin: bool = True, length: int | None = None) -> bytes:
    """Return a frame of a client. `length` can be a wrong one."""
    size = len(payload) if length is None else length
    first = operation | (0x80 if fin else 0)
    return struct.pack("!BBQ", first, 0x80 | 127, size) + bytes(4) + payload


def raw_send(raw: WebSocketClient, data: bytes) -> None:
    assert raw.connection.sock is not None
    raw.connection.sock.sendall(data)


def test_frames_may_be_split_and_joined_in_any_way(raw: WebSocketClient, queue: str) -> None:
    raw.open(ROOT).attach_sender(queue)
    raw.expect(amqp.FLOW)
    data = b"".join(transfer(1, number, encoded(bytes(1000))) for number in range(3))
    # All of it in one message of fragments with 7 bytes, with pings and empty fragments in between.
    pieces = [data[start : start + 7] for start in range(0, len(data), 7)]
    stream = masked(BINARY, b"", fin=False)
    for number, piece in enumerate(pieces):
        stream += masked(0, piece, fin=number == len(pieces) - 1)
        if number % 100 == 0 and number < len(pieces) - 1:
            stream += masked(PING, b"p") + masked(0, b"", fin=False)
    for start in range(0, len(stream), 1009):
        raw_send(raw, stream[start : start + 1009])
    assert sorted({raw.expect(amqp.DISPOSITION).first for _ in range(3)}) == [0, 1, 2]


def test_a_ping_is_answered(raw: WebSocketClient) -> None:
    raw.connection.ping(b"are you there")
    assert raw.frame() == (PONG, b"are you there")


def test_the_close_frame_of_a_client_is_answered(raw: WebSocketClient, service: GatewayService, queue: str) -> None:
    raw.open(ROOT).attach_receiver(queue, "held")
    raw.connection.send_close(1000)
    operation, payload = raw.frame()
    assert (operation, payload[:2]) == (CLOSE, (1000).to_bytes(2, "big"))
    raw_socket = raw.connection.sock
    assert raw_socket is not None
    assert raw_socket.recv(100) == b""
    with RawClient(service) as other:
        # The session was released.
        assert other.open(ROOT).attach_receiver(queue, "held").has_source


def test_the_end_of_the_amqp_connection_closes_the_websocket(raw: WebSocketClient) -> None:
    raw.open(ROOT)
    raw.send(amqp.close_frame())
    operations = []
    while not operations or operations[-1] != CLOSE:
        operations.append(raw.frame()[0])
    assert operations == [BINARY, CLOSE]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(TEXT, b"AMQP"), 1003),
        (masked(BINARY, b"", length=2 * 1024 * 1024), 1009),
        (masked(BINARY, b"", length=1 << 62), 1009),
        (masked(0, b"x"), 1002),
        (masked(BINARY, b"", fin=False) + masked(BINARY, b""), 1002),
        (masked(3, b"x"), 1002),
        (masked(PING, b"x", fin=False), 1002),
        (masked(BINARY, b"x").replace(b"\x82", b"\xf2", 1), 1002),
        (b"\x82\x01x", 1002),
        (masked(CLOSE, b"\x00\x01"), 1002),
    ],
)
def test_a_malformed_frame_closes_the_websocket(raw: WebSocketClient, queue: str, data: bytes, code: int) -> None:
    raw.open(ROOT).attach_receiver(queue)
    raw_send(raw, data)
    operation, payload = raw.frame()
    assert (operation, int.from_bytes(payload[:2], "big")) == (CLOSE, code)
    raw_socket = raw.connection.sock
    assert raw_socket is not None
    assert raw_socket.recv(100) == b""


def test_random_bytes_only_end_their_own_websocket(service: GatewayService, queue: str) -> None:
    with RawClient(service) as other:
        other.open(ROOT).attach_sender(queue)
        for number in range(30):
            with WebSocketClient(service) as raw:
                raw_send(raw, os.urandom(200) if number % 2 else masked(BINARY, os.urandom(200)))
                # The bytes can begin a long frame. The endpoint waits for its rest, until it learns that none will come.
                raw.connection.sock.shutdown(socket.SHUT_WR)
                assert raw.next() in (None, amqp.SASL_HEADER)
        other.expect(amqp.FLOW)
        other.send(transfer(1, 0, encoded(b"x")))
        assert other.expect(amqp.DISPOSITION).state == "accepted"


def test_a_websocket_without_sasl_is_closed(service: GatewayService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 0.5)
    with WebSocketClient(service) as raw:
        raw.assert_ended()


def test_a_client_that_only_pings_and_never_reads_is_not_answered_for_ever(service: GatewayService) -> None:
    with WebSocketClient(service) as raw:
        raw.open(ROOT)
        raw.connection.settimeout(1.0)
        with pytest.raises((TimeoutError, websocket.WebSocketTimeoutException)):
            raw_send(raw, masked(PING, bytes(125)) * 200_000)
        assert endpoint_of(service).unsent_bytes < 2 * 1024 * 1024


def test_websockets_count_as_connections() -> None:
    with GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0, max_connections=1) as service:
        with WebSocketClient(service) as first:
            first.open(ROOT)
            with pytest.raises(websocket.WebSocketBadStatusException, match="503"):
                WebSocketClient(service)
        eventually(lambda: not endpoint_of(service).connection_count)
        with WebSocketClient(service) as second:
            assert second.sasl() == 0


def test_the_server_stops_with_a_close_frame() -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], amqp_port=0) as service, WebSocketClient(service) as raw:
        raw.open(ROOT).attach_receiver("q")
        service.stop()
        assert raw.expect(amqp.CLOSE).error.condition == "amqp:connection:forced"
        raw.assert_ended()


def test_no_frame_is_logged(service: GatewayService, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), WebSocketClient(service) as raw:
        raw.open(ROOT).attach_sender(queue)
        raw.expect(amqp.FLOW)
        raw.send(transfer(1, 0, encoded(b"private")))
        raw.expect(amqp.DISPOSITION)
    # The library would log the bytes of each frame.
    assert not [record for record in caplog.records if record.name.startswith("websockets")]
