"""A server of the plain dialect: the reference's six operations and their status codes. It uses no code of azsession.

It is written from the reference, not from `azsession.protocol`, so that it does not share the client's mistakes. A test can
replace the answers to the next requests: see `Fate` and `PlainServer.next`.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote

KEY_NAME, KEY = "reader", "bm90IGEgc2VjcmV0"


@dataclass(frozen=True)
class Fate:
    """How the server treats a request.

    Attributes:
        raw: The bytes to answer with. `None`: the regular answer.
        cut: How many bytes of the answer to send before closing the connection. `None`: all, and the connection stays open.
        acts: Perform the operation first.
        silent: Never answer.
    """

    raw: bytes | None = None
    cut: int | None = None
    acts: bool = False
    silent: bool = False


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, acts: bool = False) -> Fate:
    """Return the fate of a request that gets this HTTP answer."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return Fate("\r\n".join([*lines, "", ""]).encode("latin-1") + body, acts=acts)


REGULAR = Fate(acts=True)
NEVER = Fate(silent=True)
CLOSED_BEFORE = Fate(b"", cut=0, acts=True)
CLOSED_IN_HEADERS = Fate(b"HTTP/1.1 200 OK\r\nContent-Le", cut=999, acts=True)
CLOSED_IN_BODY = Fate(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part", cut=999, acts=True)
GARBAGE = Fate(b"\x16\x03\x01\x00\xff\xfe this is no HTTP \x00\r\n\r\n" * 20, cut=99999, acts=True)
ONE_HUGE_HEADER = Fate(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"h" * 10_000_000 + b"\r\nContent-Length: 0\r\n\r\n", cut=99999999)
MANY_HEADERS = Fate(
    b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"h" * 1000) for n in range(10_000)) + b"\r\n", cut=99999999
)


@dataclass
class Stored:
    """A message of the server."""

    body: bytes
    properties: dict[str, Any]
    headers: dict[str, str]
    token: str | None = None
    deliveries: int = 0


@dataclass(frozen=True)
class Seen:
    """A request as it was sent: the target is not decoded."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


@dataclass
class PlainServer:
    """A server on a free loopback port, for a `with` block. With `listening=False` it refuses connections until `listen`."""

    listening: bool = True
    seen: list[Seen] = field(default_factory=list)
    dead: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()  # Guards the fields below, `seen` and `dead`.
        self._sessions: dict[tuple[str, str], list[Stored]] = {}
        self._fates: deque[Fate] = deque()
        self._numbers = 0
        self._sockets: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self._server.plain = self
        self._server.server_bind()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.connection_string = f"Endpoint={self.url}/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> PlainServer:
        if self.listening:
            self.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        with self._changed:
            self._changed.notify_all()
            sockets = list(self._sockets)
        for sock in sockets:
            _hang_up(sock)
        self._server.server_close()

    def listen(self) -> None:
        """Accept connections from now on."""
        self._server.server_activate()
        self._thread.start()

    def put(
        self, queue: str, session_id: str, *bodies: bytes, headers: dict[str, str] | None = None, **properties: Any
    ) -> None:
        """Put messages into a session."""
        with self._changed:
            for body in bodies:
                self._numbers += 1
                known = {
                    "MessageId": f"m{self._numbers}",
                    "SessionId": session_id,
                    "SequenceNumber": self._numbers,
                    **properties,
                }
                self._sessions.setdefault((queue, session_id), []).append(Stored(body, known, dict(headers or {})))
            self._changed.notify_all()

    def left(self, queue: str, session_id: str) -> list[bytes]:
        """Return the bodies of the messages that are left in a session."""
        with self._changed:
            return [stored.body for stored in self._sessions.get((queue, session_id), [])]

    def next(self, *fates: Fate) -> None:
        """Treat the next requests as `fates` say, in this order."""
        with self._changed:
            self._fates.extend(fates)

    def requests(self) -> list[str]:
        """Return the method and target of each request so far, in order."""
        with self._changed:
            return [f"{seen.method} {seen.target}" for seen in self.seen]

    def connections(self) -> int:
        """Return how many connections are open."""
        with self._changed:
            return len(self._sockets)

    # For the handler

    def take_fate(self, seen: Seen) -> Fate:
        with self._changed:
            self.seen.append(seen)
            return self._fates.popleft() if self._fates else REGULAR

    @contextmanager
    def connected(self, sock: socket.socket) -> Iterator[None]:
        with self._changed:
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._changed:
                self._sockets.discard(sock)

    def serve(self, seen: Seen) -> bytes:
        """Return the regular answer according to the reference."""
        match = re.fullmatch(r"/([^/]+(?:/[sS]ubscriptions/[^/]+)?)/sessions/([^/]+)/(.+)", seen.path)
        if match is None:
            return _http(404)
        place = unquote(match[1]), unquote(match[2])
        rest = match[3].split("/")
        if (seen.method, rest) == ("DELETE", ["messages", "head"]):
            return self._receive(place, float(parse_qs(seen.query)["timeout"][0]))
        if (seen.method, rest) == ("POST", ["renewlock"]):
            return _http(200)
        if rest[0] != "messages" or len(rest) > 3:
            return _http(404)
        with self._changed:
            messages = self._sessions.get(place, [])
            stored = next((one for one in messages if one.token == unquote(rest[1])), None)
            if stored is None:
                return _http(404)
            if (seen.method, rest[2:]) == ("DELETE", []):
                messages.remove(stored)
                return _http(200)
            if (seen.method, rest[2:]) == ("PUT", []):
                stored.token = None
                self._changed.notify_all()
                return _http(200)
            if (seen.method, rest[2:]) == ("POST", ["$deadletter"]):
                self.dead.append((stored.body, json.loads(seen.body)))
                messages.remove(stored)
                return _http(201)
        return _http(405)

    def _receive(self, place: tuple[str, str], timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self.stopped.is_set():
                stored = next((one for one in self._sessions.get(place, []) if one.token is None), None)
                if stored is not None:
                    stored.token, stored.deliveries = f"{{{uuid.uuid4()}}}", stored.deliveries + 1
                    known = {**stored.properties, "LockToken": stored.token, "DeliveryCount": stored.deliveries}
                    return _http(201, {"BrokerProperties": json.dumps(known), **stored.headers}, stored.body)
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        return _http(204)


def _http(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    return answer(status, headers, body).raw or b""


def _hang_up(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 128
    plain: PlainServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests close connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with self.server.plain.connected(self.connection):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        plain = self.server.plain
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = self.requestline.split(" ")[1]
        seen = Seen(self.command, target, dict(self.headers.items()), body, time.monotonic())
        fate = plain.take_fate(seen)
        if fate.silent:
            plain.stopped.wait()
            self.close_connection = True
            return
        regular = plain.serve(seen) if fate.acts else b""
        data = regular if fate.raw is None else fate.raw
        self.wfile.write(data if fate.cut is None else data[: fate.cut])
        if fate.cut is not None:
            _hang_up(self.connection)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = _serve
