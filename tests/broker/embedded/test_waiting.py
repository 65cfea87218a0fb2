"""Waiting receives and accepts: who is woken, by what, and what becomes of a wait whose caller is gone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from azsession import ProviderError, QueueNotFoundError, SessionLockedError, SessionNotFoundError, ThrottledError
from azsession.broker.base import AcceptRequest, CallContext, ReceiveRequest, WaitingSlots
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.broker_thread import BrokerThread
from azsession.broker.embedded.group_commit import Transaction
from azsession.queues import QueueSettings
from tests.conftest import eventually

from . import ABANDON, COMPLETE, Background, HandClock, accept, bodies, messages, peek, receive, send, settle


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(queues=["q"]) as made:
        yield made


def receivers(broker: EmbeddedBroker) -> int:
    return sum(len(lock.waiters) for lock in broker._core.locks)


def acceptors(broker: EmbeddedBroker) -> int:
    return len(list(broker._core.queues["q"].acceptors))


def waiting_receive(broker: EmbeddedBroker, lock: str = "A", **fields: Any) -> Background[list[str]]:
    before = receivers(broker)
    call = Background(lambda: bodies(receive(broker, lock, timeout=600, **fields)))
    eventually(lambda: receivers(broker) > before)
    return call


def waiting_accept(broker: EmbeddedBroker, lock: str, request_id: str = "") -> Background[str | None]:
    before = acceptors(broker)
    call = Background(lambda: accept(broker, lock, timeout=600, request_id=request_id))
    eventually(lambda: acceptors(broker) > before)
    return call


class Hold:
    """Keeps the broker's turn until `let_go`, so that what comes meanwhile shares one transaction."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._held, self._free = threading.Event(), threading.Event()
        self._job = Background(lambda: broker._core.commits.run(self._wait, durable=False))
        assert self._held.wait(10)

    def _wait(self, tx: Transaction) -> None:
        self._held.set()
        assert self._free.wait(10)

    def queue(self, call: Callable[[], Any]) -> Background[Any]:
        before = len(self._broker._core.commits._queue)
        job = Background(call)
        eventually(lambda: len(self._broker._core.commits._queue) > before)
        return job

    def let_go(self) -> None:
        self._free.set()
        self._job.result()


def test_a_send_wakes_a_waiting_receive(broker: EmbeddedBroker) -> None:
    waiting = waiting_receive(broker)
    send(broker, "of another", session="other")
    assert receivers(broker) == 1
    send(broker, "a")
    assert waiting.result() == ["a"]


def test_a_send_wakes_a_waiting_accept(broker: EmbeddedBroker) -> None:
    waiting = waiting_accept(broker, "A")
    send(broker, "a")
    assert waiting.result() == "s"
    with pytest.raises(SessionLockedError):
        receive(broker, "B")


def test_one_session_wakes_one_acceptor_the_first(broker: EmbeddedBroker) -> None:
    first, second = waiting_accept(broker, "A"), waiting_accept(broker, "B")
    attempts: list[str] = []
    broker._core.connection.set_trace_callback(lambda sql: attempts.append(sql) if "ORDER BY head" in sql else None)
    send(broker, "1", "2", "3", session="x")
    assert first.result() == "x"
    assert acceptors(broker) == 1
    assert len(attempts) == 1, "the second was woken for nothing"
    send(broker, "4", session="y")
    assert second.result() == "y"


def test_two_sessions_in_one_send_wake_two_acceptors(broker: EmbeddedBroker) -> None:
    waiting = [waiting_accept(broker, lock) for lock in "AB"]
    broker.send("q", [*messages("1", session="x"), *messages("2", session="y")]).result()
    assert sorted(str(one.result()) for one in waiting) == ["x", "y"]


def test_a_release_wakes_a_waiting_accept(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    receive(broker, "A")
    waiting = waiting_accept(broker, "B")
    broker.release("q", "s", "A").result()
    assert waiting.result() == "s"


def test_a_lock_that_expires_wakes_a_waiting_accept_on_time() -> None:
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings(lock_duration=1)).result()
        send(broker, "a")
        receive(broker, "A")
        assert waiting_accept(broker, "B").result() == "s"


def test_a_time_beyond_the_longest_possible_wait_does_not_end_the_broker_thread() -> None:
    acted = threading.Event()
    thread = BrokerThread(lambda: None, acted.set, Clock())
    # For example, a message may live as long as Azure can count.
    thread.act_at(922337203685.0)
    eventually(lambda: thread._changed._waiters)  # type: ignore[attr-defined]
    thread.act_at(0.0)
    assert acted.wait(10)
    thread.stop()


