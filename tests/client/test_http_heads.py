"""The heads of requests and responses in one step: plain ones as `http.client` has them, all others not at all."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import SKIP_HEADER

from azsession.client.http_heads import host_of, request_head, response_head

HEADERS = {"User-Agent": "u", "Accept-Encoding": "gzip", "X-Name": "a value; with=signs\t\xe9"}


def test_a_head_has_the_request_line_the_host_and_each_header() -> None:
    assert request_head("PUT", "/q/sessions/a%20b?timeout=1", "h:80", HEADERS) == (
        b"PUT /q/sessions/a%20b?timeout=1 HTTP/1.1\r\nHost: h:80\r\nUser-Agent: u\r\nAccept-Encoding: gzip\r\n"
        b"X-Name: a value; with=signs\t\xe9\r\n\r\n"
    )


@pytest.mark.parametrize("target", ["", "q", "http://h/q", "/a b", "/a\r\nX: y", "/\xe9", "/a\n", "*"])
def test_another_target_is_left_to_urllib3(target: str) -> None:
    assert request_head("GET", target, "h", HEADERS) is None


@pytest.mark.parametrize(
    "more",
    [
        {"X": "a\r\nY: b"},
        {"X": "a\nb"},
        {"X": "a\rb"},
        {"X": "a\r\n"},
        {"X": "\u20ac"},
        {"X": b"a"},
        {"X Y": "a"},
        {"X:": "a"},
        {"": "a"},
        {"X\r\nY": "a"},
        {b"X": "a"},
        {"Host": "other"},
        {"host": "other"},
        {"HOST": "other"},
        {"Transfer-Encoding": "chunked"},
        {"TRANSFER-encoding": "chunked"},
        {"User-Agent": SKIP_HEADER},
    ],
)
def test_other_headers_are_left_to_urllib3(more: dict[Any, Any]) -> None:
    assert request_head("GET", "/", "h", {**HEADERS, **more}) is None


@pytest.mark.parametrize("name", ["User-Agent", "Accept-Encoding"])
def test_a_head_to_which_urllib3_would_add_headers_is_left_to_it(name: str) -> None:
    assert request_head("GET", "/", "h", {each: value for each, value in HEADERS.items() if each != name}) is None


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [("a.b-c", 80, "a.b-c"), ("127.0.0.1", 81, "127.0.0.1:81"), ("h", None, "h"), ("::1", 80, None), ("\xfc.de", 80, None)],
)
def test_the_host_has_its_port_unless_it_is_the_usual_one(host: str, port: int | None, expected: str | None) -> None:
    assert host_of(host, port, 80) == expected


def _lines(*lines: str) -> bytes:
    return "\r\n".join(lines).encode("latin-1")


def test_a_plain_response_has_its_status_headers_and_length() -> None:
    head = response_head(
        _lines("HTTP/1.1 201 Well Created ", "A: b", "a:\t c\xe9 ", "Content-Length: 12", "Connection: Keep-Alive")
    )
    assert head is not None
    assert (head.status, head.reason, head.length) == (201, "Well Created", 12)
    assert head.headers.fields == [("A", "b"), ("a", "c\xe9"), ("Content-Length", "12"), ("Connection", "Keep-Alive")]


def test_headers_are_found_in_any_case_and_joined_by_name() -> None:
    head = response_head(_lines("HTTP/1.1 204 ", "X-One: a", "Y: b", "x-one: c"))
    assert head is not None
    assert dict(head.headers) == {"X-One": "a, c", "Y": "b"}
    assert (head.headers["x-ONE"], head.headers.get("y")) == ("a, c", "b")
    assert (head.headers.get("z"), head.headers.get("z", "d")) == (None, "d")
    assert (len(head.headers), "y" in head.headers, "z" in head.headers) == (2, True, False)
    assert list(head.headers.pairs()) == [("X-One", "a, c"), ("Y", "b")]
    with pytest.raises(KeyError):
        head.headers["z"]


@pytest.mark.parametrize("lines", [("HTTP/1.1 204 No Content",), ("HTTP/1.1 304 ", "Content-Length: 0")])
def test_a_response_without_a_body_has_the_length_0(lines: tuple[str, ...]) -> None:
    head = response_head(_lines(*lines))
    assert head is not None
    assert head.length == 0


def test_as_many_headers_are_read_as_http_client_reads() -> None:
    data = _lines("HTTP/1.1 200 OK", "Content-Length: 1", *["A: b"] * 98)
    assert response_head(data) is not None
    assert len(http.client.parse_headers(io.BytesIO(data.partition(b"\r\n")[2] + b"\r\n\r\n"))) == 99


@pytest.mark.parametrize(
    "lines",
    [
        ("HTTP/1.1 200 OK",),
        ("HTTP/1.0 200 OK", "Content-Length: 1"),
        ("HTTP/1.1 100 Continue", "Content-Length: 0"),
        ("HTTP/1.1 200", "Content-Length: 1"),
        ("HTTP/1.1 2000 OK", "Content-Length: 1"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 1"),
        ("HTTP/1.1 200 OK", "Content-Length: -1"),
        ("HTTP/1.1 200 OK", "Content-Length: 1_0"),
        ("HTTP/1.1 200 OK", "Content-Length: \xb2"),
        ("HTTP/1.1 200 OK", "Content-Length: "),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "transfer-encoding: chunked"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "Connection: close"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "A: b", " continued"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "no colon"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "A : b"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", ": b"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "A: b\nC: d"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", "A: b\rC: d"),
        ("HTTP/1.1 200 OK", "Content-Length: 1", *["A: b"] * 99),
        ("HTTP/1.1 204 No Content", "Content-Length: 5"),
        ("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked"),
        ("HTTP/1.1 101 Switching Protocols",),
        ("",),
    ],
)
def test_any_other_response_is_left_to_http_client(lines: tuple[str, ...]) -> None:
    assert response_head(_lines(*lines)) is None


_PARTS = st.sampled_from(
    [
        "A",
        "b",
        ":",
        " ",
        "\t",
        "\r\n",
        "\n",
        "\r",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "close",
        "7",
        "-",
        "\xe9",
        "0",
    ]
)


@given(st.lists(_PARTS, max_size=12).map("".join), st.sampled_from(["200 OK", "204 ", "201"]))
def test_a_plain_response_is_read_as_http_client_reads_it(text: str, status: str) -> None:
    data = f"HTTP/1.1 {status}\r\nContent-Length: 3\r\n{text}".encode("latin-1")
    head = response_head(data)
    if head is None:
        return
    expected = http.client.parse_headers(io.BytesIO(data.split(b"\r\n", 1)[1] + b"\r\n\r\n"))
    assert [(name, value.rstrip(" \t")) for name, value in expected.items()] == head.headers.fields
    assert expected.get_all("Content-Length") == [str(head.length)]
    assert not expected.defects
