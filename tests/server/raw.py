"""A gateway for tests, and a small HTTP client of its own. azsession's client is not used."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message as Headers
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
from azure.servicebus._pyamqp.utils import generate_sas_token

from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import AccessKey, GatewayMetrics, GatewayService, Right

from .described import check_answer

ENVELOPE = "application/vnd.microsoft.servicebus.json"

MANAGE = AccessKey("root", "bWFuYWdl+/=", frozenset({Right.MANAGE}))
SEND = AccessKey("sender", "c2VuZA==", frozenset({Right.SEND}))
LISTEN = AccessKey("listener", "bGlzdGVu", frozenset({Right.LISTEN}))
KEYS = (MANAGE, SEND, LISTEN)

_numbers = itertools.count(1)


class SteppedClock(Clock):
    """A clock that a test can advance."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def now(self) -> float:
        return super().now() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@attrs.frozen
class Reply:
    """An answer of the gateway."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code, which is in the header and in the body."""
        assert self.headers["x-ms-error-code"] == self.json["error"]["code"]
        assert self.json["error"]["message"]
        return str(self.headers["x-ms-error-code"])

    @property
    def properties(self) -> dict[str, Any]:
        """The broker properties of a single message."""
        loaded: dict[str, Any] = json.loads(self.headers["BrokerProperties"])
        return loaded

    @property
    def token(self) -> str:
        """The lock token of a single message."""
        return str(self.properties["LockToken"])

    @property
    def lock_left(self) -> float:
        return float(self.headers["Azsession-Lock-Expires-In"])