def test_a_scheduled_message_wakes_a_waiting_receive_on_time(broker: EmbeddedBroker) -> None:
    waiting = waiting_receive(broker)
    send(broker, "a", scheduled_enqueue_time=datetime.now(timezone.utc) + timedelta(seconds=0.3))
    assert waiting.result() == ["a"]


def test_a_resubmitted_dead_letter_wakes_a_waiting_receive(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    receive(broker, "A")
    broker.dead_letter_session("q", "s", "A", "why", None).result()
    waiting = waiting_receive(broker)
    broker.resubmit("q", broker.dead_letters("q", 0, 1).result()[0].sequence_number or 0).result()
    assert waiting.result() == ["a"]


def test_an_abandoned_message_wakes_another_receive_of_its_holder(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    waiting = waiting_receive(broker)
    settle(broker, ABANDON, message)
    assert waiting.result() == ["a"]


def test_a_receive_that_waits_when_its_lock_is_released_is_told(broker: EmbeddedBroker) -> None:
    waiting = waiting_receive(broker)
    broker.release("q", "s", "A").result()
    with pytest.raises(SessionNotFoundError):
        waiting.result()


def test_a_receive_that_waits_when_its_queue_is_deleted_is_told(broker: EmbeddedBroker) -> None:
    calls = [waiting_receive(broker), waiting_accept(broker, "B")]
    broker.delete_queue("q").result()
    for call in calls:
        with pytest.raises(QueueNotFoundError):
            call.result()


def test_a_wait_ends_when_its_time_is_over(broker: EmbeddedBroker) -> None:
    assert receive(broker, timeout=0.05) == []
    assert accept(broker, "B", timeout=0.05) is None
    assert receivers(broker) == acceptors(broker) == 0


# Callers that go away


def waiting_future(broker: EmbeddedBroker, kind: str) -> Future[Any]:
    """Start a receive or accept that waits, as the gateway does: without a thread of its own."""
    context = CallContext(blocking=False)
    before = receivers(broker) + acceptors(broker)
    future: Future[Any]
    if kind == "receive":
        future = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=context)
    else:
        future = broker.accept(AcceptRequest("q", None, "A", timeout=600), context=context)
    eventually(lambda: receivers(broker) + acceptors(broker) > before)
    return future


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
    future = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=CallContext(blocking=False))
    assert future.cancel()
    hold.let_go()
    (delivered,) = broker.receive(ReceiveRequest("q", "s", "B", max_count=1, timeout=0)).result().messages
    assert delivered.delivery_count == 1


def test_a_receive_that_has_its_message_cannot_be_cancelled(broker: EmbeddedBroker) -> None:
    future = waiting_future(broker, "receive")
    send(broker, "a")
    assert bodies(future.result(10).messages) == ["a"]
    assert not future.cancel()


def test_a_cancelled_accept_passes_the_session_on(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "accept")
    other = waiting_accept(broker, "B")
    assert gone.cancel()
    send(broker, "a")
    assert other.result() == "s"


def test_a_session_for_an_accept_that_is_cancelled_meanwhile_goes_to_the_next(broker: EmbeddedBroker) -> None:
    gone = waiting_future(broker, "accept")
    other = waiting_accept(broker, "B")
    hold = Hold(broker)
    sent = hold.queue(lambda: send(broker, "a"))
    assert gone.cancel()
    hold.let_go()
    sent.result()
    assert other.result() == "s"


def test_500_waiting_receives_have_no_threads(broker: EmbeddedBroker) -> None:
    before = threading.active_count()
    futures = [
        broker.receive(ReceiveRequest("q", f"s{number}", "A", max_count=1, timeout=600), context=CallContext(blocking=False))
        for number in range(500)
    ]
    eventually(lambda: receivers(broker) == 500)
    assert threading.active_count() <= before + 1
    broker.send("q", [message for number in range(500) for message in messages("a", session=f"s{number}")]).result()
    assert [bodies(future.result(10).messages) for future in futures] == [["a"]] * 500


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


# Calls that are tried again


def test_a_receive_tried_again_ends_its_first_attempt(broker: EmbeddedBroker) -> None:
    first = waiting_receive(broker, request_id="r1")
    again = Background(lambda: bodies(receive(broker, "A", timeout=600, request_id="r1")))
    # One whose caller is there after all must come once more, and then gets what the other was given.
    with pytest.raises(ProviderError, match="another attempt") as caught:
        first.result()
    assert (caught.value.code, caught.value.is_transient) == ("ServerBusy", True)
    eventually(lambda: receivers(broker) == 1)
    send(broker, "a")
    assert again.result() == ["a"]
    assert bodies(receive(broker, "A", request_id="r1")) == ["a"]


