"""`BoundedResponse`: responses that are cut off, too slow or too large, and bytes after a response."""

from __future__ import annotations

import gc
import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import RemoteDisconnected
from types import FrameType
from typing import Any

import pytest

from azsession.client import bounded_response, cancellation
from azsession.client.bounded_response import BoundedResponse
from azsession.client.cancellation import RequestInFlight, ResponseTooLargeError


@contextmanager
def response_to(request: RequestInFlight, *parts: bytes | float, close: bool = True) -> Iterator[BoundedResponse]:
    """Yield the response to `request`. `parts`: its bytes, and seconds between them."""
    client, server = socket.socketpair()

    def serve() -> None:
        with suppress(BrokenPipeError):  # The response was given up.
            for part in parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    server.sendall(part)
            if close:
                server.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    cancellation.set_current_request(request)
    try:
        with BoundedResponse(client) as response:
            yield response
    finally:
        cancellation.set_current_request(None)
        client.close()
        thread.join(20)
        server.close()


def request(seconds: float = 20, size: int = 1000) -> RequestInFlight:
    return RequestInFlight(time.monotonic() + seconds, size)


def test_a_complete_response_is_read() -> None:
    with response_to(request(), b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabc") as response:
        response.begin()
        assert (response.status, response.headers["X-A"], response.read()) == (201, "b", b"abc")
        assert not response.will_close


@pytest.mark.parametrize("rest", ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r"])
def test_headers_that_are_cut_off_are_an_error(rest: str) -> None:
    with response_to(request(), rest.encode()) as response, pytest.raises(RemoteDisconnected):
        response.begin()


class _InterruptError(Exception):
    pass


def _make_until(line: int, response: BoundedResponse, sock: socket.socket) -> bool:
    """Begin to make a response, and raise an exception before the line of that number. Return whether it was reached."""
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename == bounded_response.__file__ and event == "line" and next(lines) == line:
            raise _InterruptError
        return trace

    made = request()
    cancellation.set_current_request(made)
    sys.settrace(trace)
    try:
        response.__init__(sock)  # type: ignore[misc]
    except _InterruptError:
        return True
    finally:
        sys.settrace(None)
        cancellation.set_current_request(None)
    return False


def test_a_response_that_is_interrupted_while_it_is_made_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: ignored.append(each.exc_value))
    for line in itertools.count():
        client, server = socket.socketpair()
        # The finalizer closes the object also if its `__init__` did not run.
        response = BoundedResponse.__new__(BoundedResponse)
        was_interrupted = _make_until(line, response, client) if line else True
        response.close()
        assert response.closed
        del response
        gc.collect()
        client.close()
        assert client.fileno() == -1, f"a file of the response is open after an interrupt at line {line}"
        server.close()
        if not was_interrupted:
            break
    assert line > 10
    assert ignored == []


def test_all_responses_with_1xx_are_skipped() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    with response_to(request(), early, b"HTTP/1.1 204 No Content\r\n\r\n") as response:
        response.begin()
        assert response.status == 204


@pytest.mark.parametrize("seconds", [0.05, -1.0])
def test_a_silent_server_is_given_up_at_the_deadline(seconds: float) -> None:
    with response_to(request(seconds), b"HTTP/1.1 200 OK\r\n", close=False) as response, pytest.raises(TimeoutError):
        response.begin()


@pytest.mark.parametrize("rate", [1, 1_000_000])
def test_only_a_body_that_arrives_fast_enough_may_end_after_the_deadline(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    monkeypatch.setattr(bounded_response, "SLOWEST_RATE", rate)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    rest = [b"x" * 250] if rate == 1 else []
    with response_to(request(60), head + b"x" * 250, *rest, close=False) as response:
        response.begin()
        response.fp.raw._deadline = time.monotonic()
        if rate == 1:
            assert len(response.read()) == 500

        else:
            with pytest.raises(TimeoutError):
                response.read()


def test_a_body_beyond_the_limit_of_its_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_response, "_HEADERS_SIZE", 10_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"
    with response_to(request(size=1000), head, b"x" * 30_000) as response:
        response.begin()
        with pytest.raises(ResponseTooLargeError, match=r"more than 1000 bytes$"):
            response.read()


def test_headers_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_response, "_HEADERS_SIZE", 100)
    with (
        response_to(request(), b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 5000) as response,
        pytest.raises(ResponseTooLargeError, match="more than 100 bytes of headers"),
    ):
        response.begin()


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        ("204 No Content\r\n", False),
        ("204 No Content\r\nContent-Length: 0\r\n", False),
        ("204 No Content\r\nContent-Length: 5\r\n", True),
        ("304 Not Modified\r\nTransfer-Encoding: chunked\r\n", True),
        ("101 Switching Protocols\r\n", True),
        ("200 OK\r\nContent-Length: 0\r\n", False),
        ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", True),
    ],
)
def test_a_connection_on_which_more_may_follow_is_not_used_again(head: str, closes: bool) -> None:
    with response_to(request(), f"HTTP/1.1 {head}\r\n".encode()) as response:
        response.begin()
        assert response.will_close is closes
