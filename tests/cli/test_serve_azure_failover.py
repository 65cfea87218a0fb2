"""Shutdown and failover of `azsession serve` in front of an Azure namespace, which azsession's own AMQP endpoint serves."""

from __future__ import annotations

import json
import signal
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from azsession import (
    InvalidReceiptError,
    Message,
    NoSessionAvailableError,
    QueueError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
)

from ..conftest import eventually
from ..namespaces import OwnNamespace
from ..support.processes import PATIENCE, Served
from .conftest import QUEUE


def _provider(connection_string: str, **fields: Any) -> ServiceBusProvider:
    return ServiceBusProvider.from_connection_string(connection_string, **fields)


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=10)
    assert message is not None
    return message


def test_a_signal_answers_waiting_receives_and_releases_the_locks(
    namespace: OwnNamespace, serve: Callable[..., Served]
) -> None:
    served = serve()
    got: list[object] = []
    with _provider(served.line, retry_attempts=0) as provider, ThreadPoolExecutor(2) as pool:
        session = provider.create_session_client(QUEUE, "s1", auto_renew=False)

        def accept() -> None:
            with pytest.raises(NoSessionAvailableError):
                provider.create_session_client(QUEUE, accept_timeout=60)

        receiving = pool.submit(session.receive_message, timeout=60)
        accepting = pool.submit(accept)
        eventually(lambda: namespace.locked_sessions(QUEUE) == {"s1"} and namespace.waiting_accepts(QUEUE) == 1)
        served.process.send_signal(signal.SIGTERM)
        status, out, err = served.wait()
        got.append(receiving.result(PATIENCE))
        accepting.result(PATIENCE)
        with pytest.raises(QueueError):
            session.renew_session_lock()
    assert (status, out, got) == (0, "", [None])
    assert "Traceback" not in err
    assert namespace.locked_sessions(QUEUE) == set()


class Workers:
    """Threads that handle webhooks session by session and record each message that they received and completed."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._lock = threading.Lock()  # Guards the lists.
        self.received: list[tuple[str, int]] = []
        self.completed: list[tuple[str, int]] = []
        self.ended = threading.Event()

    def work(self) -> None:
        while not self.ended.is_set():
            with _provider(self._lines[-1], retry_attempts=1) as provider:
                self._work_with(provider)

    def _work_with(self, provider: ServiceBusProvider) -> None:
        try:
            while not self.ended.is_set():
                with provider.create_session_client(QUEUE, accept_timeout=0.5) as session:
                    for message in session.messages(timeout=0, prefetch=3):
                        event = message.json()
                        place = (event["session_id"], event["position"])
                        with self._lock:
                            self.received.append(place)
                        session.complete_message(message)
                        with self._lock:
                            self.completed.append(place)
        except (NoSessionAvailableError, SessionNotFoundError, SessionLockedError, InvalidReceiptError):
            pass
        except QueueError as error:
            if not error.is_transient:
                raise
            self.ended.wait(0.05)


def test_a_second_gateway_continues_the_sessions_of_a_killed_gateway(
    namespace: OwnNamespace, serve: Callable[..., Served], webhooks: list[dict[str, Any]]
) -> None:
    first, second = serve(), serve()
    with _provider(second.line) as provider:
        provider.send_messages(QUEUE, [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks])
    workers = Workers([first.line])
    with ThreadPoolExecutor(8) as pool:
        working = [pool.submit(workers.work) for _ in range(8)]
        try:
            eventually(lambda: len(workers.completed) >= 100, seconds=60)
            first.process.kill()
            first.wait()
            workers._lines.append(second.line)
            eventually(lambda: namespace.counts(QUEUE).active == 0, lambda: str(namespace.counts(QUEUE)), seconds=60)
        finally:
            workers.ended.set()
        for each in working:
            each.result(PATIENCE)

    # Nothing is lost or completed twice. Only messages that were unsettled at the kill are redelivered.
    done = namespace.completed(QUEUE)
    assert len(done) == len(webhooks) == len({entry[1] for entry in done})
    assert namespace.counts(QUEUE).dead_letter == 0
    by_session = defaultdict(list)
    for session_id, position in dict.fromkeys(workers.received):
        by_session[session_id].append(position)
    expected = defaultdict(list)
    for event in webhooks:
        expected[event["session_id"]].append(event["position"])
    assert by_session == expected
    assert len(workers.completed) == len(set(workers.completed))
    again = len(workers.received) - len(set(workers.received))
    assert again <= 8 * 3
    numbers = defaultdict(list)
    for entry in done:
        numbers[entry[0]].append(entry[1])
    assert all(order == sorted(order) for order in numbers.values())


def test_the_sessions_of_a_killed_gateway_are_free_at_once(namespace: OwnNamespace, serve: Callable[..., Served]) -> None:
    first, second = serve(), serve()
    with _provider(first.line, retry_attempts=0) as one, _provider(second.line) as other:
        one.send_messages(QUEUE, [Message(text, session_id="s1") for text in "ab"])
        held = one.create_session_client(QUEUE, "s1", auto_renew=False)
        delivered = take(held)
        with pytest.raises(SessionLockedError), other.create_session_client(QUEUE, "s1") as refused:
            refused.receive_message(timeout=0)
        first.process.kill()
        first.wait()
        eventually(lambda: namespace.locked_sessions(QUEUE) == set())
        with other.create_session_client(QUEUE, "s1") as session:
            again = take(session)
            assert (again.text(), again.message_id) == ("a", delivered.message_id)
            # The receipt of the first delivery is invalid.
            with pytest.raises(InvalidReceiptError):
                other.session_from_receipt(delivered.receipt).complete_message(delivered.receipt)
            session.complete_message(again)
            assert take(session).text() == "b"
        with pytest.raises(QueueError):
            held.complete_message(delivered)
        held.close_session()
