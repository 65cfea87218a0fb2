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
class Fate:
    """What happens to a request.

    Attributes:
        answer: Returns the pieces of the answer for the gateway's answer, which is empty if the gateway was not asked.
        acts: The gateway gets the request.
        closes: The connection is closed after the answer.
        reads: The body of the request is read before the answer.
    """

    answer: Callable[[bytes], Iterable[bytes]]
    acts: bool = False
    closes: bool = True
    reads: bool = True


def raw(data: bytes, **fate: bool) -> Fate:
    """Return the fate of an answer of these bytes."""
    return Fate(lambda proper: [data], **fate)


def http_answer(
    status: int | str, body: bytes = b"", headers: dict[str, str] | None = None, *, length: bool = True, **fate: bool
) -> Fate:
    """Return the fate of an HTTP answer. It is not the gateway's unless its headers say so."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    if fate.get("closes", True):
        lines.append("Connection: close")
    return raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body, **fate)


def proxy_page(status: int | str, **fate: bool) -> Fate:
    """Return the fate of an answer of a proxy in front of the gateway."""
    page = b"<html><head><title>Not here</title></head><body><h1>Please log in</h1></body></html>"
    return http_answer(status, page, {"Content-Type": "text/html", "Server": "middlebox"}, **fate)


class HostileWay(Acceptor):
    """Passes requests to a gateway one by one, except those that have a fate.

    Attributes:
        always: The fate of each request without its own fate.
        asked: The request lines so far.
        broken: How often a client closed the connection during an answer.
    """

    def __init__(self, port: int, connection_string: str) -> None:
        super().__init__()
        self._target = port
        self._tail = connection_string.partition(";")[2]
        self._fates: deque[Fate] = deque()
        self.always: Fate | None = None
        self.asked: list[str] = []
        self.connections = 0
        self.broken = threading.Semaphore(0)

    @property
    def connection_string(self) -> str:
        return f"Endpoint={self.url}/;{self._tail}"

    def next(self, *fates: Fate) -> None:
        """Give the next requests these fates, in this order."""
        with self._lock:
            self._fates.extend(fates)

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
                self.asked.append(head.partition(b"\r\n")[0].decode("latin-1"))
                fate = self._fates.popleft() if self._fates else self.always
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            size = int(length[1]) if length else 0
            if fate is None or fate.reads:
                while len(pending) < size:
                    pending += sock.recv(65536)
            body, pending = pending[:size], pending[size:]
            proper = b"" if fate is not None and not fate.acts else self._ask(head, body)
            try:
                for piece in [proper] if fate is None else fate.answer(proper):
                    sock.sendall(piece)
            except OSError:
                self.broken.release()
                raise
            if fate is not None and fate.closes:
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
