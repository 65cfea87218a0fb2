"""A request whose end is not certain gets 400, has no effect, and ends its connection (RFC 9112, section 11.2)."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from ..raw import Gateway, serving

CHUNKED = b"Transfer-Encoding: chunked"
BODY = b"3\r\nabc\r\n0\r\n\r\n"

#: The lines after the host and the authorization, and the body.
CASES = {
    "an empty Transfer-Encoding": (b"Transfer-Encoding:", BODY),
    "a comma as Transfer-Encoding": (b"Transfer-Encoding: ,", BODY),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked", BODY),
    "two Transfer-Encodings": (CHUNKED + b"\r\n" + CHUNKED, BODY),
    "identity, chunked": (b"Transfer-Encoding: identity, chunked", BODY),
    "identity": (b"Transfer-Encoding: identity", BODY),
    "gzip, chunked": (b"Transfer-Encoding: gzip, chunked", BODY),
    "Transfer-Encoding with an underscore": (b"Transfer_Encoding: chunked", BODY),
    "Transfer-Encoding with a space": (b"Transfer-Encoding : chunked", BODY),
    **{
        f"the chunk size {size!r}": (CHUNKED, size.encode() + b"\r\nabc\r\n0\r\n\r\n")
        for size in ("-5", "+5", "0_5", "0x5", " 3", "3 ", "", "x", "3 ;a=b")
    },
    "a chunk that is longer than its size": (CHUNKED, b"3\r\nabcde\r\n0\r\n\r\n"),
    "a chunk that ends with a line feed": (CHUNKED, b"3\r\nabc\n0\r\n\r\n"),
    "Content-Length twice": (b"Content-Length: 3\r\nContent-Length: 3", b"abc"),
    "two Content-Lengths": (b"Content-Length: 3\r\nContent-Length: 4", b"abc"),
    "Content-Length with an underscore": (b"Content_Length: 3", b"abc"),
    "Content-Length with another one with an underscore": (b"Content-Length: 3\r\nContent_Length: 5", b"abc"),
    "Content-Length with a space before the colon": (b"Content-Length : 3", b"abc"),
    "Content-Length with a sign": (b"Content-Length: +3", b"abc"),
    "a negative Content-Length": (b"Content-Length: -3", b"abc"),
    "Content-Length with a comma": (b"Content-Length: 3, 3", b"abc"),
    "Content-Length in hexadecimal": (b"Content-Length: 0x3", b"abc"),
    "an empty Content-Length": (b"Content-Length:", b"abc"),
    "both framings": (b"Content-Length: 3\r\n" + CHUNKED, BODY),
    "both framings, the other way round": (CHUNKED + b"\r\nContent-Length: 3", BODY),
    "a folded line": (b"X: a\r\n b\r\nContent-Length: 3", b"abc"),
    "a folded Content-Length": (b"Content-Length:\r\n 3", b"abc"),
    "a bare CR in a value": (b"X: a\rb\r\nContent-Length: 3", b"abc"),
    "a bare CR in a name": (b"X\r: ab\r\nContent-Length: 3", b"abc"),
    "a NUL in a value": (b"X: a\0b\r\nContent-Length: 3", b"abc"),
    "a NUL in a name": (b"X\0: ab\r\nContent-Length: 3", b"abc"),
    "a second Host": (b"Host: here\r\nContent-Length: 3", b"abc"),
    "a header without a colon": (b"X\r\nContent-Length: 3", b"abc"),
    "an upgrade with a body": (b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3", b"abc"),
}


def message(gateway: Gateway, queue: str, lines: bytes, body: bytes, *, start: bytes = b"", host: str | None = None) -> bytes:
    """Return the bytes of a send, followed by a request that creates a queue."""
    first = start or f"POST /{queue}/messages HTTP/1.1\r\n".encode()
    named = f"Host: {gateway.host if host is None else host}\r\n".encode() if host != "" else b""
    own = f'Authorization: {gateway.token()}\r\nBrokerProperties: {{"SessionId": "s"}}\r\n'.encode()
    return first + named + own + lines + b"\r\n\r\n" + body + gateway.head("PUT", f"/{queue}-hidden", {"Content-Length": "0"})


def answers_to(gateway: Gateway, data: bytes) -> tuple[list[int], bytes]:
    """Send bytes, and read to the end of the connection. Return the statuses of the answers and all that was read."""
    received = b""
    with gateway.open_socket(data) as sock:
        try:
            while part := sock.recv(65536):
                received += part
        except ConnectionError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)], received


def check_refused(gateway: Gateway, queue: str, data: bytes) -> None:
    """Check that bytes get one answer with status 400 and the end of the connection, and have no effect."""
    statuses, received = answers_to(gateway, data)
    assert statuses == [400], received
    assert b"\r\nconnection: close\r\n" in received.lower()
    assert b"\r\nazsession-protocol: 1\r\n" in received.lower()
    assert b'"InvalidRequest"' in received
    assert gateway.ask("GET", f"/{queue}").json["MessageCount"] == 0
    assert gateway.ask("GET", f"/{queue}-hidden").status == 404


@pytest.mark.parametrize("case", CASES)
def test_a_request_with_uncertain_framing_is_refused(gateway: Gateway, queue: str, case: str) -> None:
    lines, body = CASES[case]
    check_refused(gateway, queue, message(gateway, queue, lines, body))


@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "0.9"])
def test_transfer_encoding_needs_http_1_1(gateway: Gateway, queue: str, version: str) -> None:
    start = f"POST /{queue}/messages HTTP/{version}\r\n".encode()
    check_refused(gateway, queue, message(gateway, queue, CHUNKED, BODY, start=start))


def test_http_1_1_needs_a_host(gateway: Gateway, queue: str) -> None:
    check_refused(gateway, queue, message(gateway, queue, b"Content-Length: 3", b"abc", host=""))


def test_a_folded_first_line_is_refused(gateway: Gateway, queue: str) -> None:
    start = f"POST /{queue}/messages HTTP/1.1\r\n folded: yes\r\n".encode()
    check_refused(gateway, queue, message(gateway, queue, b"Content-Length: 3", b"abc", start=start))


def test_a_version_that_is_not_supported_is_refused(gateway: Gateway, queue: str) -> None:
    for version in ("1.2", "2.0"):
        start = f"POST /{queue}/messages HTTP/{version}\r\n".encode()
        check_refused(gateway, queue, message(gateway, queue, b"Content-Length: 3", b"abc", start=start))


@pytest.mark.parametrize("case", ["identity, chunked", "Content-Length twice", "a folded line", "the chunk size '0x5'"])
def test_uncertain_framing_is_refused_without_a_token(gateway: Gateway, queue: str, case: str) -> None:
    lines, body = CASES[case]
    data = message(gateway, queue, lines, body).replace(b"Authorization", b"X-Authorization", 1)
    statuses, _ = answers_to(gateway, data)
    # The head of a request with malformed chunks is answered before the chunks are read.
    assert statuses in ([400], [401])
    assert gateway.ask("GET", f"/{queue}-hidden").status == 404


def test_requests_before_malformed_bytes_are_answered_first(gateway: Gateway, queue: str) -> None:
    send = message(gateway, queue, b"Content-Length: 3", b"abc").partition(b"PUT ")[0]
    statuses, _ = answers_to(gateway, send * 4 + b"rubbish\r\n\r\n")
    assert statuses == [201, 201, 201, 201, 400]
    assert gateway.ask("GET", f"/{queue}").json["MessageCount"] == 4


def test_the_same_requests_without_a_fault_are_answered(gateway: Gateway, queue: str) -> None:
    for lines, body in ((b"Content-Length: 3", b"abc"), (CHUNKED, BODY), (b"tRANSFER-eNCODING: Chunked", BODY)):
        data = message(gateway, queue, lines, body).partition(b"PUT ")[0]
        with gateway.open_socket(data) as sock:
            assert sock.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert gateway.ask("GET", f"/{queue}").json["MessageCount"] == 3
    start = f"POST /{queue}/messages HTTP/1.0\r\n".encode()
    statuses, _ = answers_to(gateway, message(gateway, queue, b"Content-Length: 3", b"abc", start=start, host=None))
    assert statuses == [201]


def test_a_request_for_another_protocol_is_answered_as_if_it_did_not_ask(gateway: Gateway) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    statuses, received = answers_to(gateway, head)
    assert (statuses, b"connection: close" in received) == ([200], True)


# Over TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_connection(gateway: Gateway, authority: trustme.CA) -> http.client.HTTPSConnection:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return http.client.HTTPSConnection(gateway.host, gateway.port, timeout=20, context=context)


@pytest.fixture(scope="module")
def tls_gateway(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    place: Path = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    (place / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (place / "key.pem").write_bytes(issued.private_key_pem.bytes())
    with serving(tls_cert=place / "chain.pem", tls_key=place / "key.pem") as gateway:
        # The broker's thread starts with the first receive. Start it here, so that no test seems to leave it behind.
        with closing(tls_connection(gateway, authority)) as connection:
            gateway.holder(gateway.queue(), "first").receive("timeout=0.01", connection=connection)
        yield gateway


@pytest.mark.parametrize("case", ["identity, chunked", "Content-Length twice", "the chunk size '0x5'"])
def test_uncertain_framing_is_refused_over_tls(tls_gateway: Gateway, authority: trustme.CA, case: str) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    queue = tls_gateway.queue()
    lines, body = CASES[case]
    received = b""
    with context.wrap_socket(tls_gateway.open_socket(), server_hostname=tls_gateway.host) as sock:
        sock.sendall(message(tls_gateway, queue, lines, body))
        while b"InvalidRequest" not in received:
            part = sock.recv(65536)
            assert part, received
            received += part
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
