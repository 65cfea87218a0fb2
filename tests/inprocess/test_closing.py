"""Many threads on an embedded provider, and closing it. `tests/concurrency` tests the same over a socket."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from azsession import (
    ConfigurationError,
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
)
from tests.conftest import eventually
from tests.support.closing import check_that_closing_ends_every_kind_of_call
from tests.support.internals import pending_calls
from tests.support.thread_group import ThreadGroup


def _send(provider: ServiceBusProvider, session_id: str, *bodies: str) -> None:
    provider.send_messages("q", [Message(body, session_id=session_id) for body in bodies])


def _waiting(*owners: Any) -> int:
    """Return the number of calls that wait in the broker."""
    calls = [call for owner in owners for call in pending_calls(owner)]
    return sum(call.in_flight is not None and call.in_flight._end_wait is not None for call in calls)


def test_closing_a_session_ends_the_receives_of_all_threads() -> None:
    with ServiceBusProvider.embedded() as provider:
        client = provider.create_session_client("q", "s")
        client.receive_message(timeout=0)
        group = ThreadGroup()
        for _ in range(8):
            group.start(client.receive_message, 300)
        eventually(lambda: _waiting(client) == 8)
        client.close_session()
        group.join()
        assert [type(error) for error in group.errors] == [SessionNotFoundError] * 8
        with provider.create_session_client("q", "s") as other:
            assert other.receive_message(timeout=0) is None


def test_a_receive_that_was_ended_by_closing_took_no_message() -> None:
    with ServiceBusProvider.embedded() as provider:
        for number in range(50):
            name, group = f"s{number}", ThreadGroup()
            got: list[ReceivedMessage] = []
            client = provider.create_session_client("q", name)
            client.receive_message(timeout=0)
            group.start(lambda client=client, got=got: got.append(client.receive_message(300)))
            eventually(lambda client=client: _waiting(client) == 1)
            group.start(client.close_session)
            group.start(_send, provider, name, "m")
            group.join()
            with provider.create_session_client("q", name) as other:
                message = other.receive_message(timeout=5)
                assert message is not None
                other.complete_message(message)
            assert {type(error) for error in group.errors} <= {SessionNotFoundError}


def test_closing_the_provider_ends_every_kind_of_call() -> None:
    provider = ServiceBusProvider.embedded()
    check_that_closing_ends_every_kind_of_call(provider, lambda held: _waiting(held) >= 1 and _waiting(provider) == 1)


def test_many_threads_can_close_a_provider_at_once() -> None:
    for _ in range(10):
        provider, group = ServiceBusProvider.embedded(), ThreadGroup()
        clients = [provider.create_session_client("q", f"s{number}") for number in range(4)]
        for client in clients:
            client.receive_message(timeout=0)
        for close in [provider.close, *(client.close for client in clients)] * 3:
            group.start(close)
        group.join()
        # A later call may find the broker closed. No call may hang.
        assert group.errors == []


def test_a_message_sent_during_closing_is_either_stored_or_refused(tmp_path: Any) -> None:
    path, sent = tmp_path / "data.db", Counter[str]()
    provider, group = ServiceBusProvider.embedded(path), ThreadGroup()
    refused: list[ConfigurationError] = []

    def send(number: int) -> None:
        for count in range(10_000):
            try:
                _send(provider, f"s{number}", f"{number}:{count}")
            except ConfigurationError as error:
                refused.append(error)
                return
            sent[f"{number}:{count}"] += 1

    for number in range(4):
        group.start(send, number)
    eventually(lambda: len(sent) > 50)
    provider.close()
    group.join()
    assert group.errors == []
    assert len(refused) == 4
    with ServiceBusProvider.embedded(path) as again:
        kept = [m.text() for number in range(4) for m in again.peek_messages("q", f"s{number}", 1000)]
    assert Counter(kept) == sent


def test_32_threads_receive_each_message_of_a_session_once() -> None:
    with ServiceBusProvider.embedded() as provider:
        names = [f"m{number}" for number in range(300)]
        _send(provider, "s", *names)
        client = provider.create_session_client("q", "s")
        done, group = Counter[str](), ThreadGroup()

        def work(seed: int) -> None:
            chance = random.Random(seed)
            while True:
                messages = client.receive_messages(chance.randint(1, 4), timeout=0)
                if not messages:
                    return
                client.renew_session_lock()
                for message in messages:
                    client.complete_message(message)
                    done[message.text()] += 1

        for seed in range(32):
            group.start(work, seed)
        group.join()
        assert group.errors == []
        assert done == Counter(names)
        client.close()


def test_a_waiting_receive_returns_a_message_that_another_thread_sends() -> None:
    with ServiceBusProvider.embedded() as provider:
        client = provider.create_session_client("q", "s")
        got: list[ReceivedMessage | None] = []
        group = ThreadGroup()
        group.start(lambda: got.append(client.receive_message(timeout=60)))
        eventually(lambda: _waiting(client) == 1)
        _send(provider, "s", "m")
        group.join()
        assert [message.text() for message in got if message is not None] == ["m"]
        client.close()


def test_a_lock_is_renewed_in_the_background() -> None:
    with ServiceBusProvider.embedded() as provider:
        provider.create_queue("q", _settings(lock_duration=4))
        with provider.create_session_client("q", "s") as client:
            client.receive_message(timeout=0)
            began = client.session_expires_at
            eventually(lambda: client.session_expires_at > began)
            other = provider.create_session_client("q", "s")
            with pytest.raises(SessionLockedError):
                other.receive_message(timeout=0)
            other.close()


def test_the_loss_of_a_lock_that_is_not_renewed_is_reported() -> None:
    told: list[tuple[SessionClient, SessionNotFoundError]] = []
    with ServiceBusProvider.embedded() as provider:
        provider.create_queue("q", _settings(lock_duration=1))
        client = provider.create_session_client("q", "s", auto_renew=False, on_lock_lost=lambda *about: told.append(about))
        client.receive_message(timeout=0)
        eventually(lambda: told)
        with pytest.raises(SessionNotFoundError):
            client.receive_message(timeout=0)
        assert [about[0] for about in told] == [client]


def _settings(**fields: Any) -> Any:
    from azsession import QueueSettings

    return QueueSettings(**fields)


def test_a_client_works_on_after_an_interrupt_ended_its_receive() -> None:
    script = """
import threading, time
from azsession import *
from azsession.client.session import holder_of
with ServiceBusProvider.embedded() as provider, provider.create_session_client("q", "s") as client:
    def tell():
        while not any(c.in_flight and c.in_flight._end_wait for c in list(holder_of(client).pending._calls)):
            time.sleep(0.005)
        print("waiting", flush=True)
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        client.receive_message(timeout=300)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    teller.join()
    provider.send_message("q", Message("1", session_id="s"))
    message = client.receive_message(timeout=20)
    client.complete_message(message)
    print(message.text(), flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=40) == ("interrupted\n1\n", "")
        assert process.returncode == 0


def test_a_signal_handler_can_close_the_provider_during_a_receive() -> None:
    script = """
import os, signal, threading, time
from azsession import *
from azsession.client.session import holder_of
provider = ServiceBusProvider.embedded()
client = provider.create_session_client("q", "s")
signal.signal(signal.SIGTERM, lambda *_: provider.close())
def tell():
    while not any(c.in_flight and c.in_flight._end_wait for c in list(holder_of(client).pending._calls)):
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=tell).start()
began = time.monotonic()
try:
    client.receive_message(timeout=300)
except SessionNotFoundError:
    print("closed", time.monotonic() - began < 40)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed True\n", "")
