"""Receives and accepts that end early: cancelled futures, interrupted threads, failing disks, and refused waits."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from azsession import ProviderError, SessionLockedError, ThrottledError
from azsession.broker.calls import AcceptRequest, CallContext, ReceiveRequest, WaitingSlots
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.jobs import Transaction
from azsession.broker.embedded.session_locks import Waiter
from tests.conftest import eventually

from .helpers import (
    NO_WAIT,
    Background,
    HandClock,
    Hold,
    accept,
    acceptors,
    bodies,
    messages,
    peek,
    receive,
    receivers,
    send,
    waiting_accept,
    waiting_future,
    waiting_receive,
)


@pytest.fixture
def clock() -> Clock:
    """These tests wait for real time to pass."""
    return Clock()


# Cancelled futures


def test_a_cancelled_receive_takes_no_message(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "receive")
    other = waiting_receive(broker)
    assert gone.cancel()
    send(broker, "a")
    assert other.result() == ["a"]
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()] == [1]


def test_a_receive_that_is_cancelled_while_its_message_is_sent_takes_no_message(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "receive")
    hold = Hold(broker)
    sent = hold.queue(lambda: send(broker, "a"))
    assert gone.cancel()
    hold.let_go()
    sent.result()
    (delivered,) = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=0)).result().messages
    assert delivered.delivery_count == 1


def test_a_receive_that_is_cancelled_before_it_runs_takes_neither_lock_nor_message(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    hold = Hold(broker)
    future = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=NO_WAIT)
    assert future.cancel()
    hold.let_go()
    (delivered,) = broker.receive(ReceiveRequest("q", "s", "B", max_count=1, timeout=0)).result().messages
    assert delivered.delivery_count == 1


def test_a_receive_that_has_its_message_cannot_be_cancelled(broker: EmbeddedBroker) -> None:
    future = waiting_future(broker, "receive")
    send(broker, "a")
    assert bodies(future.result(10).messages) == ["a"]
    assert not future.cancel()


def test_a_cancelled_accept_leaves_the_session_to_the_next_accept(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "accept")
    other = waiting_accept(broker, "B")
    assert gone.cancel()
    send(broker, "a")
    assert other.result() == "s"


def test_a_woken_accept_that_is_cancelled_leaves_the_session_to_the_next_accept(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "accept")
    other = waiting_accept(broker, "B")
    hold = Hold(broker)
    sent = hold.queue(lambda: send(broker, "a"))
    assert gone.cancel()
    hold.let_go()
    sent.result()
    assert other.result() == "s"


# No free slot


def test_a_wait_without_a_free_slot_is_refused_and_takes_no_lock(broker: EmbeddedBroker) -> None:
    context = CallContext(blocking=False, slots=WaitingSlots(1))
    waiting = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=context)
    eventually(lambda: receivers(broker) == 1)
    with pytest.raises(ThrottledError):
        broker.receive(ReceiveRequest("q", "t", "B", max_count=1, timeout=600), context=context).result(10)
    with pytest.raises(ThrottledError):
        broker.accept(AcceptRequest("q", None, "B", timeout=600), context=context).result(10)
    assert receive(broker, "C", session="t") == []
    assert waiting.cancel()
    again = broker.receive(ReceiveRequest("q", "u", "D", max_count=1, timeout=600), context=context)
    eventually(lambda: receivers(broker) == 1)
    send(broker, "a", session="u")
    assert bodies(again.result(10).messages) == ["a"]


# Interrupts and failures


@pytest.mark.parametrize("kind", ["receive", "accept"])
def test_an_interrupted_wait_leaves_no_waiter_behind(broker: EmbeddedBroker, kind: str) -> None:
    count = receivers if kind == "receive" else acceptors

    def interrupt() -> None:
        eventually(lambda: count(broker) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            receive(broker, "A", timeout=60) if kind == "receive" else accept(broker, "A", timeout=60)
        interrupter.result()
    finally:
        signal.signal(signal.SIGINT, before)
    eventually(lambda: count(broker) == 0)
    send(broker, "a")
    assert peek(broker) == ["a"]


def test_a_lock_expires_after_the_wait_in_it_failed(tmp_path: Path) -> None:
    clock = HandClock()
    with EmbeddedBroker(tmp_path / "data.db", queues=["q"], clock=clock) as broker:
        waiting = waiting_receive(broker)
        clock.advance(100)
        with pytest.raises(SessionLockedError):
            receive(broker, "B")
        run = broker._core.connection.execute

        def refuse_writes(tx: Transaction) -> None:
            tx.after_commit(lambda: run("PRAGMA query_only=ON"))

        hold = Hold(broker)
        sent = hold.queue(lambda: send(broker, "a"))
        refusing = hold.queue(lambda: broker._core.perform(refuse_writes))
        hold.let_go()
        sent.result()
        refusing.result()
        with pytest.raises(ProviderError, match="cannot be written"):
            waiting.result()
        run("PRAGMA query_only=OFF")
        clock.advance(100)
        assert bodies(receive(broker, "B")) == ["a"]


def test_a_lock_expires_after_the_wait_in_it_failed_before_it_ran() -> None:
    clock = HandClock()
    with EmbeddedBroker(queues=["q"], clock=clock) as broker:
        waiting = waiting_receive(broker)
        connection = broker._core.connection

        def fail_once() -> int:
            connection.set_progress_handler(None, 0)
            return 1

        hold = Hold(broker)
        sent = hold.queue(lambda: send(broker, "a"))
        armed = hold.queue(
            lambda: broker._core.perform(lambda tx: tx.after_commit(lambda: connection.set_progress_handler(fail_once, 1)))
        )
        hold.let_go()
        sent.result()
        armed.result()
        with pytest.raises(ProviderError):
            waiting.result()
        eventually(lambda: receivers(broker) == 0)
        clock.advance(100)
        assert bodies(receive(broker, "B")) == ["a"]


@pytest.mark.parametrize("statements", [1, 30])
def test_a_woken_accept_that_fails_leaves_the_session_to_the_next_accept(broker: EmbeddedBroker, statements: int) -> None:
    failing, other = waiting_accept(broker, "A"), waiting_accept(broker, "B")
    connection = broker._core.connection

    def fail_once() -> int:
        connection.set_progress_handler(None, 0)
        return 1

    def arm(tx: Transaction) -> None:
        # A statement of the woken accept fails, the first one or a later one, as on a failing disk.
        tx.after_commit(lambda: connection.set_progress_handler(fail_once, statements))

    hold = Hold(broker)
    calls = [hold.queue(lambda: send(broker, "a")), hold.queue(lambda: broker._core.perform(arm))]
    hold.let_go()
    for call in calls:
        call.result()
    with pytest.raises(ProviderError):
        failing.result()
    assert other.result() == "s"
    assert acceptors(broker) == 0


# The lock of a withdrawn receive


def test_a_withdrawn_receive_gives_back_the_lock_that_only_it_had_taken(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "receive")
    assert gone.cancel()
    assert receive(broker, "B") == []
    broker.release("q", "s", "B").result()
    # The lock id is not lost: its caller never heard that it had the session.
    assert receive(broker, "A") == []


def test_a_withdrawn_receive_keeps_a_lock_that_its_holder_knows_of(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "receive")
    broker.renew("q", "s", "A").result()
    assert gone.cancel()
    with pytest.raises(SessionLockedError):
        receive(broker, "B")


def test_an_accept_gets_the_session_of_a_withdrawn_receive(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "receive")
    hold = Hold(broker)
    sent = hold.queue(lambda: send(broker, "a"))
    waiting = hold.queue(lambda: accept(broker, "B", timeout=600))
    assert gone.cancel()
    hold.let_go()
    sent.result()
    assert waiting.result() == "s"


@pytest.mark.parametrize("kind", ["receive", "accept"])
def test_an_operation_that_is_cancelled_while_it_begins_to_wait_leaves_no_waiter_behind(
    broker: EmbeddedBroker, kind: str
) -> None:
    wait = broker._core.due.wait

    def cancel_first(tx: Transaction, waiter: Waiter) -> None:
        assert waiter.job is not None
        assert waiter.job.future.cancel()
        wait(tx, waiter)

    broker._core.due.wait = cancel_first  # type: ignore[method-assign]
    if kind == "receive":
        future: Future[Any] = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=NO_WAIT)
    else:
        future = broker.accept(AcceptRequest("q", None, "A", timeout=600), context=NO_WAIT)
    eventually(future.cancelled)
    eventually(lambda: receivers(broker) + acceptors(broker) == 0)
    assert receive(broker, "B") == []


# Operations that do not wait


def test_a_send_that_is_cancelled_while_it_is_queued_stores_nothing(broker: EmbeddedBroker) -> None:
    hold = Hold(broker)
    future = broker.send("q", messages("a"), context=NO_WAIT)
    assert future.cancel()
    hold.let_go()
    assert peek(broker) == []


def test_a_wait_takes_one_slot_although_its_transaction_is_repeated(broker: EmbeddedBroker) -> None:
    slots = WaitingSlots(2)
    context = CallContext(blocking=False, slots=slots)

    def fail(tx: Transaction) -> None:
        raise ZeroDivisionError

    hold = Hold(broker)
    first = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=context)
    failing = hold.queue(lambda: broker._core.perform(fail))
    hold.let_go()
    with pytest.raises(ZeroDivisionError):
        failing.result()
    second = broker.receive(ReceiveRequest("q", "t", "B", max_count=1, timeout=600), context=context)
    eventually(lambda: receivers(broker) == 2)
    assert first.cancel()
    assert second.cancel()
    # Each slot was released once: the semaphore raises an error if one is released twice.
    assert slots._free.acquire(blocking=False)
    assert slots._free.acquire(blocking=False)
    assert not slots._free.acquire(blocking=False)