class Gateway:
    """A gateway that is served, with a key for each right and a clock that a test can advance."""

    def __init__(self, service: GatewayService, clock: SteppedClock) -> None:
        self.service = service
        self.clock = clock
        self.url = service.url
        parts = urlsplit(service.url)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)

    def queue(self, **settings: Any) -> str:
        """Create a queue for one test, and return its name."""
        name = f"queue-{next(_numbers)}"
        self.service.broker.create_queue(name, QueueSettings(**settings)).result()
        return name

    def token(self, path: str = "", *, key: AccessKey = MANAGE, expiry: float | None = None, base: str | None = None) -> str:
        """Return a token for `path`, made by the official SDK's generator."""
        token: str = generate_sas_token(f"{base or self.url}/{path}", key.name, key.key, int(expiry or time.time() + 600))
        return token

    def connect(self, timeout: float = 20.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def open_socket(self, data: bytes = b"") -> socket.socket:
        """Open a connection, send `data`, and return the connection."""
        sock = socket.create_connection((self.host, self.port), timeout=20.0)
        sock.sendall(data)
        return sock

    def head(self, method: str, path: str, headers: Mapping[str, str] | None = None, *, key: AccessKey = MANAGE) -> bytes:
        """Return the head of an authorized request as bytes."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Authorization: {self.token(key=key)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        key: AccessKey = MANAGE,
        token: str | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> Reply:
        """Make a request. The path is sent as it is, a body that is not bytes as JSON. ``token=""`` sends no token."""
        given = {"Authorization": self.token(key=key) if token is None else token, **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if not given["Authorization"]:
            del given["Authorization"]
        used = connection or self.connect()
        try:
            used.request(method, path, body, given)
            reply = reply_of(used.getresponse())
            check_answer(method, path, reply.status, reply.headers, reply.body)
            return reply
        finally:
            if connection is None:
                used.close()

    def send(self, queue: str, session_id: str, *bodies: str, **properties: Any) -> None:
        """Send messages in an envelope."""
        items = [{"Body": body, "BrokerProperties": {"SessionId": session_id, **properties}} for body in bodies]
        reply = self.ask("POST", f"/{queue}/messages", items, {"Content-Type": ENVELOPE})
        assert reply.status == 201, reply

    def holder(self, queue: str, session_id: str, lock_id: str | None = None) -> Holder:
        return Holder(self, queue, session_id, lock_id)


class Holder:
    """Makes the requests of one session holder: with a lock id in version 1, without one in the plain dialect."""

    def __init__(self, gateway: Gateway, queue: str, session_id: str, lock_id: str | None) -> None:
        self.gateway = gateway
        self.queue = queue
        self.session_id = session_id
        self.headers = {} if lock_id is None else {"Azsession-Lock-Id": lock_id}
        self.path = f"/{queue}/sessions/{quote(session_id, safe='')}"

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        """Make a request below the session's path."""
        return self.gateway.ask(method, self.path + path, body, {**self.headers, **(headers or {})}, **more)

    def receive(self, query: str = "timeout=0", headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        return self.ask("DELETE", f"/messages/head?{query}", None, headers, **more)

    def renew(self) -> Reply:
        return self.ask("POST", "/renewlock")

    def release(self) -> Reply:
        return self.ask("POST", "/release")

    def complete(self, token: str) -> Reply:
        return self.ask("DELETE", f"/messages/{token}")

    def abandon(self, token: str) -> Reply:
        return self.ask("PUT", f"/messages/{token}")

    def defer(self, token: str) -> Reply:
        return self.ask("POST", f"/messages/{token}/$defer")

    def dead_letter(self, token: str, **fields: str) -> Reply:
        return self.ask("POST", f"/messages/{token}/$deadletter", fields)

    def start_receive(self, timeout: float, headers: Mapping[str, str] | None = None) -> socket.socket:
        """Start a receive that waits, and return its connection."""
        head = self.gateway.head(
            "DELETE", f"{self.path}/messages/head?timeout={timeout}", {**self.headers, **(headers or {})}
        )
        return self.gateway.open_socket(head)


def reply_of(response: http.client.HTTPResponse) -> Reply:
    body = response.read()
    assert response.headers["Azsession-Protocol"] == "1", (response.status, response.headers.items(), body)
    return Reply(response.status, response.headers, body)


def read_reply(sock: socket.socket) -> Reply:
    """Read one answer from a connection."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    return reply_of(response)


def exchange(gateway: Gateway, data: bytes) -> Reply:
    """Send bytes as they are, and return the answer."""
    with gateway.open_socket(data) as sock:
        return read_reply(sock)


def bodies(reply: Reply) -> list[str]:
    """Return the bodies of the messages in an envelope."""
    assert reply.headers["Content-Type"] == ENVELOPE
    assert int(reply.headers["Azsession-Count"]) == len(reply.json)
    return [item["Body"] for item in reply.json]


def tokens(reply: Reply) -> list[str]:
    """Return the lock tokens of the messages in an envelope."""
    return [item["BrokerProperties"]["LockToken"] for item in reply.json]


def fresh_id() -> str:
    return str(uuid.uuid4())


@contextmanager
def serving(**options: Any) -> Iterator[Gateway]:
    """Serve a gateway with an empty broker in memory."""
    clock = SteppedClock()
    options.setdefault("max_waiting", 16)
    options.setdefault("metrics", GatewayMetrics())
    with GatewayService(EmbeddedBroker(clock=clock), KEYS, **options) as service:
        yield Gateway(service, clock)


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Start `call` in a thread, and return a function that waits for its result."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(60.0)
        assert not thread.is_alive(), "the call did not return in time"
        if errors:
            raise errors[0]
        return results[0]

    return result


def waiters(gateway: Gateway, queue: str, session_id: str) -> int:
    """Return how many receives wait in a session."""
    core = gateway.service.broker._core  # type: ignore[attr-defined]
    lock = core.locks.get((core.queues[queue].id, session_id))
    return 0 if lock is None else len(lock.waiters)


def places_left(gateway: Gateway) -> int:
    """Return how many more requests may wait. The broker registers a waiter before its place is taken."""
    return gateway.service._app.slots._free._value  # type: ignore[attr-defined, no-any-return]


def connections(gateway: Gateway) -> int:
    """Return how many connections are open."""
    return len(gateway.service._listener.connections)


def acceptors(gateway: Gateway, queue: str) -> int:
    """Return how many accepts wait for a session of a queue."""
    core = gateway.service.broker._core  # type: ignore[attr-defined]
    return len(list(core.queues[queue].acceptors))


def tls_client(gateway: Gateway, context: ssl.SSLContext, sock: socket.socket) -> ssl.SSLSocket:
    return context.wrap_socket(sock, server_hostname=gateway.host)
