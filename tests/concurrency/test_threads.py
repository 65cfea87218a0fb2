"""Many threads on one client, and many clients on one provider: no message is lost or duplicated, and no thread hangs."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    InvalidReceiptError,
    Message,
    QueueError,
    ReceivedMessage,
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
from ..support.thread_group import ThreadGroup

THREADS = 32


class _Ledger:
    """Who has each message, and how it was settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards the fields below.
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
    """Return the messages that are left in the sessions and in the dead-letter queue."""
    left: Counter[str] = Counter()
    for session in sessions:
        left.update(message.text() for message in provider.peek_messages("q", session, 1000))
    left.update(message.text() for message in provider.dead_letters("q", 1000))
    return left


def _settle(client: SessionClient, message: ReceivedMessage, chance: random.Random, ledger: _Ledger) -> None:
    name = message.text()
    kind = chance.choice(["complete", "complete", "complete", "complete many", "abandon", "defer", "dead-letter"])
    # Before the request: another thread can receive the message before this one has the answer.
    ledger.put(name)
    if kind == "complete":
        client.complete_message(message)
    elif kind == "complete many":
        client.complete_messages([message])
    elif kind == "abandon":
        client.abandon_message(message)
    elif kind == "defer":
        client.defer_message(message)
        ledger.defer(message.sequence_number)
    else:
        client.dead_letter_message(message, "by chance")
    if kind.startswith("complete"):
        ledger.finish(name)


