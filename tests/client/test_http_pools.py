"""Requests on an idle connection, which pass by most of urllib3: the same results as through `urlopen`."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from urllib3.connectionpool import HTTPConnectionPool

from azsession import ConnectionFailedError, MessageTooLargeError
from azsession.client import cancellation
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_pools import pools, tracked

from ..concurrency.servers import Acceptor
from ..support.plain_server import Fate, PlainServer, answer
from .http_sessions import call, made, new_session


def pool_to(server: PlainServer) -> Any:
    """Return the open pool for a server. Pools of earlier tests can still be in memory."""
    every: list[Any] = list(pools)
    (found,) = [each for each in every if each.pool is not None and server.url.endswith(f":{each.port}")]
    return found


_ANSWERS = {
    "plain": b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc",
    "without body": b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "after 103": b"HTTP/1.1 103 Early\r\nL: x\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.fixture
def in_flight() -> Iterator[RequestInFlight]:
    request = RequestInFlight(time.monotonic() + 20)
    request.takes_whole = True
    cancellation.set_current_request(request)
    yield request
    cancellation.set_current_request(None)


@pytest.mark.parametrize("kind", _ANSWERS)
def test_an_answer_in_two_parts_is_the_answer_in_one_part(in_flight: RequestInFlight, kind: str) -> None:
    raw = _ANSWERS[kind]
    for at in range(1, len(raw)):
        # Each read of such a socket returns what one write has sent.
        ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
        connection: Any = tracked(HTTPConnectionPool).ConnectionCls("localhost", 1)
        with closing(connection), theirs:
            connection.sock = ours
            theirs.send(raw[:at])
            theirs.send(raw[at:])
            connection.request("GET", "/x", None, {"User-Agent": "a", "Accept-Encoding": "identity"}, preload_content=False)
            response = connection.getresponse()
            body = b"" if kind == "without body" else b"abc"
            assert (response.headers["X-A"], response.data) == ("b", body), f"cut after {at} bytes"


@pytest.mark.parametrize("name", ["urlopen", "_make_request"])
def test_a_program_that_watches_the_pools_of_urllib3_sees_our_requests(
    server: PlainServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original, calls = getattr(HTTPConnectionPool, name), list[str]()

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(name)
        return original(self, *args, **options)

    with new_session("pool") as http:
        transport = made(server.url, http)
        server.next(answer(200), answer(200), answer(200))
        transport.send(call())
        with monkeypatch.context() as patch:
            patch.setattr(HTTPConnectionPool, name, watched)
            transport.send(call())
            assert calls == [name]
        transport.send(call())
        assert calls == [name]
        assert server.connections() == 1


def test_an_idle_connection_is_used_without_urlopen(server: PlainServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_session("pool") as http:
        transport = made(server.url, http)
        server.next(answer(200), answer(200))
        transport.send(call())
        monkeypatch.setattr("urllib3.connectionpool.Timeout", None)  # `urlopen` needs it.
        transport.send(call())


def test_a_malformed_answer_on_an_idle_connection_closes_it(server: PlainServer) -> None:
    with new_session("pool") as http:
        transport = made(server.url, http)
        server.next(answer(200), Fate(b"no HTTP\r\n\r\n"), answer(200))
        transport.send(call())
        with pytest.raises(ConnectionFailedError, match="BadStatusLine"):
            transport.send(call())
        assert transport.send(call()).status == 200
        assert pool_to(server).num_connections == 2


class _RefusesBodies(Acceptor):
    """Answers 413 to a request with a large body, and closes the connection before the end of the body."""

    def serve(self, sock: Any) -> None:
        whole = b""
        while data := sock.recv(65536):
            whole += data
            head, end, _ = whole.partition(b"\r\n\r\n")
            if not end:
                continue
            whole = b""
            if int(next(iter(re.findall(rb"Content-Length: (\d+)", head)), 0)) > 0:
                sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_the_answer_is_read_if_the_server_closes_before_the_end_of_the_body() -> None:
    with _RefusesBodies() as server, new_session("pool") as http:
        transport = made(server.url, http)
        transport.send(call())
        with pytest.raises(MessageTooLargeError):
            transport.send(call(method="POST", body=b"x" * 50_000_000))
