"""A TCP proxy between clients and the gateway that does to their connections what networks do, and counts it.

It reads enough of HTTP to know where a request and an answer end, so that a cut can come before, within or after either. It
never makes a request twice, and never tells of a success that was none.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from .wire import Relay

#: What is done to an exchange, by name.
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
#: What is done to an answer's body, where it has one that can be broken.
DISTORTIONS = ("cut JSON", "wrong types")
#: Seconds for which a black hole swallows, longer than any client here waits for an answer.
BLACK_HOLE = 8.0
#: Seconds of the longest delay.
LONGEST_DELAY = 3.0
#: Bytes of a huge header's answer.
HUGE = 10 * 1024 * 1024

#: What something between client and gateway answers of itself: none of these says that a request was done.
STATUSES = (
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "418 I'm a teapot",
)
#: Bodies that are JSON, and not what was asked for.
BODIES = (b"[]", b"{}", b"17", b'{"failed":3}')


class Proxy(Relay):
    """Listens on a free port of loopback, and passes everything on to `target`, with faults.

    Args:
        target: The gateway's port.
        seed: Of the faults.
        faults: What to do.
        on_fault: Called with the name of each that is done, from any thread.

    Attributes:
        rate: The share of exchanges that something is done to.
        bodies: What answers say that are of wrong types.
        statuses: What is answered instead of asking the gateway.
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
        self._choosing = threading.Lock()  # Guards _random.
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

    def _exchange(self, pair: _Pair) -> bool:
        """Pass one request and its answer on; tell whether the connection lasts."""
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
            # A client that gives up meanwhile is not waited for: what it sent comes late, and its end right behind.
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
        if fault in DISTORTIONS and _is_distortable(answer):
            answer = _distorted(answer, None if fault == "cut JSON" else chance.choice(self.bodies), chance)
            self._on_fault(fault)
        if fault == "huge headers":
            head, _, body = answer.partition(b"\r\n\r\n")
            answer = b"%b\r\nX-Huge: %b\r\n\r\n%b" % (head, b"x" * HUGE, body)
        _send(pair.client, answer, _trickle(fault == "trickled answer", chance))
        return fault not in ("cut after the answer", "huge headers")


class _Pair:
    """A client's connection, and the one to the gateway that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_request(self) -> bytes | None:
        """Return the next request, or `None` where there is none any more."""
        return _read(self.client, _length)

    def read_answer(self) -> bytes | None:
        """Return the gateway's answer; `None` where it, or the client, goes away."""
        while True:
            ready, _, _ = select.select([self.client, self.server], [], [])
            if self.server in ready:
                return _read(self.server, lambda head: 0 if head[9:12] == b"204" else _length(head))
            if not self.client.recv(1, socket.MSG_PEEK):
                return None

    def wait_for_client(self, seconds: float) -> None:
        """Wait, or until the client goes away."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self.client], [], [], left)
            if ready and not self.client.recv(1, socket.MSG_PEEK):
                return

    def reset(self) -> bool:
        """Reset the client's connection."""
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
    """Return how many bytes go at once, and the pause after each."""
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
    """Tell whether an answer has a form that can be broken. A session's state has none: broken, it would be another state."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return bool(body) and (b"json" in head or b"BrokerProperties:" in head)


def _distorted(answer: bytes, instead: bytes | None, chance: random.Random) -> bytes:
    """Return an answer of the same status with another body, or with its own, cut."""
    head, _, body = answer.partition(b"\r\n\r\n")
    body = body[: chance.randrange(len(body))] if instead is None else instead
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    # Else a message of its own form would be another message, not a broken answer.
    lines = [line for line in lines if not line.startswith(b"BrokerProperties:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