def test_32_threads_share_one_client(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", max_delivery_count=2000)
    names = [f"m{n}" for n in range(400)]
    ledger, group = _Ledger(), ThreadGroup()
    with azsession_server.provider() as provider:
        _send(provider, [("s", name) for name in names])
        client = provider.create_session_client("q", "s")
        # It takes the lock. A renewal that came to the server before the first receive would find none.
        assert client.get_session_state() is None

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
            group.start(hammer, seed)
        group.join()
        assert group.errors == []
        client.close_session()
        assert ledger.doubled == []
        assert set(ledger.done.values()) <= {0, 1}
        assert +ledger.done + _left(provider, {"s"}) == Counter(names)


def _open_any(
    provider: ServiceBusProvider, sessions: list[str], open_clients: list[SessionClient], chance: random.Random
) -> SessionClient:
    """Return the client of a session, of the next available session, or one that another thread opened."""
    if chance.random() < 0.4:
        return provider.create_session_client("q", accept_timeout=0.05)
    if open_clients and chance.random() < 0.4:
        return chance.choice(open_clients)
    return provider.create_session_client("q", chance.choice(sessions))


def _use(client: SessionClient, ledger: _Ledger, chance: random.Random) -> None:
    """Receive and settle some messages, and perhaps renew the lock and set the session state."""
    for message in client.receive_messages(chance.randint(1, 4), timeout=chance.choice([0, 0, 0.1])):
        ledger.in_hand[message.text()] += 1
        _settle(client, message, chance, ledger)
    if chance.random() < 0.2:
        client.renew_session_lock()
    if chance.random() < 0.2:
        client.set_session_state(b"x")


def test_32_threads_use_and_close_the_clients_of_each_other(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("q", max_delivery_count=2000)
    sessions = [f"s{n}" for n in range(8)]
    names = [(session, f"{session}:{n}") for n in range(40) for session in sessions]
    ledger, group = _Ledger(), ThreadGroup()
    open_clients: list[SessionClient] = []
    with azsession_server.provider() as provider:
        _send(provider, names)

        def hammer(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(12):
                client = None
                try:
                    client = _open_any(provider, sessions, open_clients, chance)
                    open_clients.append(client)
                    _use(client, ledger, chance)
                    if chance.random() < 0.6:
                        chance.choice(open_clients).close_session()
                except (ConfigurationError, ConnectionFailedError):
                    raise
                except QueueError:
                    pass  # Other threads close and hold these sessions.
                if client is not None and (client.is_lock_lost or chance.random() < 0.7):
                    client.close_session()

        for seed in range(THREADS):
            group.start(hammer, seed)
        group.join()
        assert group.errors == []
        for client in open_clients:
            client.close()
        assert set(ledger.done.values()) <= {0, 1}
        assert +ledger.done + _left(provider, set(sessions)) == Counter(name for _, name in names)
        # All locks are released: each session can be received from at once.
        for session in sessions:
            with provider.create_session_client("q", session) as client:
                client.receive_message(timeout=0)


def test_a_receipt_completed_by_two_threads_at_once_is_completed_once(azsession_provider: ServiceBusProvider) -> None:
    _send(azsession_provider, [("s", f"m{n}") for n in range(20)])
    with azsession_provider.create_session_client("q", "s") as client:
        for message in client.receive_messages(20):
            group, barrier, fine = ThreadGroup(), threading.Barrier(2), []

            def complete(
                message: ReceivedMessage = message, barrier: threading.Barrier = barrier, fine: list[int] = fine
            ) -> None:
                barrier.wait()
                client.complete_message(message)
                fine.append(1)

            group.start(complete)
            group.start(complete)
            group.join()
            assert fine
            assert {type(error) for error in group.errors} <= {InvalidReceiptError}
    assert azsession_provider.peek_messages("q", "s") == []


def test_of_two_different_settlements_at_once_one_succeeds(azsession_provider: ServiceBusProvider) -> None:
    names = [f"m{n}" for n in range(20)]
    _send(azsession_provider, [("s", name) for name in names])
    ways: Counter[str] = Counter()
    with azsession_provider.create_session_client("q", "s") as client:
        for message in client.receive_messages(20):
            group, barrier = ThreadGroup(), threading.Barrier(2)

            def settle(way: str, message: ReceivedMessage = message, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                if way == "complete":
                    client.complete_message(message)
                else:
                    client.dead_letter_message(message, "why not")
                ways[way] += 1

            group.start(settle, "complete")
            group.start(settle, "dead-letter")
            group.join()
            assert [type(error) for error in group.errors] == [InvalidReceiptError]
    assert sum(ways.values()) == len(names)
    assert len(azsession_provider.dead_letters("q")) == ways["dead-letter"]


def test_a_loss_that_many_threads_find_is_reported_once(azsession_server: AzsessionServer) -> None:
    told: list[tuple[SessionClient, SessionNotFoundError]] = []
    group = ThreadGroup()
    with azsession_server.provider() as provider, azsession_server.provider() as other:
        client = provider.create_session_client("q", "s", on_lock_lost=lambda *about: told.append(about))
        client.receive_message(timeout=0)

        def until_lost(call: Callable[[], object]) -> None:
            while True:
                call()

        for _ in range(8):
            group.start(until_lost, client.renew_session_lock)
            group.start(until_lost, lambda: client.receive_message(timeout=300))
        eventually(lambda: len(pending_calls(client)) >= 8)
        # The client does not know about this release.
        core_of(other).transport.send(operations.release(holder_of(client).target()))
        group.join(20)
        assert [type(error) for error in group.errors] == [SessionNotFoundError] * 16
        assert [about[0] for about in told] == [client]
        assert client.is_lock_lost
        client.close()
    assert len(told) == 1


def test_a_client_that_is_refused_the_session_can_try_again(azsession_provider: ServiceBusProvider) -> None:
    _send(azsession_provider, [("s", "m")])
    first = azsession_provider.create_session_client("q", "s")
    second = azsession_provider.create_session_client("q", "s")
    assert first.receive_message(timeout=0) is not None
    group = ThreadGroup()
    for _ in range(8):
        group.start(second.receive_message, 0)
    group.join()
    assert [type(error) for error in group.errors] == [SessionLockedError] * 8
    first.close()
    assert second.receive_message(timeout=10) is not None
