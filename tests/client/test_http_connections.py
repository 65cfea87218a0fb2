"""Connections that write and read heads in one step: the same requests and answers as through urllib3 alone."""

from __future__ import annotations

import gzip
import re
import time
from http.client import HTTPConnection as StandardConnection
from typing import Any

import pytest
import requests
from urllib3.connection import HTTPConnection

from azsession import ServiceBusConfig
from azsession.client import cancellation, http_connections
from azsession.client.call import Call, ServerResponse
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_connections import WHOLE_SIZE, WholeResponse
from azsession.client.http_heads import ResponseHeaders
from azsession.client.http_sockets import PooledAdapter, track_connections
from azsession.client.transport import Transport

from ..concurrency.servers import Acceptor
from ..support.plain_server import Fate, PlainServer, answer
from .http_sessions import http, new_session

__all__ = ["http"]


def call(method: str = "DELETE", **fields: Any) -> Call[ServerResponse]:
    return Call(method=method, path="/q/x%20y", entity="q", read=lambda response: response, **fields)


def made(url: str, http: requests.Session) -> Transport:
    text = f"Endpoint={url}/;SharedAccessKeyName=n;SharedAccessKey=k"
    return Transport(http, url, ServiceBusConfig(connection_string=text, retry_attempts=0), None)


class _Bytes(Acceptor):
    """Records the bytes that arrive, and answers each with 204."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def serve(self, sock: Any) -> None:
        whole = b""
        while data := sock.recv(65536):
            self.seen.append(data)
            whole += data
            head, end, body = whole.partition(b"\r\n\r\n")
            if end and len(body) >= int(next(iter(re.findall(rb"Content-Length: (\d+)", head)), 0)):
                whole = b""
                sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def _parts(data: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert len(set(fields)) == len(fields)
    return line, set(fields), body


@pytest.mark.parametrize(
    "sent",
    [
        {"method": "DELETE"},
        {"method": "GET", "headers": {"X-One": "1"}},
        {"method": "POST"},
        {"method": "POST", "body": b"abc", "headers": {"Content-Type": "text/plain"}},
    ],
)
def test_a_request_in_one_step_is_the_request_that_urllib3_writes(
    http: requests.Session, sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _Bytes() as server:
        transport = made(server.url, http)
        transport.send(call(**sent))
        transport.send(call(**sent))
        assert len(server.seen) == 2, "a request was sent in more than one part"
        monkeypatch.setattr(http_connections, "request_head", lambda *args: None)
        transport.send(call(**sent))
        assert _parts(b"".join(server.seen[2:])) == _parts(server.seen[0]) == _parts(server.seen[1])


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (StandardConnection, "putrequest"),
        (StandardConnection, "putheader"),
        (StandardConnection, "endheaders"),
        (StandardConnection, "getresponse"),
        (HTTPConnection, "request"),
        (HTTPConnection, "getresponse"),
    ],
)
def test_a_program_that_watches_requests_sees_ours(
    server: PlainServer, http: requests.Session, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """Instrumentation replaces these methods, for example to count requests or to add headers."""
    transport, original, calls = made(server.url, http), getattr(owner, name), list[str]()

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(name)
        return original(self, *args, **options)

    server.next(answer(200), answer(200), answer(200))
    transport.send(call())
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, watched)
        transport.send(call())
        assert calls
    calls.clear()
    transport.send(call())
    assert calls == []


_RAW = {
    "plain": (b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "no body": (b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", b""),
    "chunked": (b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "after 103": (b"HTTP/1.1 103 Early\r\nL: x\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "spanning lines": (b"HTTP/1.1 200 OK\r\nX-A:\r\n b\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nX-A: b\nContent-Length: 3\n\nabc", b"abc"),
    "large headers": (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nX-B: " + b"x" * 20000 + b"\r\nContent-Length: 3\r\n\r\nabc",
        b"abc",
    ),
    "large body": (b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 500000\r\n\r\n" + b"a" * 500_000, b"a" * 500_000),
    "compressed": (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(b"abc"))
        + gzip.compress(b"abc"),
        b"abc",
    ),
}


@pytest.mark.parametrize("kind", _RAW)
def test_every_kind_of_answer_is_read_and_the_connection_used_again(
    server: PlainServer, http: requests.Session, kind: str
) -> None:
    raw, body = _RAW[kind]
    transport = made(server.url, http)
    server.next(Fate(raw), Fate(raw), answer(200))
    for _ in range(2):
        response = transport.send(call())
        assert (response.body, response.headers["x-a"].strip()) == (body, "b")
    transport.send(call())
    assert server.connections() == 1


def test_a_cookie_of_a_plain_answer_is_kept_and_sent(server: PlainServer, http: requests.Session) -> None:
    transport = made(server.url, http)
    server.next(answer(200, {"Set-Cookie": "route=a; Path=/"}), answer(200))
    transport.send(call())
    transport.send(call())
    assert http.cookies.get_dict() == {"route": "a"}
    assert server.seen[1].headers["Cookie"] == "route=a"


def test_a_response_that_is_read_at_once_has_all_attributes_of_urllib3s(server: PlainServer) -> None:
    """urllib3 may read further attributes in later versions."""
    with new_session("pool") as http:
        track_connections(http, server.url, {})
        adapter = http.get_adapter(server.url)
        assert isinstance(adapter, PooledAdapter)
        pool = adapter.pool(server.url, verify=True, cert=None, proxies={})
        in_flight = RequestInFlight(time.monotonic() + 20)
        in_flight.takes_whole = True
        server.next(answer(200, {"X-A": "b"}, b"abc"))
        cancellation.set_current_request(in_flight)
        try:
            response: Any = pool.urlopen("GET", "/x", headers=dict(http.headers.items()), preload_content=False)
        finally:
            cancellation.set_current_request(None)
        assert isinstance(response, WholeResponse)
        assert (response.status, response.body, response.headers["x-a"]) == (200, b"abc", "b")
        assert (response.reason, response.data, response.version, response.geturl()) == ("Scripted", b"abc", 11, "/x")
        with pytest.raises(AttributeError):
            _ = response.no_such_attribute
        response.close()


@pytest.mark.parametrize(("size", "whole"), [(WHOLE_SIZE, True), (WHOLE_SIZE + 1, False)])
def test_only_small_bodies_are_read_together_with_the_headers(server: PlainServer, size: int, whole: bool) -> None:
    with new_session("pool") as http:
        server.next(answer(200, {}, b"x" * size))
        response = made(server.url, http).send(call("GET"))
        assert response.body == b"x" * size
        assert isinstance(response.headers, ResponseHeaders) is whole
