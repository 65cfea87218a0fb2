"""Purging in the embedded broker: bounded steps, repeated requests, and messages that arrive meanwhile."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from azsession import SessionLockedError
from azsession.broker.embedded import EmbeddedBroker

from .helpers import HandClock, messages, peek, receive, send


def test_a_repeated_request_returns_the_same_count(broker: EmbeddedBroker) -> None:
    broker.send("q", messages(*map(str, range(450)))).result()
    assert broker.purge("q", "s", "r1").result() == 450
    send(broker, "new")
    assert broker.purge("q", "s", "r1").result() == 450
    assert peek(broker) == ["new"]
    assert broker.purge("q", None, "r2").result() == 1


def test_two_attempts_of_one_request_share_its_count(broker: EmbeddedBroker) -> None:
    broker.send("q", messages(*map(str, range(900)))).result()
    attempts = [broker.purge("q", None, "r1") for _ in range(2)]
    assert [attempt.result() for attempt in attempts] == [900, 900]


def test_dead_letters_between_the_messages_stay(broker: EmbeddedBroker) -> None:
    broker.send("q", messages(*map(str, range(500)), session="x")).result()
    receive(broker, session="x", lock="L")
    assert broker.dead_letter_session("q", "x", "L", "bad", None).result() == 500
    broker.release("q", "x", "L").result()
    broker.send("q", messages("a", "b", session="y")).result()
    assert broker.purge("q", None).result() == 2
    assert broker.get_queue("q").result().dead_letter_count == 500


def test_an_expired_lock_does_not_prevent_a_purge(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    receive(broker, lock="L")
    with pytest.raises(SessionLockedError):
        broker.purge("q", "s").result()
    assert broker.purge("q", None).result() == 0
    clock.advance(31)
    assert broker.purge("q", "s").result() == 1


def test_a_signal_handler_can_purge_while_its_thread_begins_a_purge(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    nested: list[int] = []

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_name == "_progress_of" and event == "line" and len(nested) < 20:
            # Like a signal handler: it runs between two lines of the purge, in the same thread.
            sys.settrace(None)
            nested.append(broker.purge("q", "s").result())
            sys.settrace(trace)
        return trace

    def purge() -> None:
        sys.settrace(trace)
        try:
            broker.purge("q", "s", "r1").result()
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=purge, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert sum(nested) == 1
