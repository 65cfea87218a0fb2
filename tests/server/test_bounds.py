"""Limits on bodies, headers, batches and waits: requests over a limit are refused at once, and others are served."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from ..conftest import eventually
from .raw import ENVELOPE, Gateway, exchange, fresh_id, places_left, read_reply, serving, waiters

#: The body limit of the shared gateway, in bytes.
LIMIT = 256 * 1024


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# Bodies


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 100_000, 10**9, 10**18])
def test_a_body_over_the_limit_is_refused_by_its_content_length(gateway: Gateway, queue: str, size: int) -> None:
    reply = exchange(gateway, gateway.head("POST", f"/{queue}/messages", {"Content-Length": str(size)}))
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


def test_a_client_that_sends_all_of_a_body_over_the_limit_gets_an_answer(gateway: Gateway, queue: str) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", b"x" * (LIMIT + 1), {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_a_chunked_body_over_the_limit_is_refused_before_its_end(gateway: Gateway, queue: str, chunks: int) -> None:
    head = gateway.head("POST", f"/{queue}/messages", {"Transfer-Encoding": "chunked", "Content-Type": ENVELOPE})
    part = chunk(b"x" * (LIMIT // chunks + 1))
    reply = exchange(gateway, head + part * chunks)
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


def test_a_chunk_that_exceeds_the_limit_is_refused_before_its_end(gateway: Gateway, queue: str) -> None:
    head = gateway.head("POST", f"/{queue}/messages", {"Transfer-Encoding": "chunked"})
    reply = exchange(gateway, head + b"7fffffff\r\n" + b"x" * (LIMIT + 1))
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


@pytest.mark.parametrize("body", [b"xyz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcde\r\n0\r\n\r\n"])
def test_a_broken_chunk_is_refused(gateway: Gateway, queue: str, body: bytes) -> None:
    headers = {"Transfer-Encoding": "chunked", "BrokerProperties": '{"SessionId": "s"}'}
    reply = exchange(gateway, gateway.head("POST", f"/{queue}/messages", headers) + body)
    assert (reply.status, reply.code) == (400, "InvalidRequest")
    assert gateway.holder(queue, "s").receive().status == 204


def test_a_chunked_body_is_accepted(gateway: Gateway, queue: str) -> None:
    headers = {"Transfer-Encoding": "chunked", "BrokerProperties": '{"SessionId": "s"}'}
    body = chunk(b"in ") + chunk(b"parts") + b"0\r\n\r\n"
    assert exchange(gateway, gateway.head("POST", f"/{queue}/messages", headers) + body).status == 201
    assert gateway.holder(queue, "s").receive().body == b"in parts"


@pytest.mark.parametrize("authorized", [True, False])
def test_bytes_after_a_chunked_request_are_not_read_as_a_request(gateway: Gateway, queue: str, authorized: bool) -> None:
    hidden = gateway.head("PUT", f"/{queue}-hidden", {"Content-Length": "0"})
    headers = {"Transfer-Encoding": "chunked", "BrokerProperties": '{"SessionId": "s"}'}
    if not authorized:
        headers["X-Ignored"] = "1"
    head = gateway.head("POST", f"/{queue}/messages", headers)
    if not authorized:
        head = head.replace(b"Authorization", b"X-Authorization")
    # In a chunk extension, in the data of a chunk, and in the trailer.
    extension = b"1;" + hidden.split(b"\r\n", 1)[0] + b"\r\nx\r\n"
    with gateway.open_socket(head + extension + chunk(hidden) + b"0\r\n" + hidden) as sock:
        # The bytes in the trailer are no trailer.
        assert read_reply(sock).status == (400 if authorized else 401)
        sock.shutdown(socket.SHUT_WR)
        drain(sock)
    assert gateway.ask("GET", f"/{queue}-hidden").status == 404


def drain(sock: socket.socket) -> bytes:
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_content_length_together_with_transfer_encoding_is_refused(gateway: Gateway, queue: str) -> None:
    headers = {"Content-Length": "3", "Transfer-Encoding": "chunked", "BrokerProperties": '{"SessionId": "s"}'}
    reply = exchange(gateway, gateway.head("POST", f"/{queue}/messages", headers) + b"0\r\n\r\n")
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("length", ["-1", "x", "3, 3", "3, 4", "0x3", "+3", "1_0", ""])
def test_a_malformed_content_length_is_refused(gateway: Gateway, queue: str, length: str) -> None:
    headers = {"Content-Length": length, "BrokerProperties": '{"SessionId": "s"}'}
    reply = exchange(gateway, gateway.head("POST", f"/{queue}/messages", headers) + b"abc")
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_two_content_lengths_are_refused(gateway: Gateway, queue: str) -> None:
    head = gateway.head("POST", f"/{queue}/messages", {"Content-Length": "3", "BrokerProperties": '{"SessionId": "s"}'})
    reply = exchange(gateway, head[:-2] + b"Content-Length: 4\r\n\r\nabcd")
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_an_unknown_transfer_encoding_is_refused(gateway: Gateway, queue: str) -> None:
    with gateway.open_socket(gateway.head("POST", f"/{queue}/messages", {"Transfer-Encoding": "gzip, chunked"})) as sock:
        assert read_reply(sock).status in (400, 501)


def test_a_body_shorter_than_its_content_length_sends_no_message(gateway: Gateway, queue: str) -> None:
    head = gateway.head("POST", f"/{queue}/messages", {"Content-Length": "10", "BrokerProperties": '{"SessionId": "s"}'})
    with gateway.open_socket(head + b"short") as sock:
        sock.shutdown(socket.SHUT_WR)
        drain(sock)
    assert gateway.holder(queue, "s").receive().status == 204


# Headers and request lines


def test_a_header_over_the_limit_is_refused(gateway: Gateway, queue: str) -> None:
    head = gateway.head("GET", f"/{queue}", {"X-Large": "x" * 70_000})
    reply = exchange(gateway, head)
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


def test_many_headers_over_the_limit_are_refused(gateway: Gateway, queue: str) -> None:
    head = gateway.head("GET", f"/{queue}", {f"X-{number}": "x" * 100 for number in range(1000)})
    assert exchange(gateway, head).status == 413


def test_a_path_over_the_limit_is_refused(gateway: Gateway) -> None:
    reply = exchange(gateway, gateway.head("GET", "/" + "x" * 70_000))
    assert (reply.status, reply.code) == (413, "MessageTooLarge")


@pytest.mark.parametrize(
    "data",
    [
        b"rubbish\r\n\r\n",
        b"GET / SPDY/9\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_malformed_requests_get_an_error_of_the_protocol(gateway: Gateway, data: bytes) -> None:
    reply = exchange(gateway, data)
    assert 400 <= reply.status < 600
    assert reply.status != 500
    assert reply.code


@pytest.mark.parametrize("host", ["", "[::1", "x:y", "x:99999", "a b", "\xff", "[zz]", "@", ":"])
def test_an_unusual_host_header_is_not_a_server_error(gateway: Gateway, queue: str, host: str) -> None:
    reply = gateway.holder(queue, "s").receive(headers={"Host": host})
    assert reply.status in (400, 401)


# Batches


def test_a_thousand_messages_are_sent_received_and_settled_at_once(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", *map(str, range(1000)))
    holder = gateway.holder(queue, "s", fresh_id())
    received = holder.receive("timeout=0&max=1000").json
    assert [item["Body"] for item in received] == [str(number) for number in range(1000)]
    tokens = [item["BrokerProperties"]["LockToken"] for item in received]
    assert holder.ask("POST", "/messages/$settle", {"complete": tokens}).json == {"failed": []}


def test_a_batch_of_more_than_a_thousand_messages_is_refused(gateway: Gateway, queue: str) -> None:
    items = [{"Body": "x", "BrokerProperties": {"SessionId": "s"}}] * 1001
    holder = gateway.holder(queue, "s")
    for reply in (
        gateway.ask("POST", f"/{queue}/messages", items, {"Content-Type": ENVELOPE}),
        holder.ask("POST", "/messages/$settle", {"complete": ["x"] * 600, "abandon": ["y"] * 401}),
        holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": list(range(1, 1002))}),
    ):
        assert (reply.status, reply.code) == (413, "MessageTooLarge")
    assert holder.receive().status == 204


# Waits


def test_a_wait_over_the_limit_is_refused_at_once_and_others_are_served() -> None:
    with serving(max_waiting=4) as gateway, ExitStack() as stack:
        queue = gateway.queue()
        holders = [gateway.holder(queue, f"s{number}", fresh_id()) for number in range(3)]
        waiting = [stack.enter_context(holder.start_receive(60)) for holder in holders]
        accept = gateway.head("POST", f"/{queue}/sessions?timeout=60", {"Content-Length": "0"})
        waiting.append(stack.enter_context(gateway.open_socket(accept)))
        eventually(lambda: places_left(gateway) == 0)
        for number in range(3):
            for reply in (
                gateway.holder(queue, f"late-{number}", fresh_id()).receive("timeout=60"),
                gateway.ask("POST", f"/{queue}/sessions?timeout=60", {}),
            ):
                assert (reply.status, reply.code) == (429, "Throttled")
                assert int(reply.headers["Retry-After"]) >= 1
        # Receives that need not wait are served.
        assert gateway.holder(queue, "other").receive().status == 204
        gateway.send(queue, "s1", "one")
        assert read_reply(waiting[1]).body == b"one"
        # The receive that got its message frees a place.
        again = stack.enter_context(gateway.holder(queue, "late-too", fresh_id()).start_receive(60))
        eventually(lambda: waiters(gateway, queue, "late-too") == 1)
        gateway.send(queue, "late-too", "two")
        assert read_reply(again).body == b"two"


def test_a_receive_that_may_not_wait_leaves_no_waiter_behind(gateway: Gateway) -> None:
    with serving(max_waiting=1) as small:
        queue = small.queue()
        with small.holder(queue, "s", "one").start_receive(60) as sock:
            eventually(lambda: places_left(small) == 0)
            assert small.holder(queue, "t", "two").receive("timeout=60").status == 429
            assert waiters(small, queue, "t") == 0
            small.send(queue, "t", "x")
            assert small.holder(queue, "t", "two").receive().body == b"x"
            small.send(queue, "s", "y")
            assert read_reply(sock).body == b"y"


def test_a_receive_that_may_not_wait_does_not_keep_the_session_lock() -> None:
    with serving(max_waiting=1) as small:
        queue = small.queue()
        with small.holder(queue, "s", "one").start_receive(60):
            eventually(lambda: places_left(small) == 0)
            refused = small.holder(queue, "t", "two")
            assert refused.receive("timeout=60").status == 429
            # Another holder gets the session at once. The throttled holder learns that the session is locked, not lost.
            other = small.holder(queue, "t", "three")
            assert other.receive().status == 204
            assert refused.receive("timeout=60").status == 423
            assert other.release().status == 204
            assert refused.receive().status == 204
            # A throttled receive does not release a lock that the holder had before.
            assert refused.receive("timeout=60").status == 429
            assert small.holder(queue, "t", "four").receive().status == 423


def test_a_hundred_receives_wait_while_others_are_served() -> None:
    with serving(max_waiting=128) as gateway, ExitStack() as stack:
        queue = gateway.queue()
        waiting = [stack.enter_context(gateway.holder(queue, f"s{n}", fresh_id()).start_receive(60)) for n in range(100)]
        eventually(lambda: all(waiters(gateway, queue, f"s{n}") for n in range(100)))
        connection = gateway.connect()
        stack.callback(connection.close)
        holder = gateway.holder(queue, "other", fresh_id())
        for number in range(20):
            gateway.send(queue, "other", str(number))
            received = holder.receive(connection=connection)
            assert received.body == str(number).encode()
            assert holder.complete(received.token).status == 204
        for number in reversed(range(100)):
            gateway.send(queue, f"s{number}", str(number))
            assert read_reply(waiting[number]).body == str(number).encode()
