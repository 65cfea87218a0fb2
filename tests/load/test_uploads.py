"""Large and strange uploads need no memory before their token is checked, and bounded time after it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest

from azsession.protocol.sas import generate_sas_token

from ..conftest import eventually
from ..server.raw import in_thread, read_reply
from ..support.processes import Served
from .figures import MB

UPLOADS = 16
SIZE = 16 * MB


class Process:
    """`azsession serve` with a broker in memory, and requests to it by hand."""

    def __init__(self, served: Served) -> None:
        self.process = psutil.Process(served.process.pid)
        url = urlsplit(served.line.partition("=")[2].partition("/;")[0])
        self._address = (str(url.hostname), int(url.port or 0))
        self._token = generate_sas_token(f"http://{url.netloc}/", "app", "c2VjcmV0", int(time.time()) + 600)

    def head(self, headers: str, *, token: bool = True) -> bytes:
        authorization = f"Authorization: {self._token}\r\n" if token else ""
        return f"POST /q/messages HTTP/1.1\r\nHost: {self._address[0]}\r\n{authorization}{headers}\r\n\r\n".encode()

    def connect(self) -> socket.socket:
        return socket.create_connection(self._address, timeout=60)

    def cpu(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system


@pytest.fixture
def gateway() -> Iterator[Process]:
    with Served("--memory", "--auto-create", "--key", "app:c2VjcmV0:Manage") as served:
        process = Process(served)
        with process.connect() as sock:
            sock.sendall(process.head('BrokerProperties: {"SessionId": "s"}\r\nContent-Length: 1') + b"x")
            assert read_reply(sock).status == 201
        yield process


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_uploads_without_a_token_do_not_grow_the_process(gateway: Process, chunked: bool) -> None:
    before = gateway.process.memory_info().rss
    most = before
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {SIZE}"
    piece = b"x" * MB
    if chunked:
        piece = f"{MB:x}\r\n".encode() + piece + b"\r\n"

    def upload() -> int:
        with gateway.connect() as sock:
            sock.sendall(gateway.head(framing, token=False))
            for _ in range(SIZE // MB):
                sock.sendall(piece)
            # The answer came before the end of the body, and the connection was not reset.
            return read_reply(sock).status

    uploads = [in_thread(upload) for _ in range(UPLOADS)]
    for status in uploads:
        assert status() == 401
        most = max(most, gateway.process.memory_info().rss)
    assert most - before < 24 * MB


def test_a_body_of_very_many_chunks_needs_linear_time(gateway: Process) -> None:
    seconds = {}
    for count in (100_000, 400_000):
        before = gateway.cpu()
        with gateway.connect() as sock:
            sock.sendall(gateway.head('BrokerProperties: {"SessionId": "s"}\r\nTransfer-Encoding: chunked'))
            sock.sendall(b"1\r\nx\r\n" * count + b"0\r\n\r\n")
            assert read_reply(sock).status == 201
        seconds[count] = gateway.cpu() - before
    # Quadratic time would be sixteen times as long.
    assert seconds[400_000] < 8 * seconds[100_000] + 0.2, seconds
    assert seconds[400_000] < 2.5, seconds


def test_an_upload_that_is_cut_off_is_forgotten(gateway: Process) -> None:
    before = gateway.process.memory_info().rss
    for _ in range(UPLOADS):
        with gateway.connect() as sock:
            sock.sendall(gateway.head(f"Content-Length: {SIZE}") + b"x" * (SIZE - 1))
    eventually(lambda: gateway.process.memory_info().rss - before < 40 * MB)
