"""Receives and accepts that wait: which changes wake them, and how their waits end."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest

from azsession import ProviderError, QueueNotFoundError, SessionLockedError, SessionNotFoundError
from azsession.broker.calls import ReceiveRequest
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    ABANDON,
    COMPLETE,
    NO_WAIT,
    Background,
    Hold,
    accept,
    acceptors,
    bodies,
    messages,
    receive,
    receivers,
    send,
    settle,
    waiting_accept,
    waiting_receive,
)


@pytest.fixture
def clock() -> Clock:
    """These tests wait for real time to pass."""
    return Clock()


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


def test_one_new_session_wakes_the_accept_that_waits_longest(broker: EmbeddedBroker) -> None:
    first, second = waiting_accept(broker, "A"), waiting_accept(broker, "B")
    attempts: list[str] = []
    broker._core.connection.set_trace_callback(lambda sql: attempts.append(sql) if "ORDER BY head" in sql else None)
    send(broker, "1", "2", "3", session="x")
    assert first.result() == "x"
    assert acceptors(broker) == 1
    assert len(attempts) == 1, "the second accept was woken too"
    send(broker, "4", session="y")
    assert second.result() == "y"


def test_two_new_sessions_in_one_send_wake_two_accepts(broker: EmbeddedBroker) -> None:
    waiting = [waiting_accept(broker, lock) for lock in "AB"]
    broker.send("q", [*messages("1", session="x"), *messages("2", session="y")]).result()
    assert sorted(str(one.result()) for one in waiting) == ["x", "y"]


def test_a_release_wakes_a_waiting_accept(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    receive(broker, "A")
    waiting = waiting_accept(broker, "B")
    broker.release("q", "s", "A").result()
    assert waiting.result() == "s"


def test_a_lock_that_expires_wakes_a_waiting_accept() -> None:
    with EmbeddedBroker() as broker:
        broker.create_queue("q", QueueSettings(lock_duration=1)).result()
        send(broker, "a")
        receive(broker, "A")
        assert waiting_accept(broker, "B").result() == "s"


def test_a_scheduled_message_wakes_a_waiting_receive(broker: EmbeddedBroker) -> None:
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


def test_a_waiting_receive_fails_when_its_lock_is_released(broker: EmbeddedBroker) -> None:
    waiting = waiting_receive(broker)
    broker.release("q", "s", "A").result()
    with pytest.raises(SessionNotFoundError):
        waiting.result()


def test_waiting_operations_fail_when_their_queue_is_deleted(broker: EmbeddedBroker) -> None:
    calls = [waiting_receive(broker), waiting_accept(broker, "B")]
    broker.delete_queue("q").result()
    for call in calls:
        with pytest.raises(QueueNotFoundError):
            call.result()


def test_a_wait_ends_after_its_timeout(broker: EmbeddedBroker) -> None:
    assert receive(broker, timeout=0.05) == []
    assert accept(broker, "B", timeout=0.05) is None
    assert receivers(broker) == acceptors(broker) == 0


def test_500_waiting_receives_need_no_threads_of_their_own(broker: EmbeddedBroker) -> None:
    before = threading.active_count()
    futures = [
        broker.receive(ReceiveRequest("q", f"s{number}", "A", max_count=1, timeout=600), context=NO_WAIT)
        for number in range(500)
    ]
    eventually(lambda: receivers(broker) == 500)
    assert threading.active_count() <= before + 1
    broker.send("q", [message for number in range(500) for message in messages("a", session=f"s{number}")]).result()
    assert [bodies(future.result(10).messages) for future in futures] == [["a"]] * 500


# Attempts of one request


def test_a_repeated_receive_ends_its_first_attempt(broker: EmbeddedBroker) -> None:
    first = waiting_receive(broker, request_id="r1")
    again = Background(lambda: bodies(receive(broker, "A", timeout=600, request_id="r1")))
    # The error is transient: if this was the latest attempt after all, its caller tries again and gets the messages.
    with pytest.raises(ProviderError, match="another attempt") as caught:
        first.result()
    assert (caught.value.code, caught.value.is_transient) == ("ServerBusy", True)
    eventually(lambda: receivers(broker) == 1)
    send(broker, "a")
    assert again.result() == ["a"]
    assert bodies(receive(broker, "A", request_id="r1")) == ["a"]


def test_receives_with_different_request_ids_do_not_end_each_other(broker: EmbeddedBroker) -> None:
    calls = [waiting_receive(broker, request_id="r1"), waiting_receive(broker, request_id="r2"), waiting_receive(broker)]
    send(broker, "a", "b", "c")
    assert sorted(body for call in calls for body in call.result()) == ["a", "b", "c"]


def test_a_repeated_accept_ends_its_first_attempt(broker: EmbeddedBroker) -> None:
    first = waiting_accept(broker, "A", "r1")
    again = Background(lambda: accept(broker, "A", timeout=600, request_id="r1"))
    assert first.result() is None
    eventually(lambda: acceptors(broker) == 1)
    send(broker, "a")
    assert again.result() == "s"


def test_a_replaced_attempt_of_an_accept_leaves_the_session_to_the_next_accept(broker: EmbeddedBroker) -> None:
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


# The end of the broker


def test_stop_waiting_ends_all_waits_and_prevents_new_ones(broker: EmbeddedBroker) -> None:
    receives = [waiting_receive(broker, f"lock {number}", session=f"s{number}") for number in range(5)]
    accepts = [waiting_accept(broker, f"acceptor {number}") for number in range(5)]
    broker.stop_waiting()
    assert [one.result() for one in receives] == [[]] * 5
    assert [one.result() for one in accepts] == [None] * 5
    assert receive(broker, "Z", timeout=600) == []
    assert accept(broker, "Z", timeout=600) is None


def test_stored_messages_are_still_received_after_stop_waiting(broker: EmbeddedBroker) -> None:
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
