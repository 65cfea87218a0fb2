"""The HTTP server: clients that go away, slow and silent clients, TLS, addresses, and stopping."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import ConfigurationError
from azsession.server import AccessKey, GatewayService
from azsession.server.http import limits
from tests.conftest import eventually
from tests.support.paths import ROOT

from ..raw import KEYS, Gateway, SteppedClock, acceptors, connections, fresh_id, in_thread, read_reply, serving, waiters

# Clients that go away


@pytest.mark.parametrize("lock_id", [None, "holder"], ids=["plain", "version 1"])
def test_a_client_that_goes_away_during_a_receive_loses_no_message(gateway: Gateway, queue: str, lock_id: str | None) -> None:
    holder = gateway.holder(queue, "s", lock_id)
    holder.start_receive(60).close()
    gateway.send(queue, "s", "one")
    received = holder.receive()
    assert received.body == b"one"
    assert received.properties["DeliveryCount"] == 1


def test_the_wait_of_a_client_that_goes_away_ends(gateway: Gateway, queue: str) -> None:
    with gateway.holder(queue, "s").start_receive(60):
        eventually(lambda: waiters(gateway, queue, "s") == 1)
    eventually(lambda: waiters(gateway, queue, "s") == 0)


def test_a_message_goes_to_the_receive_of_a_connected_client(gateway: Gateway, queue: str) -> None:
    holder = gateway.holder(queue, "s", fresh_id())
    with holder.start_receive(60) as gone, holder.start_receive(60) as there:
        eventually(lambda: waiters(gateway, queue, "s") == 2)
        gone.close()
        gateway.send(queue, "s", "one")
        assert read_reply(there).body == b"one"


def test_a_session_goes_to_the_accept_of_a_connected_client(gateway: Gateway, queue: str) -> None:
    def accept() -> socket.socket:
        headers = {"Azsession-Lock-Id": fresh_id(), "Content-Length": "2"}
        return gateway.open_socket(gateway.head("POST", f"/{queue}/sessions?timeout=60", headers) + b"{}")

    with accept() as gone:
        eventually(lambda: acceptors(gateway, queue) == 1)
        with accept() as there:
            eventually(lambda: acceptors(gateway, queue) == 2)
            gone.close()
            gateway.send(queue, "s", "one")
            assert read_reply(there).json == {"SessionId": "s"}


def test_the_wait_of_a_chunked_accept_ends_when_its_client_goes_away(gateway: Gateway, queue: str) -> None:
    headers = {"Azsession-Lock-Id": fresh_id(), "Transfer-Encoding": "chunked"}
    head = gateway.head("POST", f"/{queue}/sessions?timeout=60", headers)
    with gateway.open_socket(head + b"2\r\n{}\r\n0\r\n\r\n"):
        eventually(lambda: acceptors(gateway, queue) == 1)
    eventually(lambda: acceptors(gateway, queue) == 0)


def test_the_wait_of_a_client_that_resets_its_connection_ends(gateway: Gateway, queue: str) -> None:
    sock = gateway.holder(queue, "s").start_receive(60)
    eventually(lambda: waiters(gateway, queue, "s") == 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
    eventually(lambda: waiters(gateway, queue, "s") == 0)


def test_several_requests_use_one_connection(gateway: Gateway, queue: str) -> None:
    holder = gateway.holder(queue, "s", fresh_id())
    connection = gateway.connect()
    try:
        for number in range(5):
            gateway.send(queue, "s", str(number))
            assert holder.receive("timeout=5", connection=connection).body == str(number).encode()
            assert holder.receive("timeout=0.01", connection=connection).status == 204
    finally:
        connection.close()


def test_requests_can_be_pipelined(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    head = gateway.head("DELETE", f"/{queue}/sessions/s/messages/head?timeout=0")
    with gateway.open_socket(head + head) as sock:
        received = b""
        while received.count(b"HTTP/1.1 201") < 2 or not received.endswith(b"two"):
            received += sock.recv(65536)
    assert received.index(b"\r\n\r\none") < received.index(b"\r\n\r\ntwo")


# Slow and silent clients


def test_slow_clients_block_no_others_and_are_disconnected() -> None:
    with serving(max_waiting=64) as gateway, ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "HEADER_DEADLINE", 1.0)
            slow = [stack.enter_context(gateway.open_socket(b"GET /healthz HTTP/1.1\r\nX-Slow: ")) for _ in range(40)]
            body = gateway.head("POST", "/q/messages", {"Content-Length": "1000"})
            slow.append(stack.enter_context(gateway.open_socket(body + b"a bit")))
            eventually(lambda: connections(gateway) == 41)
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(0.05):
                for sock in slow:
                    with suppress(OSError):
                        sock.sendall(b"x")

        result = in_thread(trickle)
        try:
            for _ in range(10):
                assert gateway.ask("GET", "/healthz").status == 200
            for sock in slow:
                answered = b""
                try:
                    while data := sock.recv(4096):
                        answered += data
                except ConnectionResetError:
                    pass
                assert b" 200 " not in answered
        finally:
            ended.set()
            result()


def test_a_body_can_take_longer_than_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_RATE", 100)
    with serving() as gateway:
        queue = gateway.queue()
        headers = {"Content-Length": "1000", "BrokerProperties": '{"SessionId": "s"}'}
        with gateway.open_socket(gateway.head("POST", f"/{queue}/messages", headers) + b"x" * 500) as sock:
            monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.1)
            sock.sendall(b"x" * 500)
            assert read_reply(sock).status == 201


def test_silent_clients_block_no_others() -> None:
    with serving(max_waiting=2) as gateway, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(gateway.open_socket())
        assert gateway.ask("GET", "/healthz").status == 200


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {"tls_cert": chain, "tls_key": key}


def context_for(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_the_gateway_serves_tls(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(**certificate) as gateway:
        assert gateway.url.startswith("https://")
        queue = gateway.queue()
        connection = http.client.HTTPSConnection(gateway.host, gateway.port, timeout=20, context=context_for(authority))
        try:
            holder = gateway.holder(queue, "s", fresh_id())
            headers = {"BrokerProperties": '{"SessionId": "s"}'}
            body = b"x" * 300_000
            assert gateway.ask("POST", f"/{queue}/messages", body, headers, connection=connection).status == 201
            assert holder.receive(connection=connection).body == body
            assert holder.receive("timeout=0.05", connection=connection).status == 204
        finally:
            connection.close()


@pytest.mark.parametrize(("version", "works"), [("TLSv1_2", True), ("TLSv1_3", True), ("TLSv1_1", False)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_of_tls_are_refused(
    authority: trustme.CA, certificate: dict[str, Path], version: str, works: bool
) -> None:
    context = context_for(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion[version]
    with serving(**certificate) as gateway, gateway.open_socket() as sock:
        if not works:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(sock, server_hostname=gateway.host)
            return
        with context.wrap_socket(sock, server_hostname=gateway.host) as wrapped:
            wrapped.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_reply(wrapped).status == 200


def test_a_silent_or_broken_tls_client_blocks_no_others(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(max_waiting=8, **certificate) as gateway, ExitStack() as stack:
        for data in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100):
            for _ in range(2):
                stack.enter_context(gateway.open_socket(data))
        connection = http.client.HTTPSConnection(gateway.host, gateway.port, timeout=20, context=context_for(authority))
        stack.callback(connection.close)
        assert gateway.ask("GET", "/healthz", connection=connection).status == 200


def test_a_silent_tls_client_is_disconnected(
    authority: trustme.CA, certificate: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.2)
    with serving(**certificate) as gateway, gateway.open_socket(b"\x16\x03\x01") as sock:
        # A TLS alert can come before the end of the connection.
        while sock.recv(100):
            pass


def test_a_tls_client_that_goes_away_loses_no_message(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(**certificate) as gateway:
        queue = gateway.queue()
        holder = gateway.holder(queue, "s", fresh_id())
        head = gateway.head("DELETE", f"{holder.path}/messages/head?timeout=60", holder.headers)
        with context_for(authority).wrap_socket(gateway.open_socket(), server_hostname=gateway.host) as sock:
            sock.sendall(head)
            eventually(lambda: waiters(gateway, queue, "s") == 1)
        eventually(lambda: waiters(gateway, queue, "s") == 0)


def test_an_unusable_certificate_is_a_configuration_error(tmp_path: Path, certificate: dict[str, Path]) -> None:
    nothing = tmp_path / "nothing.pem"
    for cert, key in ((nothing, certificate["tls_key"]), (certificate["tls_cert"], nothing), (certificate["tls_cert"], None)):
        with EmbeddedBroker() as broker, pytest.raises(ConfigurationError, match="TLS"):
            GatewayService(broker, KEYS, tls_cert=cert, tls_key=key, max_waiting=2)


# Addresses


def test_an_address_that_is_not_loopback_requires_tls_or_insecure() -> None:
    with EmbeddedBroker() as broker:
        with pytest.raises(ConfigurationError, match="loopback"):
            GatewayService(broker, KEYS, host="192.0.2.1", max_waiting=2)
        with pytest.raises(ConfigurationError, match="loopback"):
            GatewayService(broker, KEYS, host="0.0.0.0", max_waiting=2)


def test_a_port_in_use_is_a_configuration_error(gateway: Gateway) -> None:
    with EmbeddedBroker() as broker, pytest.raises(ConfigurationError, match="listen"):
        GatewayService(broker, KEYS, port=gateway.port, max_waiting=2).start()


# Stopping


def test_stop_answers_waiting_receives_with_204() -> None:
    with serving() as gateway, ExitStack() as stack:
        queue = gateway.queue()
        receive = stack.enter_context(gateway.holder(queue, "s", fresh_id()).start_receive(60))
        head = gateway.head("POST", f"/{queue}/sessions?timeout=60", {"Content-Length": "0"})
        accept = stack.enter_context(gateway.open_socket(head))
        eventually(lambda: waiters(gateway, queue, "s") == 1 and acceptors(gateway, queue) == 1)
        gateway.service.stop()
        assert read_reply(receive).status == 204
        assert read_reply(accept).status == 204
        with pytest.raises(OSError):  # noqa: PT011 - the text depends on the system
            gateway.open_socket()
        gateway.service.stop()


class _SlowBroker(EmbeddedBroker):
    """The futures of its sends get their results when `go_on` is called."""

    def __init__(self) -> None:
        super().__init__(queues=["q"])
        self.entered = threading.Event()
        self.answers: list[Future[None]] = []

    def send(self, *args: object, **more: object) -> Future[None]:
        super().send(*args, **more).result()  # type: ignore[arg-type]
        self.answers.append(Future())
        self.entered.set()
        return self.answers[-1]

    def go_on(self) -> None:
        for answer in self.answers:
            answer.set_result(None)


def test_stop_lets_a_running_request_finish() -> None:
    broker = _SlowBroker()
    with GatewayService(broker, KEYS, max_waiting=2) as service:
        gateway = Gateway(service, SteppedClock())
        sending = in_thread(lambda: gateway.ask("POST", "/q/messages", b"x", {"BrokerProperties": '{"SessionId": "s"}'}))
        assert broker.entered.wait(20)
        stopping = in_thread(service.stop)
        eventually(lambda: service._listener.connections.is_stopping)
        broker.go_on()
        reply = sending()
        assert (reply.status, reply.headers["Connection"]) == (201, "close")
        stopping()


def test_stop_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with serving() as gateway:
        queue = gateway.queue()
        gateway.holder(queue, "s").receive("timeout=0.01")
        with gateway.open_socket(), gateway.open_socket(b"GET"):
            gateway.service.stop()
    eventually(lambda: not set(threading.enumerate()) - before, lambda: str(set(threading.enumerate()) - before))


LIFE = """
import gc, threading
from tests.server.raw import acceptors, fresh_id, read_reply, serving, waiters
from tests.conftest import eventually

with serving(max_waiting=4) as gateway:
    queue = gateway.queue()
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.complete(holder.receive().token)
    idle = gateway.open_socket()
    kept = gateway.connect()
    gateway.ask("GET", "/healthz", connection=kept)
    gone = holder.start_receive(60)
    eventually(lambda: waiters(gateway, queue, "s") == 1)
    gone.close()
    eventually(lambda: waiters(gateway, queue, "s") == 0)
    with holder.start_receive(60) as waiting:
        eventually(lambda: waiters(gateway, queue, "s") == 1)
        gateway.service.stop()
        assert read_reply(waiting).status == 204
    idle.close()
    kept.close()
del gateway, holder
gc.collect()
eventually(lambda: threading.active_count() == 1, lambda: str(threading.enumerate()))
print("done")
"""


def test_a_stopped_gateway_leaves_no_socket_and_no_warning() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", LIFE], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_connection_string_names_the_gateway_and_the_key(gateway: Gateway) -> None:
    own = AccessKey.parse("mine:c2VjcmV0=:Send")
    text = gateway.service.connection_string(own)
    assert text == f"Endpoint={gateway.url}/;SharedAccessKeyName=mine;SharedAccessKey=c2VjcmV0="
