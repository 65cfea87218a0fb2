"""Completions in the background: the end of a session, of the processor and of a process; few threads, and other servers."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from typing import Any

import pytest

from azsession import (
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)

from ..client.renewals import refuse
from ..conftest import eventually
from ..support.plain_server import PlainServer
from .front import Front, Reported, Sessions, fronted, processing
from .helpers import QUEUE, Gate, Seen, left, locked, send


def test_completions_are_confirmed_before_the_session_is_released(provider: ServiceBusProvider, front: Front) -> None:
    """Also if the session had its turn, or the processor stops."""
    free: list[int] = []
    seen = Seen()
    send(provider, "a", map(str, range(6)))
    with processing(
        front, seen, 10, max_messages_per_session=4, on_session_closed=lambda session: free.append(front.confirmed)
    ) as processor:
        eventually(lambda: processor.stats.messages_done == 6)
        eventually(lambda: len(free) == 2)
    assert free == [4, 6]


def test_a_processor_that_stops_confirms_what_it_has_handled(provider: ServiceBusProvider, front: Front) -> None:
    gate = Gate()
    seen = Seen(lambda message, session: message.text() == "3" and gate())
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 10) as processor:
        assert gate.reached.wait(30)
        stopping = threading.Thread(target=processor.stop)
        stopping.start()
        eventually(lambda: "stopping" in repr(processor))
        gate.opened.set()
        front.open_gate.set()
        stopping.join(30)
    assert processor.stats.messages_done == 3
    assert (left(provider), locked(provider)) == (1, [])


def test_an_exit_of_the_handler_loses_no_completion(provider: ServiceBusProvider, front: Front) -> None:
    def leave(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "3":
            raise KeyboardInterrupt

    send(provider, "a", ["1", "2", "3", "4"])
    options: dict[str, Any] = {"settle_in_background": 5, "on_error": lambda *_: None}
    with pytest.raises(KeyboardInterrupt):
        SessionProcessor(front.provider, QUEUE, leave, **options).run()
    assert front.confirmed == 2
    assert (left(provider), locked(provider)) == (2, [])


def test_a_message_that_was_delivered_before_is_confirmed_before_the_next_one(
    provider: ServiceBusProvider, front: Front
) -> None:
    confirmed: list[int] = []
    sessions, seen = Sessions(), Seen(lambda message, session: confirmed.append(front.confirmed))
    send(provider, "a", ["1", "2", "3"])
    with provider.create_session_client(QUEUE, "a") as session:
        message = session.receive_message(timeout=10)
        assert message is not None
        session.abandon_message(message)
    front.open_gate.clear()
    with processing(front, seen, 5, on_session_opened=sessions) as processor:
        eventually(lambda: front.waiting == 1 and (seen.count > 1 or sessions.has_waiter()))
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 3)
    assert confirmed[1] == 1


def test_a_handler_that_closes_its_session_loses_no_earlier_completion(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    reported = Reported()

    def close(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "3" and not reported.all:
            session.close_session()

    seen = Seen(close)
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 5, on_error=reported) as processor:
        eventually(lambda: seen.count == 3)
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 4)
    assert reported.texts == ["3"]
    assert seen.by_session["a"] == ["1", "2", "3", "3", "4"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_a_handler_forked_completes_its_message_itself(provider: ServiceBusProvider, front: Front) -> None:
    statuses: list[tuple[int, int]] = []

    def fork(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            eventually(lambda: front.waiting == 1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads.
                child = os.fork()
            if child == 0:
                return
            front.open_gate.set()
            try:
                eventually(lambda: statuses.append(os.waitpid(child, os.WNOHANG)) or statuses[-1][0] == child)
            finally:
                if statuses[-1][0] != child:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)

    parent = os.getpid()

    def end_child(session: SessionClient) -> None:
        if os.getpid() != parent:
            os._exit(0)  # The end of the interpreter could crash on libraries of other tests that do not allow for forks.

    send(provider, "a", ["1", "2", "3"])
    front.open_gate.clear()
    with processing(front, fork, 5, on_session_closed=end_child) as processor:
        eventually(lambda: processor.stats.messages_done == 3, seconds=60)
    assert statuses[-1][1] == 0
    assert left(provider) == 0


def test_each_session_is_handled_in_order_by_few_threads(provider: ServiceBusProvider) -> None:
    for number in range(20):
        send(provider, f"s{number}", map(str, range(12)))
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=4, settle_in_background=3) as processor:
        eventually(lambda: processor.stats.messages_done == 240)
        names = [thread.name for thread in threading.enumerate()]
    assert names.count("azsession-processor-settler") <= 4
    assert all(seen.by_session[f"s{number}"] == [str(each) for each in range(12)] for number in range(20))
    assert seen.most_of_one == 1
    assert (left(provider), locked(provider)) == (0, [])


def test_without_threads_the_slots_complete_the_messages(
    provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "azsession-processor-settler")
    seen = Seen()
    send(provider, "a", ["1", "2", "3"])
    with SessionProcessor(provider, QUEUE, seen, settle_in_background=3) as processor:
        eventually(lambda: processor.stats.messages_done == 3)
    assert seen.by_session["a"] == ["1", "2", "3"]


def test_a_server_of_the_plain_dialect_confirms_each_message_before_the_next_one_is_handled() -> None:
    """It cannot release a session, so that a failure would leave messages locked, and later ones would overtake them."""
    unconfirmed: list[int] = []
    with PlainServer() as server, fronted(server) as front:
        seen = Seen(lambda message, session: unconfirmed.append(len(server.left(QUEUE, "a"))))
        server.put(QUEUE, "a", *(str(number).encode() for number in range(20)))
        with processing(front, seen, 3, session_ids=["a"]) as processor:
            eventually(lambda: processor.stats.messages_done == 20)
    assert seen.by_session["a"] == [str(number) for number in range(20)]
    assert unconfirmed == list(range(20, 0, -1))


def test_a_failed_completion_on_a_server_of_the_plain_dialect_lets_no_message_overtake() -> None:
    def fail(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "1" and seen.count == 2:
            front.refuse = 1

    with PlainServer() as server, fronted(server) as front:
        seen = Seen(fail)
        server.put(QUEUE, "a", *(str(number).encode() for number in range(5)))
        with processing(front, seen, 3, session_ids=["a"], on_error=lambda *_: None):
            eventually(lambda: not server.left(QUEUE, "a"))
    assert seen.by_session["a"] == ["0", "1", "1", "2", "3", "4"]


def test_the_embedded_broker_of_the_same_process_is_served() -> None:
    seen = Seen()
    with ServiceBusProvider.embedded() as provider:
        send(provider, "a", map(str, range(30)))
        SessionProcessor(provider, QUEUE, seen, settle_in_background=4, until_empty=True).run()
        assert left(provider) == 0
    assert seen.by_session["a"] == [str(number) for number in range(30)]