def test_a_receive_whose_messages_are_settled_does_not_wait_for_later_ones(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    settle(broker, COMPLETE, *receive(broker, "A", request_id="r1"))
    assert bodies(receive(broker, "A", timeout=600, request_id="r1")) == []
    assert bodies(receive(broker, "A", request_id="r2")) == ["b"]


def test_receives_with_other_request_ids_do_not_end_each_other(broker: EmbeddedBroker) -> None:
    calls = [waiting_receive(broker, request_id="r1"), waiting_receive(broker, request_id="r2"), waiting_receive(broker)]
    send(broker, "a", "b", "c")
    assert sorted(body for call in calls for body in call.result()) == ["a", "b", "c"]


def test_an_accept_tried_again_ends_its_first_attempt(broker: EmbeddedBroker) -> None:
    first = waiting_accept(broker, "A", "r1")
    again = Background(lambda: accept(broker, "A", timeout=600, request_id="r1"))
    assert first.result() is None
    eventually(lambda: acceptors(broker) == 1)
    send(broker, "a")
    assert again.result() == "s"


def test_the_first_attempt_of_an_accept_does_not_use_up_a_session_meant_for_another(broker: EmbeddedBroker) -> None:
    other, first = waiting_accept(broker, "B"), waiting_accept(broker, "A", "r1")
    hold = Hold(broker)
    sent = hold.queue(lambda: send(broker, "1", session="x"))
    again = hold.queue(lambda: accept(broker, "A", timeout=600, request_id="r1"))
    hold.let_go()
    sent.result()
    assert again.result() == "x"
    assert first.result() is None
    send(broker, "2", session="y")
    assert other.result() == "y"


# Ends


def test_stop_waiting_ends_all_waits_and_lets_none_begin(broker: EmbeddedBroker) -> None:
    receives = [waiting_receive(broker, f"lock {number}", session=f"s{number}") for number in range(5)]
    accepts = [waiting_accept(broker, f"acceptor {number}") for number in range(5)]
    broker.stop_waiting()
    assert [one.result() for one in receives] == [[]] * 5
    assert [one.result() for one in accepts] == [None] * 5
    assert receive(broker, "Z", timeout=600) == []
    assert accept(broker, "Z", timeout=600) is None


def test_what_is_there_is_still_received_after_stop_waiting(broker: EmbeddedBroker) -> None:
    broker.stop_waiting()
    send(broker, "a")
    assert accept(broker, "A") == "s"
    (message,) = receive(broker, "A", timeout=600)
    assert settle(broker, COMPLETE, message) == [None]


def test_closing_ends_all_waits() -> None:
    broker = EmbeddedBroker(queues=["q"])
    calls = [waiting_receive(broker), waiting_accept(broker, "B")]
    broker.close()
    for call in calls:
        with pytest.raises(ProviderError, match="closed"):
            call.result()


@pytest.mark.parametrize("what", ["receive", "accept"])
def test_ctrl_c_in_a_wait_leaves_nobody_waiting(broker: EmbeddedBroker, what: str) -> None:
    count = receivers if what == "receive" else acceptors

    def interrupt() -> None:
        eventually(lambda: count(broker) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            receive(broker, "A", timeout=60) if what == "receive" else accept(broker, "A", timeout=60)
        interrupter.result()
    finally:
        signal.signal(signal.SIGINT, before)
    eventually(lambda: count(broker) == 0)
    send(broker, "a")
    assert peek(broker) == ["a"]


def test_a_wait_that_ends_in_a_failure_does_not_hold_the_lock_for_ever(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("statements", [1, 30])
def test_an_accept_that_fails_when_woken_passes_the_session_on(broker: EmbeddedBroker, statements: int) -> None:
    failing, other = waiting_accept(broker, "A"), waiting_accept(broker, "B")
    connection = broker._core.connection

    def fail_once() -> int:
        connection.set_progress_handler(None, 0)
        return 1

    def arm(tx: Transaction) -> None:
        # What the woken accept runs next is interrupted, at its beginning or later, as by a failing disk.
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


def test_a_receive_that_fails_before_its_turn_does_not_hold_the_lock_for_ever() -> None:
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
        assert receivers(broker) == 0
        clock.advance(100)
        assert bodies(receive(broker, "B")) == ["a"]
