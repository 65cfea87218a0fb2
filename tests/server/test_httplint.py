"""httplint, a checker of HTTP messages by other people, finds no fault in the gateway's answers."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from httplint import HttpRequestLinter, HttpResponseLinter, levels

from .raw import ENVELOPE, Gateway, fresh_id

ONE = [{"Body": "x", "BrokerProperties": {"SessionId": "w"}}]

#: Notes that are no faults here. An answer 201 needs no Location if the URL of the request names the resource (RFC 9110,
#: 15.3.2): Azure's REST API answers sends and receives like this. The other note only describes status 400.
EXPECTED = ("CREATED_WITHOUT_LOCATION", "STATUS_BAD_REQUEST")

#: Requests and the status that each gets. `{q}` is a queue with a message in each of the sessions s, t, u and v.
REQUESTS: dict[str, tuple[str, str, Any, dict[str, str], int]] = {
    "health": ("GET", "/healthz", None, {}, 200),
    "health, head": ("HEAD", "/healthz", None, {}, 200),
    "readiness": ("GET", "/readyz", None, {}, 200),
    "description": ("GET", "/openapi.json", None, {}, 200),
    "one message": ("DELETE", "/{q}/sessions/s/messages/head?timeout=0", None, {}, 201),
    "an envelope": ("DELETE", "/{q}/sessions/t/messages/head?timeout=0&max=10", None, {}, 201),
    "no message": ("DELETE", "/{q}/sessions/none/messages/head?timeout=0", None, {}, 204),
    "send": (
        "POST",
        "/{q}/messages",
        [{"Body": "x", "BrokerProperties": {"SessionId": "w"}}],
        {"Content-Type": ENVELOPE},
        201,
    ),
    "accept": ("POST", "/{q}/sessions?timeout=0", {"SessionId": "u"}, {"Azsession-Lock-Id": "a"}, 201),
    "peek": ("GET", "/{q}/sessions/v/messages", None, {}, 200),
    "sessions": ("GET", "/{q}/sessions", None, {}, 200),
    "queue": ("GET", "/{q}", None, {}, 200),
    "malformed": ("POST", "/{q}/messages", b"rubbish", {"Content-Type": ENVELOPE}, 400),
    "no queue": ("GET", "/nothing", None, {}, 404),
    "wrong method": ("PATCH", "/{q}", None, {}, 405),
    "too large": ("POST", "/{q}/messages", b"x" * 300_000, {}, 413),
    "no token": ("GET", "/{q}", None, {"Authorization": ""}, 401),
}


def read_answer(gateway: Gateway, method: str, data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    """Send bytes. Return the status line, the headers and the content of the answer."""
    received = b""
    with gateway.open_socket(data) as sock:
        while b"\r\n\r\n" not in received:
            part = sock.recv(65536)
            assert part, received
            received += part
        head, _, content = received.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = [tuple(line.split(b": ", 1)) for line in lines]
        found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        wanted = int(found[1]) if found and method != "HEAD" else 0
        while len(content) < wanted:
            content += sock.recv(65536)
    assert len(content) == wanted
    return first, headers, content  # type: ignore[return-value]


def notes_of(method: str, url: str, first: bytes, headers: list[tuple[bytes, bytes]], content: bytes) -> list[str]:
    """Return the faults that httplint finds in an answer."""
    now = time.time()
    request = HttpRequestLinter(start_time=now)
    request.process_request_topline(method.encode(), url.encode(), b"1.1")
    request.process_headers([(b"Host", b"127.0.0.1")])
    request.finish_content(True)
    linter = HttpResponseLinter(start_time=now, _related=request, no_content=method == "HEAD")
    version, status, phrase = first.split(b" ", 2)
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    linter.process_headers(headers)
    linter.feed_content(content)
    linter.finish_content(True)
    faults = [note for note in linter.notes if note.level in (levels.BAD, levels.WARN)]
    return [f"{type(note).__name__}: {note.summary}" for note in faults if type(note).__name__ not in EXPECTED]


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_has_no_fault(gateway: Gateway, name: str) -> None:
    queue = gateway.queue()
    for session in "stuv":
        gateway.send(queue, session, f"in {session}")
    method, path, body, given, expected = REQUESTS[name]
    path = path.replace("{q}", queue)
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Length": str(len(content)), "Azsession-Lock-Id": fresh_id(), **given}
    data = gateway.head(method, path, headers) + content
    if "Authorization" in given:
        data = re.sub(rb"Authorization: [^\r]*\r\n", b"", data)
    first, fields, received = read_answer(gateway, method, data)
    assert first.split(b" ")[1] == str(expected).encode()
    assert notes_of(method, gateway.url + path, first, fields, received) == []
    assert [value for key, value in fields if key.lower() == b"cache-control"] == [b"no-store"]


@pytest.mark.parametrize("data", [b"rubbish\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 70_000])
def test_a_refusal_of_malformed_bytes_has_no_fault(gateway: Gateway, data: bytes) -> None:
    first, fields, received = read_answer(gateway, "GET", data)
    assert notes_of("GET", gateway.url + "/healthz", first, fields, received) == []
