"""Slow, silent and misbehaving clients take no thread from others, and are disconnected at their deadlines."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from azsession.server.http import app, limits

from ..conftest import eventually
from ..server.raw import ENVELOPE, Gateway, connections, fresh_id, in_thread, read_reply, reply_of, serving
from .test_connections import HEALTH, is_over

#: A gateway that lets one request wait.
SMALL: dict[str, Any] = {"max_waiting": 1}


#: The first bytes of requests that never end.
STARTS = [b"", b"G", b"GET /healthz", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"\r\n"]


def test_request_heads_that_never_end_occupy_no_thread() -> None:
    with serving(**SMALL) as gateway, ExitStack() as stack:
        before = set(threading.enumerate())
        for said in STARTS * 10:
            stack.enter_context(gateway.open_socket(said))
        eventually(lambda: connections(gateway) == 50)
        for _ in range(5):
            assert gateway.ask("GET", "/healthz").status == 200
        assert not set(threading.enumerate()) - before


def test_a_request_head_that_arrives_in_pieces_is_served() -> None:
    with serving(**SMALL) as gateway, gateway.open_socket() as sock:
        for at in range(len(HEALTH)):
            sock.sendall(HEALTH[at : at + 1])
        assert read_reply(sock).status == 200
        # The last piece of one head also has the first bytes of the next.
        sock.sendall(HEALTH + HEALTH[:10])
        assert read_reply(sock).status == 200
        sock.sendall(HEALTH[10:])
        assert read_reply(sock).status == 200


def test_a_request_head_that_takes_too_long_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.2)
    with serving(**SMALL) as gateway, gateway.open_socket(HEALTH[:20]) as sock:
        reply = read_reply(sock)
        assert (reply.status, reply.code) == (408, "InvalidRequest")
        assert is_over(sock)


def test_an_idle_connection_is_closed_after_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_TIMEOUT", 0.2)
    with serving(**SMALL) as gateway:
        kept = gateway.connect()
        assert gateway.ask("GET", "/healthz", connection=kept).status == 200
        with gateway.open_socket() as silent:
            assert is_over(silent)
        assert is_over(kept.sock)
        kept.close()
        eventually(lambda: connections(gateway) == 0)


# Bodies


@pytest.mark.parametrize("size", [1000, 200_000])
def test_the_body_of_a_refused_request_is_not_waited_for(size: int) -> None:
    with serving(**SMALL) as gateway:
        queue = gateway.queue()
        head = gateway.head("POST", f"/{queue}/messages", {"Content-Length": str(size)}).replace(b"sig=", b"sig=x")
        with gateway.open_socket(head) as sock:
            reply = read_reply(sock)
            assert reply.status == 401
            sock.sendall(b"x" * size)
            if size <= app.MAX_SKIPPED:
                # The connection continues after the body.
                assert reply.headers["Connection"] is None
                sock.sendall(HEALTH)
                assert read_reply(sock).status == 200
            else:
                assert reply.headers["Connection"] == "close"
                assert is_over(sock)


def test_a_body_that_stalls_is_cut_however_fast_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.3)
    with serving(**SMALL) as gateway:
        queue = gateway.queue()
        head = gateway.head("POST", f"/{queue}/messages", {"Content-Length": "16000000", "Content-Type": ENVELOPE})
        # At the minimum rate, these bytes would last for a minute.
        with gateway.open_socket(head + b"[" * 1_000_000) as sock:
            assert is_over(sock)
        eventually(lambda: connections(gateway) == 0)


def test_a_slow_body_that_keeps_the_minimum_rate_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 1.5)
    monkeypatch.setattr(limits, "BODY_RATE", 10)
    with serving(**SMALL) as gateway:
        queue = gateway.queue()
        headers = {"Content-Length": "100", "BrokerProperties": '{"SessionId": "s"}'}
        pause = threading.Event()
        with gateway.open_socket(gateway.head("POST", f"/{queue}/messages", headers)) as sock:
            for _ in range(20):
                pause.wait(0.1)
                sock.sendall(b"xxxxx")
            assert read_reply(sock).status == 201


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 100, b"0\r\nX-Trailer: " + b"x" * 100], ids=["extension", "trailer"])
def test_an_endless_body_without_data_is_cut(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.3)
    with serving(**SMALL) as gateway:
        queue = gateway.queue()
        head = gateway.head("POST", f"/{queue}/messages", {"Transfer-Encoding": "chunked", "Content-Type": ENVELOPE})
        with gateway.open_socket(head + endless) as sock:
            send_until_cut(sock, b"x" * 10_000)
        eventually(lambda: connections(gateway) == 0)


def test_a_client_that_sends_all_of_a_too_large_body_first_reads_the_answer() -> None:
    with serving(max_body_size=100_000) as gateway:
        queue = gateway.queue()
        body = b"x" * 30_000_000
        for headers in ({"Content-Length": str(len(body))}, {"Transfer-Encoding": "chunked"}):
            with gateway.open_socket(gateway.head("POST", f"/{queue}/messages", headers)) as sock:
                sock.sendall(body if "Content-Length" in headers else f"{len(body):x}\r\n".encode() + body)
                reply = read_reply(sock)
                assert (reply.status, reply.code) == (413, "MessageTooLarge")


def send_until_cut(sock: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):
        while True:
            sock.sendall(data)


def test_a_client_that_never_stops_sending_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER", 0.3)
    with serving(max_body_size=100_000) as gateway:
        queue = gateway.queue()
        with gateway.open_socket(gateway.head("POST", f"/{queue}/messages", {"Content-Length": str(10**12)})) as sock:
            send_until_cut(sock, b"x" * 100_000)


# Answers


def test_a_client_that_does_not_read_its_answer_is_disconnected_and_loses_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.3)
    with serving(**SMALL) as gateway:
        queue = gateway.queue()
        size = 500_000
        for number in range(40):
            gateway.send(queue, "s", f"{number:02d}" + "x" * size)
        holder = gateway.holder(queue, "s", fresh_id())
        head = gateway.head("DELETE", f"{holder.path}/messages/head?timeout=0&max=40", holder.headers)
        with gateway.open_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(head)
            eventually(lambda: connections(gateway) == 1)
            assert gateway.ask("GET", "/healthz").status == 200
            eventually(lambda: connections(gateway) == 0)
        assert holder.release().status == 204
        other, received = gateway.holder(queue, "s", fresh_id()), []
        while len(received) < 40:
            # An answer has 16 MB at most.
            items = other.receive("timeout=0&max=40").json
            received += items
        assert {item["BrokerProperties"]["DeliveryCount"] for item in received} == {1}
        assert [item["Body"][:2] for item in received] == [f"{number:02d}" for number in range(40)]


def test_a_client_that_reads_slowly_gets_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 1.2)
    with serving() as gateway:
        queue = gateway.queue()
        for _ in range(20):
            gateway.send(queue, "s", "x" * 900_000)
        holder = gateway.holder(queue, "s", fresh_id())
        with gateway.open_socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.sendall(gateway.head("DELETE", f"{holder.path}/messages/head?timeout=0&max=20", holder.headers))
            response = http.client.HTTPResponse(sock)
            response.begin()
            pause, got = threading.Event(), 0
            while data := response.read(1_200_000):
                got += len(data)
                pause.wait(0.1)
            assert got == int(response.headers["Content-Length"]) > 15_000_000


# Many requests on one connection


def test_thousands_of_pipelined_requests_do_not_block_others() -> None:
    with serving(**SMALL) as gateway, gateway.open_socket() as sock:
        count = 3000
        sending = in_thread(lambda: sock.sendall(HEALTH * count))
        answered = in_thread(lambda: read_answers(sock, count))
        for _ in range(10):
            assert gateway.ask("GET", "/healthz").status == 200
        assert answered() == count
        sending()


def read_answers(sock: socket.socket, count: int) -> int:
    begins = b"HTTP/1.1 200"
    received, answered = b"", 0
    while answered < count and (data := sock.recv(65536)):
        received = received[1 - len(begins) :] + data
        answered += received.count(begins)
    return answered


def test_a_client_that_pipelines_requests_and_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEADER_DEADLINE", 0.3)
    with serving(**SMALL) as gateway, gateway.open_socket() as sock:
        queue = gateway.queue()
        gateway.send(queue, "s", "x" * 900_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ended = in_thread(lambda: send_until_cut(sock, gateway.head("GET", f"/{queue}/sessions/s/messages") * 100))
        for _ in range(5):
            assert gateway.ask("GET", "/healthz").status == 200
        ended()
        eventually(lambda: connections(gateway) == 0)


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return {"tls_cert": chain, "tls_key": key}


def tls_socket(gateway: Gateway, authority: trustme.CA) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context.wrap_socket(gateway.open_socket(), server_hostname="127.0.0.1")


def test_tls_handshakes_that_never_end_occupy_no_thread(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(**SMALL, **certificate) as gateway, ExitStack() as stack:
        before = set(threading.enumerate())
        for said in (b"", b"\x16", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") * 10:
            stack.enter_context(gateway.open_socket(said))
        eventually(lambda: connections(gateway) == 40)
        with tls_socket(gateway, authority) as sock:
            sock.sendall(HEALTH)
            assert read_reply(sock).status == 200
        assert not set(threading.enumerate()) - before


def test_request_heads_over_tls_that_never_end_occupy_no_thread(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(**SMALL, **certificate) as gateway, ExitStack() as stack:
        for said in STARTS:
            stack.enter_context(tls_socket(gateway, authority)).sendall(said or b"X")
        with tls_socket(gateway, authority) as sock:
            for at in range(len(HEALTH)):
                sock.sendall(HEALTH[at : at + 1])
            assert read_reply(sock).status == 200
            # Two requests in one TLS record.
            sock.sendall(HEALTH * 2)
            response = http.client.HTTPResponse(sock)
            response.begin()
            assert reply_of(response).status == 200


def test_a_tls_connection_over_the_limit_gets_503(authority: trustme.CA, certificate: dict[str, Path]) -> None:
    with serving(max_connections=1, **certificate) as gateway, ExitStack() as stack:
        first = stack.enter_context(tls_socket(gateway, authority))
        with tls_socket(gateway, authority) as sock:
            sock.sendall(HEALTH)
            reply = read_reply(sock)
            assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        first.sendall(HEALTH)
        assert read_reply(first).status == 200
