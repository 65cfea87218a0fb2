"""Many threads on one client, and many clients on one provider: nothing is lost, doubled, stuck or left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    InvalidReceiptError,
    Message,
    QueueError,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
)
from azsession.client import operations
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.internals import pending_calls
from .servers import KEY, Handler, QuietHTTPServer, SilentServer

THREADS = 32


class _Crew:
    """Threads whose exceptions are kept; `join` fails where one of them hangs."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, work: Callable[..., object], *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self, seconds: float = 60) -> None:
        for thread in self.threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a thread hangs"


class _Ledger:
    """What became of each message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards what follows.
        self.in_hand: Counter[str] = Counter()
        self.doubled: list[str] = []
        self.done: Counter[str] = Counter()
        self.deferred: list[int] = []

    def take(self, message: ReceivedMessage) -> str:
        name = message.text()
        with self._lock:
            self.in_hand[name] += 1
            if self.in_hand[name] > 1 or self.done[name]:
                self.doubled.append(name)
        return name

    def put(self, name: str) -> None:
        with self._lock:
            self.in_hand[name] -= 1

    def finish(self, name: str) -> None:
        with self._lock:
            self.done[name] += 1

    def defer(self, number: int) -> None:
        with self._lock:
            self.deferred.append(number)

    def take_deferred(self) -> int | None:
        with self._lock:
            return self.deferred.pop() if self.deferred else None


def _send(provider: ServiceBusProvider, names: list[tuple[str, str]]) -> None:
    provider.send_messages("q", [Message(name, session_id=session) for session, name in names])


def _left(provider: ServiceBusProvider, sessions: set[str]) -> Counter[str]:
    """Return what is in the sessions still, and in the dead-letter queue."""
    left: Counter[str] = Counter()
    for session in sessions:
        left.update(message.text() for message in provider.peek_messages("q", session, 1000))
    left.update(message.text() for message in provider.dead_letters("q", 1000))
    return left


def _settle(client: SessionClient, message: ReceivedMessage, chance: random.Random, ledger: _Ledger) -> None:
    name = message.text()
    kind = chance.choice(["complete", "complete", "complete", "complete many", "abandon", "defer", "dead-letter"])
    # Given up before the request, since others may have the message before its answer is here.
    ledger.put(name)
    if kind == "complete":
        client.complete_message(message)
    elif kind == "complete many":
        client.complete_messages([message])
    elif kind == "abandon":
        client.abandon_message(message)
    elif kind == "defer":
        client.defer_message(message)
        ledger.defer(message.sequence_number or 0)
    else:
        client.dead_letter_message(message, "by chance")
    if kind.startswith("complete"):
        ledger.finish(name)


def test_32_threads_hammer_one_client(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", max_delivery_count=2000)
    names = [f"m{n}" for n in range(400)]
    ledger, crew = _Ledger(), _Crew()
    with azsession_server.provider() as provider:
        _send(provider, [("s", name) for name in names])
        client = provider.create_session_client("q", "s")

        def hammer(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(15):
                kind = chance.choice(["one", "one", "many", "ahead", "deferred", "renew", "state", "look"])
                got: list[ReceivedMessage] = []
                if kind == "one":
                    message = client.receive_message(timeout=0)
                    got = [message] if message is not None else []
                elif kind == "many":
                    got = client.receive_messages(chance.randint(2, 5), timeout=0)
                elif kind == "ahead":
                    got = [message for message, _ in zip(client.messages(0, prefetch=7), range(3), strict=False)]
                elif kind == "deferred":
                    number = ledger.take_deferred()
                    got = client.receive_deferred_messages([number]) if number is not None else []
                elif kind == "renew":
                    client.renew_session_lock()
                elif kind == "state":
                    client.set_session_state(b"%d" % seed)
                    assert client.get_session_state() is not None
                else:
                    assert not client.is_lock_lost
                    repr(client)
                for message in got:
                    ledger.take(message)
                for message in got:
                    _settle(client, message, chance, ledger)

        for seed in range(THREADS):
            crew.start(hammer, seed)
        crew.join()
        assert crew.errors == []
        client.close_session()
        assert ledger.doubled == []
        assert set(ledger.done.values()) <= {0, 1}
        assert +ledger.done + _left(provider, {"s"}) == Counter(names)


def test_32_threads_use_and_close_each_others_clients(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", max_delivery_count=2000)
    sessions = [f"s{n}" for n in range(8)]
    names = [(session, f"{session}:{n}") for n in range(40) for session in sessions]
    ledger, crew = _Ledger(), _Crew()
    open_clients: list[SessionClient] = []
    with azsession_server.provider() as provider:
        _send(provider, names)

        def use(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(12):
                client = None
                try:
                    if chance.random() < 0.4:
                        client = provider.create_session_client("q", accept_timeout=0.05)
                    elif open_clients and chance.random() < 0.4:
                        client = chance.choice(open_clients)
                    else:
                        client = provider.create_session_client("q", chance.choice(sessions))
                    open_clients.append(client)
                    for message in client.receive_messages(chance.randint(1, 4), timeout=chance.choice([0, 0, 0.1])):
                        ledger.in_hand[message.text()] += 1
                        _settle(client, message, chance, ledger)
                    if chance.random() < 0.2:
                        client.renew_session_lock()
                    if chance.random() < 0.2:
                        client.set_session_state(b"x")
                    if chance.random() < 0.6:
                        chance.choice(open_clients).close_session()
                except ConfigurationError:
                    raise
                except QueueError as error:
                    # What may come of other threads' closing and holding; anything else is wrong.
                    if isinstance(error, ConnectionFailedError):
                        raise
                if client is not None and (client.is_lock_lost or chance.random() < 0.7):
                    client.close_session()

        for seed in range(THREADS):
            crew.start(use, seed)
        crew.join()
        assert crew.errors == []
        for client in open_clients:
            client.close()
        assert set(ledger.done.values()) <= {0, 1}
        assert +ledger.done + _left(provider, set(sessions)) == Counter(name for _, name in names)
        # All locks were released: each session can be had at once.
        for session in sessions:
            with provider.create_session_client("q", session) as client:
                client.receive_message(timeout=0)


def test_closing_ends_the_receives_of_all_threads(azsession_provider: ServiceBusProvider) -> None:
    client = azsession_provider.create_session_client("q", "s")
    client.receive_message(timeout=0)
    crew = _Crew()
    for _ in range(8):
        crew.start(client.receive_message, 300)
    eventually(lambda: len(pending_calls(client)) == 8)
    client.close_session()
    crew.join(20)
    assert [type(error) for error in crew.errors] == [SessionNotFoundError] * 8
    # The server let go of the lock at once, and for good.
    with azsession_provider.create_session_client("q", "s") as other:
        assert other.receive_message(timeout=0) is None


def test_closing_ends_receives_from_a_server_that_does_not_answer() -> None:
    with SilentServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        client = provider.create_session_client("q", "s")
        crew = _Crew()
        for _ in range(8):
            crew.start(client.receive_message, 300)
        for _ in range(8):
            assert server.asked.acquire(timeout=20)
        client.close_session()
        crew.join(20)
    assert [type(error) for error in crew.errors] == [SessionNotFoundError] * 8


def test_closing_the_provider_ends_every_kind_of_call(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    _send(provider, [(f"s{n}", f"m{n}") for n in range(8)])
    held = provider.create_session_client("q", "held")
    held.receive_message(timeout=0)
    crew = _Crew()
    ended: list[QueueError] = []
    running = threading.Semaphore(0)

    def until_closed(call: Callable[[], object]) -> None:
        running.release()
        try:
            while True:
                call()
        except (SessionNotFoundError, ConfigurationError) as error:
            ended.append(error)

    def hold() -> None:
        with provider.create_session_client("q", "held2") as client:
            client.receive_message(timeout=300)

    kinds: list[Callable[[], object]] = [
        lambda: held.receive_message(timeout=300),
        held.renew_session_lock,
        lambda: held.set_session_state(b"1"),
        held.get_session_state,
        lambda: provider.create_session_client("empty", accept_timeout=300),
        lambda: provider.send_message("other", Message(b"x", session_id="s")),
        lambda: provider.list_sessions("q"),
        lambda: provider.peek_messages("q", "s1"),
        lambda: provider.dead_letters("q"),
        lambda: provider.create_session_client("q", "s1").close(),
        hold,
    ]
    for kind in kinds:
        crew.start(until_closed, kind)
    for _ in kinds:
        running.acquire()
    eventually(lambda: len(pending_calls(held)) >= 1 and len(pending_calls(provider)) == 1)
    provider.close()
    crew.join(40)
    assert crew.errors == []
    assert len(ended) == len(kinds)


def test_closing_from_many_threads_at_once_releases_once_and_for_all(azsession_server: AzsessionServer) -> None:
    for _ in range(5):
        provider, crew = azsession_server.provider(), _Crew()
        clients = [provider.create_session_client("q", f"s{n}") for n in range(4)]
        for client in clients:
            client.receive_message(timeout=0)
        for close in [provider.close, *(client.close for client in clients)] * 3:
            crew.start(close)
        crew.join()
        assert crew.errors == []


class _SilentRelease(Handler):
    """Version 1, as far as a receive without messages goes; a release is never answered."""

    def answer(self) -> None:
        if self.path.endswith("/release"):
            self.server.released.append(self.path)
            self.server.stopping.wait()
        elif self.command == "DELETE" and "timeout=300" in self.path:
            self.server.waiting.release()
            self.server.stopping.wait()
        else:
            self.give(204, {"Azsession-Protocol": "1", "Azsession-Lock-Expires-In": "60"})


def test_closing_the_provider_does_not_wait_for_each_session_in_turn() -> None:
    crew = _Crew()
    with QuietHTTPServer(_SilentRelease) as server:
        server.released, server.waiting = [], threading.Semaphore(0)
        provider = ServiceBusProvider.from_connection_string(server.connection_string)
        clients = [provider.create_session_client("q", f"s{n}") for n in range(6)]
        for client in clients:
            client.receive_message(timeout=0)
            crew.start(client.receive_message, 300)
        for _ in clients:
            assert server.waiting.acquire(timeout=20)
        provider.close()
        crew.join(20)
        assert [type(error) for error in crew.errors] == [SessionNotFoundError] * 6
        assert len(set(server.released)) == 1


def test_a_receipt_completed_by_two_threads_at_once_is_completed_once(azsession_provider: ServiceBusProvider) -> None:
    _send(azsession_provider, [("s", f"m{n}") for n in range(20)])
    with azsession_provider.create_session_client("q", "s") as client:
        for message in client.receive_messages(20):
            crew, barrier, fine = _Crew(), threading.Barrier(2), []

            def complete(
                message: ReceivedMessage = message, barrier: threading.Barrier = barrier, fine: list[int] = fine
            ) -> None:
                barrier.wait()
                client.complete_message(message)
                fine.append(1)

            crew.start(complete)
            crew.start(complete)
            crew.join()
            assert fine
            assert {type(error) for error in crew.errors} <= {InvalidReceiptError}
    assert azsession_provider.peek_messages("q", "s") == []


def test_a_message_settled_in_two_ways_at_once_is_settled_in_one(azsession_provider: ServiceBusProvider) -> None:
    names = [f"m{n}" for n in range(20)]
    _send(azsession_provider, [("s", name) for name in names])
    ways: Counter[str] = Counter()
    with azsession_provider.create_session_client("q", "s") as client:
        for message in client.receive_messages(20):
            crew, barrier = _Crew(), threading.Barrier(2)

            def settle(way: str, message: ReceivedMessage = message, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                if way == "complete":
                    client.complete_message(message)
                else:
                    client.dead_letter_message(message, "why not")
                ways[way] += 1

            crew.start(settle, "complete")
            crew.start(settle, "dead-letter")
            crew.join()
            assert [type(error) for error in crew.errors] == [InvalidReceiptError]
    assert sum(ways.values()) == len(names)
    assert len(azsession_provider.dead_letters("q")) == ways["dead-letter"]


class _HeldBack(BaseAdapter):
    """Gives its answer when it is let, whatever became of the asker: no connection of it can be shut."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = threading.Event(), threading.Event()

    def send(self, request: Any, **settings: Any) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code, response._content = 200, b"body"
        if "/head" in request.url:
            self.asked.set()
            self.let.wait(20)
            response.headers["BrokerProperties"] = '{"LockToken": "token-1", "SequenceNumber": 1}'
        return response

    def close(self) -> None:
        pass


