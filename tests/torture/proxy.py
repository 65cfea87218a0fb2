"""A TCP proxy between clients and the gateway that injects network faults.

It parses enough of HTTP to find the end of a request and of a response, so that it can cut a connection before, within or
after either. It never repeats a request, and never reports a success for a request that the gateway did not answer.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable

from .wire import Relay

#: Faults of one exchange of a request and a response.
FAULTS = (
    "cut before the request",
    "cut within the request",
    "cut after the request",
    "cut within the answer",
    "cut after the answer",
    "reset after the request",
    "reset within the answer",
    "delayed request",
    "delayed answer",
    "trickled request",
    "trickled answer",
    "black hole",
    "wrong status",
    "cut JSON",
    "wrong types",
    "huge headers",
)
#: Faults that need a response body that can be broken.
DISTORTIONS = ("cut JSON", "wrong types")
#: Longest duration of a black hole in seconds: longer than the clients wait for a response.
BLACK_HOLE = 8.0
#: Longest delay in seconds.
LONGEST_DELAY = 3.0
#: Size of a huge header in bytes.
HUGE = 10 * 1024 * 1024

#: Statuses that a device between client and gateway may send. None of them means that the request took effect.
STATUSES = (
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "418 I'm a teapot",
)
#: Valid JSON of the wrong form.
BODIES = (b"[]", b"{}", b"17", b'{"failed":3}')


class Proxy(Relay):
    """Listens on a free port of loopback and forwards connections to `target`, with faults.

    Args:
        target: The port of the gateway.
        seed: Seed of the choice of faults.
        faults: The names of the faults to inject.
        on_fault: Called with the name of each injected fault, from any thread.

    Attributes:
        rate: The share of exchanges that get a fault, 0 to 1.
        bodies: The bodies of the fault "wrong types".
        statuses: The statuses of the fault "wrong status".
    """

    def __init__(
        self,
        target: int,
        seed: int,
        faults: tuple[str, ...] = FAULTS,
        on_fault: Callable[[str], object] = lambda name: None,
    ) -> None:
        self.rate = 0.0
        self.bodies, self.statuses = BODIES, STATUSES
        self._faults = faults
        self._on_fault = on_fault
        self._random = random.Random(seed)
        self._choosing = threading.Lock()  # Guards _random and _owed.
        self._owed: deque[str] = deque()
        super().__init__(target)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        pair = _Pair(client, server)
        while self._exchange(pair):
            pass

    def _choose(self) -> tuple[str | None, random.Random]:
        with self._choosing:
            chance = random.Random(self._random.getrandbits(64))
            fault = self._random.choice(self._faults) if self._random.random() < self.rate else None
        if fault is not None and fault not in DISTORTIONS:
            self._on_fault(fault)
        return fault, chance

    def _distortion(self, fault: str | None, answer: bytes) -> str | None:
        """Return how to distort a response. If it cannot be distorted, a later one is distorted instead."""
        with self._choosing:
            if fault is not None:
                self._owed.append(fault)
            is_due = bool(self._owed) and (fault is not None or self.rate > 0)
            return self._owed.popleft() if is_due and _is_distortable(answer) else None

    def _exchange(self, pair: _Pair) -> bool:
        """Forward one request and its response. Return whether the connection stays open."""
        request = pair.read_request()
        if request is None:
            return False
        fault, chance = self._choose()
        if fault in ("cut before the request", "wrong status"):
            if fault == "wrong status":
                pair.client.sendall(_html(chance.choice(self.statuses)))
            return False
        if fault == "cut within the request":
            pair.server.sendall(request[: chance.randrange(1, len(request))])
            return False
        if fault == "black hole":
            pair.wait_for_client(chance.uniform(0.5, BLACK_HOLE))
            return False
        if fault == "delayed request":
            # If the client gives up first, its request still reaches the gateway, followed by the end of the connection.
            pair.wait_for_client(chance.uniform(0, LONGEST_DELAY))
        _send(pair.server, request, _trickle(fault == "trickled request", chance))
        if fault == "cut after the request":
            return False
        if fault == "reset after the request":
            return pair.reset()
        answer = pair.read_answer()
        if answer is None:
            return False
        return self._answer(pair, answer, fault, chance)

    def _answer(self, pair: _Pair, answer: bytes, fault: str | None, chance: random.Random) -> bool:
        if fault in ("cut within the answer", "reset within the answer"):
            pair.client.sendall(answer[: chance.randrange(1, len(answer))])
            return pair.reset() if fault.startswith("reset") else False
        if fault == "delayed answer":
            pair.wait_for_client(chance.uniform(0, LONGEST_DELAY))
        if (fault is None or fault in DISTORTIONS) and (fault := self._distortion(fault, answer)) is not None:
            answer = _distorted(answer, None if fault == "cut JSON" else chance.choice(self.bodies), chance)
            self._on_fault(fault)
        if fault == "huge headers":
            head, _, body = answer.partition(b"\r\n\r\n")
            answer = b"%b\r\nX-Huge: %b\r\n\r\n%b" % (head, b"x" * HUGE, body)
        _send(pair.client, answer, _trickle(fault == "trickled answer", chance))
        return fault not in ("cut after the answer", "huge headers")


class _Pair:
    """A connection of a client and its connection to the gateway."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> bytes | None:
        """Return the next request, or `None` if the client closed the connection."""
        return _read(self.client, _length)

    def read_answer(self) -> bytes | None:
        """Return the response, or `None` if the gateway or the client closed the connection."""
        while True:
            ready, _, _ = select.select([self.client, self.server], [], [])
            if self.server in ready:
                return _read(self.server, lambda head: 0 if head[9:12] == b"204" else _length(head))
            if not self.client.recv(1, socket.MSG_PEEK):
                return None

    def wait_for_client(self, seconds: float) -> None:
        """Wait for some seconds, or until the client closes the connection."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self.client], [], [], left)
            if ready and not self.client.recv(1, socket.MSG_PEEK):
                return

    def reset(self) -> bool:
        """Make the close of the client's connection send a TCP reset."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def _read(sock: socket.socket, length: Callable[[bytes], int]) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    missing = length(head) - len(body)
    while missing > 0:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
        missing -= len(more)
    return data


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _trickle(wanted: bool, chance: random.Random) -> tuple[int, float]:
    """Return the size of a piece in bytes and the pause after each piece in seconds."""
    return (chance.randrange(8, 64), 0.05) if wanted else (1 << 30, 0.0)


def _send(sock: socket.socket, data: bytes, pace: tuple[int, float]) -> None:
    size, pause = pace
    for at in range(0, len(data), size):
        sock.sendall(data[at : at + size])
        time.sleep(pause)


def _html(status: str) -> bytes:
    body = b"<html><body><h1>An error occurred</h1></body></html>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _is_distortable(answer: bytes) -> bool:
    """Tell whether a response has a form that can be broken. A session state has none: any bytes are a valid state."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return bool(body) and (b"json" in head or b"BrokerProperties:" in head)


def _distorted(answer: bytes, instead: bytes | None, chance: random.Random) -> bytes:
    """Return a response with the same status, and with another body or a part of its own body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    body = body[: chance.randrange(len(body))] if instead is None else instead
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    # With its BrokerProperties header, a message would still be a valid message with another body.
    lines = [line for line in lines if not line.startswith(b"BrokerProperties:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
