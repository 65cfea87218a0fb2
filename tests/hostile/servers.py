"""A proxy in front of a real gateway that replaces answers with anything that a test chooses."""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable

import attrs

from ..concurrency.servers import Acceptor

#: The header that is part of every answer of a gateway.
GATEWAYS = {"Azsession-Protocol": "1"}


@attrs.frozen
class ScriptedAnswer:
    """How `FaultyProxy` answers one request.

    Attributes:
        answer: Returns the pieces of the answer for the gateway's answer, which is empty if the gateway was not asked.
        forwards: The gateway gets the request.
        closes: The connection is closed after the answer.
        reads_body: The body of the request is read before the answer.
    """

    answer: Callable[[bytes], Iterable[bytes]]
    forwards: bool = False
    closes: bool = True
    reads_body: bool = True


def raw(data: bytes, **options: bool) -> ScriptedAnswer:
    """Answer with these bytes."""
    return ScriptedAnswer(lambda original: [data], **options)


def http_answer(
    status: int | str, body: bytes = b"", headers: dict[str, str] | None = None, *, length: bool = True, **options: bool
) -> ScriptedAnswer:
    """Answer with an HTTP response. It counts as the gateway's own only with the headers `GATEWAYS`."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    if options.get("closes", True):
        lines.append("Connection: close")
    return raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body, **options)


def proxy_page(status: int | str, **options: bool) -> ScriptedAnswer:
    """Answer with a web page, as a proxy in front of the gateway may."""
    page = b"<html><head><title>Not here</title></head><body><h1>Please log in</h1></body></html>"
    return http_answer(status, page, {"Content-Type": "text/html", "Server": "middlebox"}, **options)


class FaultyProxy(Acceptor):
    """Forwards requests to a gateway one by one, except those with a scripted answer.

    Attributes:
        always: The answer to each request without a scripted one. `None` forwards the request.
        requests: The request lines so far.
        client_left: Counts how often a client closed the connection during an answer.
    """

    def __init__(self, port: int, connection_string: str) -> None:
        super().__init__()
        self._target = port
        self._tail = connection_string.partition(";")[2]
        self._scripted: deque[ScriptedAnswer] = deque()
        self.always: ScriptedAnswer | None = None
        self.requests: list[str] = []
        self.connections = 0
        self.client_left = threading.Semaphore(0)

    @property
    def connection_string(self) -> str:
        return f"Endpoint={self.url}/;{self._tail}"

    def script(self, *answers: ScriptedAnswer) -> None:
        """Set the answers to the next requests, in this order."""
        with self._lock:
            self._scripted.extend(answers)

    def serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                data = sock.recv(65536)
                if not data:
                    return
                pending += data
            head, _, pending = pending.partition(b"\r\n\r\n")
            with self._lock:
                self.requests.append(head.partition(b"\r\n")[0].decode("latin-1"))
                scripted = self._scripted.popleft() if self._scripted else self.always
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            size = int(length[1]) if length else 0
            if scripted is None or scripted.reads_body:
                while len(pending) < size:
                    pending += sock.recv(65536)
            body, pending = pending[:size], pending[size:]
            original = b"" if scripted is not None and not scripted.forwards else self._ask(head, body)
            try:
                for piece in [original] if scripted is None else scripted.answer(original):
                    sock.sendall(piece)
            except OSError:
                self.client_left.release()
                raise
            if scripted is not None and scripted.closes:
                return

    def _ask(self, head: bytes, body: bytes) -> bytes:
        """Return the answer of the gateway, read until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self._target), timeout=30) as gateway:
            self._keep(gateway)
            head = re.sub(rb"(?i)\r\nconnection: *keep-alive", b"", head)
            gateway.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            answer = b""
            while data := gateway.recv(65536):
                answer += data
        return answer.replace(b"Connection: close\r\n", b"", 1)
