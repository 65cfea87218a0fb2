"""A proxy in front of a gateway that holds or refuses requests which settle messages, and helpers for its tests."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from azsession import ReceivedMessage, ServiceBusProvider, SessionClient, SessionProcessor
from azsession.client.session import holder_of
from azsession.processor.completions import BackgroundCompletions
from azsession.protocol import EXTENSIONS_HEADER
from azsession.testing import AzsessionServer

from ..concurrency.servers import Handler, QuietHTTPServer
from ..conftest import eventually
from ..support.plain_server import PlainServer
from .helpers import QUEUE, Seen

#: The answer to a refused settlement. The client does not repeat the request.
REFUSAL = json.dumps({"error": {"code": "BadRequest", "message": "refused by the test"}}).encode()


class Front(QuietHTTPServer):
    """Forwards requests. A settlement waits while `open_gate` is not set.

    Attributes:
        settled: For each settlement, in the order of the answers: what was to be done with how many messages.
        refuse: How many of the next settlements are answered with status 400.
        waiting: How many settlements have come and are not answered.
        provider: A provider whose server is this front.
        hides: Texts that are removed from the list of the server's extensions.
        requests: The method and the last parts of the path of each request about a session, without ids, and its query.
    """

    provider: ServiceBusProvider

    def __init__(self, target: str) -> None:
        super().__init__(_Forwarder)
        self.target = urlsplit(target)
        self.open_gate = threading.Event()
        self.open_gate.set()
        self.changed = threading.Lock()  # Guards the fields below.
        self.settled: list[dict[str, int]] = []
        self.refuse = 0
        self._accepted_before = 0
        self.waiting = 0
        self.hides: tuple[str, ...] = ()
        self.requests: list[str] = []

    def refuse_after(self, count: int) -> None:
        """Refuse one settlement, after so many others."""
        with self.changed:
            self._accepted_before, self.refuse = count, 1

    def must_refuse(self) -> bool:
        """Return whether to refuse this settlement. The caller holds `changed`."""
        if self._accepted_before:
            self._accepted_before -= 1
            return False
        is_refused = self.refuse > 0
        self.refuse -= is_refused
        return is_refused

    @property
    def confirmed(self) -> int:
        """How many messages were completed."""
        with self.changed:
            return sum(each.get("complete", 0) for each in self.settled)


class _Forwarder(Handler):
    server: Front

    def answer(self) -> None:
        front, settlement = self.server, self._settlement()
        with front.changed:
            front.requests += _named(self.command, self.path)
        if not settlement:
            self._forward()
            return
        with front.changed:
            front.waiting += 1
        assert front.open_gate.wait(30)
        with front.changed:
            front.waiting -= 1
            is_refused = front.must_refuse()
            if not is_refused:
                front.settled.append(settlement)
        if is_refused:
            self.give(400, {"Content-Type": "application/json"}, REFUSAL)
        else:
            self._forward()

    def _settlement(self) -> dict[str, int]:
        """Return what is to be done with how many messages, if this is a settlement."""
        parts = unquote(urlsplit(self.path).path).split("/")
        if parts[-1] in ("$settle", "release") and self.body:
            return {name: len(tokens) for name, tokens in json.loads(self.body).items()}
        if "messages" in parts and parts[-2] == "messages" and parts[-1] != "head" and self.command in ("DELETE", "PUT"):
            return {"complete" if self.command == "DELETE" else "abandon": 1}
        return {}

    def _forward(self) -> None:
        way = http.client.HTTPConnection(self.server.target.hostname or "", self.server.target.port)
        try:
            way.request(self.command, self.path, self.body, dict(self.headers))
            found = way.getresponse()
            hop = ("content-length", "transfer-encoding", "connection")
            headers: dict[str, Any] = {name: value for name, value in found.getheaders() if name.lower() not in hop}
            for name in headers:
                if name.lower() == EXTENSIONS_HEADER.lower():
                    headers[name] = " ".join(
                        each for each in headers[name].split() if each.strip(",") not in self.server.hides
                    )
            self.give(found.status, headers, found.read())
        finally:
            way.close()


def _named(method: str, path: str) -> list[str]:
    """Return the name of a request about a session, for example ``release``."""
    parts = unquote(urlsplit(path).path).split("/")
    if "sessions" not in parts or (parts[-1] == "sessions" and method == "GET"):
        return []
    if parts[-1] == "sessions":
        return ["accept"]
    if parts[-1] == "head":
        return ["receive"]
    return ["complete" if parts[-2] == "messages" and method == "DELETE" else parts[-1]]


@contextmanager
def fronted(server: AzsessionServer | PlainServer) -> Iterator[Front]:
    """Serve a front of a gateway or of a server of the plain dialect."""
    key = server.connection_string.partition(";")[2]
    with (
        Front(server.url) as front,
        ServiceBusProvider.from_connection_string(f"Endpoint={front.url}/;{key}") as provider,
    ):
        try:
            front.provider = provider
            yield front
        finally:
            front.open_gate.set()


class Reported:
    """An `on_error` that keeps the types of the errors, and the texts of the messages."""

    def __init__(self) -> None:
        self.all: list[tuple[type, str | None]] = []

    def __call__(self, error: BaseException, session: Any, message: ReceivedMessage | None) -> None:
        self.all.append((type(error), None if message is None else message.text()))

    @property
    def texts(self) -> list[str | None]:
        return [text for _, text in self.all]


@contextmanager
def processing(
    front: Front, handler: Callable[[ReceivedMessage, SessionClient], object], limit: int, **options: Any
) -> Iterator[SessionProcessor]:
    """Run a processor behind the front, for one session at a time."""
    made = {"max_concurrent_sessions": 1, "settle_in_background": limit, **options}
    with SessionProcessor(front.provider, QUEUE, handler, **made) as processor:
        try:
            yield processor
        finally:
            front.open_gate.set()


def first_alone(front: Front, then: Callable[[ReceivedMessage, SessionClient], object] = lambda *_: None) -> Seen:
    """Return a handler that lets the front get the completion of the first message before it handles the second one."""

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        if seen.count == 2:
            eventually(lambda: front.waiting == 1)
        then(message, session)

    seen = Seen(handle)
    return seen


def completions_of(session: SessionClient) -> BackgroundCompletions:
    background = holder_of(session).lock.background
    assert isinstance(background, BackgroundCompletions)
    return background


def until_failed(session: SessionClient) -> None:
    """Wait until a completion of the session has failed."""
    background = completions_of(session)
    eventually(lambda: background.failures)


class Sessions:
    """An `on_session_opened` that keeps the session."""

    def __call__(self, session: SessionClient) -> None:
        self.latest = session

    def has_waiter(self) -> bool:
        """Return whether the slot of the session waits for a confirmation."""
        return bool(completions_of(self.latest)._waiters)