def test_an_answer_that_comes_after_the_close_is_not_handed_out() -> None:
    adapter = _HeldBack()
    with requests.Session() as http:
        http.mount("http://", adapter)
        config = ServiceBusConfig(connection_string=f"Endpoint=http://127.0.0.1:1/;{KEY}")
        with ServiceBusProvider(config, http=http) as provider:
            client = provider.create_session_client("q", "s")
            crew = _Crew()
            crew.start(client.receive_message, 300)
            assert adapter.asked.wait(20)
            client.close_session()
            adapter.let.set()
            crew.join()
    assert [type(error) for error in crew.errors] == [SessionNotFoundError]
    assert holder_of(client).lock.tokens() == []
    with pytest.raises(SessionNotFoundError):
        client.complete_message("token-1")


def test_a_lost_lock_is_told_once_however_many_threads_find_it(azsession_server: AzsessionServer) -> None:
    told: list[tuple[SessionClient, SessionNotFoundError]] = []
    crew = _Crew()
    with azsession_server.provider() as provider, azsession_server.provider() as other:
        client = provider.create_session_client("q", "s", on_lock_lost=lambda *about: told.append(about))
        client.receive_message(timeout=0)

        def until_lost(call: Callable[[], object]) -> None:
            while True:
                call()

        for _ in range(8):
            crew.start(until_lost, client.renew_session_lock)
            crew.start(until_lost, lambda: client.receive_message(timeout=300))
        eventually(lambda: len(pending_calls(client)) >= 8)
        # Behind the client's back.
        core_of(other).transport.send(operations.release(holder_of(client).target()))
        crew.join(20)
        assert [type(error) for error in crew.errors] == [SessionNotFoundError] * 16
        assert [about[0] for about in told] == [client]
        assert client.is_lock_lost
        client.close()
    assert len(told) == 1


def test_a_client_that_is_refused_the_session_can_try_again(azsession_provider: ServiceBusProvider) -> None:
    _send(azsession_provider, [("s", "m")])
    first = azsession_provider.create_session_client("q", "s")
    second = azsession_provider.create_session_client("q", "s")
    assert first.receive_message(timeout=0) is not None
    crew = _Crew()
    for _ in range(8):
        crew.start(second.receive_message, 0)
    crew.join()
    assert [type(error) for error in crew.errors] == [SessionLockedError] * 8
    first.close()
    assert second.receive_message(timeout=10) is not None
