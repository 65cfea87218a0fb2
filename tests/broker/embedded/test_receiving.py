"""Receiving from the embedded broker: order, delivery counts, repeated requests, and deferred messages."""

from __future__ import annotations

import threading

import pytest

from azsession import Message, ProviderError
from azsession.broker.calls import Disposition, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.store import STEP_BYTES
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    ABANDON,
    COMPLETE,
    DEFER,
    MANY,
    Background,
    HandClock,
    bodies,
    dead,
    messages,
    numbers,
    peek,
    receive,
    send,
    send_many,
    settle,
)

# Deliveries


def test_the_first_delivery_has_delivery_count_one(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 1).result()] == [0]
    assert [one.delivery_count for one in receive(broker)] == [1]


def test_a_message_abandoned_at_its_last_delivery_is_dead_lettered(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    for count in (1, 2, 3):
        (message,) = receive(broker)
        assert (message.body, message.delivery_count) == (b"a", count)
        assert settle(broker, ABANDON, message) == [None]
    assert bodies(receive(broker)) == ["b"]
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


def test_a_message_is_dead_lettered_after_its_lock_expired_too_often(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b")
    for count in (1, 2, 3):
        (message,) = receive(broker, f"lock {count}")
        assert (message.body, message.delivery_count) == (b"a", count)
        clock.advance(30)
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]
    assert bodies(receive(broker, "last")) == ["b"]
    (letter,) = broker.dead_letters("q", 0, 10).result()
    assert (letter.session_id, letter.delivery_count, letter.state) == ("s", 3, "DeadLettered")


def test_a_receive_dead_letters_many_messages_that_failed_too_often(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, *(f"{number}" for number in range(50)), "good")
    for attempt in range(3):
        receive(broker, f"lock {attempt}", 50)
        clock.advance(30)
    assert bodies(receive(broker, "last")) == ["good"]
    assert len(dead(broker)) == 50


def test_two_receives_of_one_holder_get_different_messages(broker: EmbeddedBroker) -> None:
    first = Background(lambda: receive(broker, "A", timeout=600))
    second = Background(lambda: receive(broker, "A", timeout=600))
    eventually(lambda: sum(len(lock.waiters) for lock in broker._core.locks) == 2)
    send(broker, "a")
    eventually(lambda: not (first.running and second.running))
    send(broker, "b")
    assert sorted(bodies([*first.result(), *second.result()])) == ["a", "b"]


def test_many_receives_of_one_holder_get_each_message_once(broker: EmbeddedBroker) -> None:
    wanted = [f"{number}" for number in range(200)]
    taken: list[str] = []
    guard = threading.Lock()

    def consume() -> None:
        while got := receive(broker, "A", 3):
            with guard:
                taken.extend(bodies(got))
            assert settle(broker, COMPLETE, *got) == [None] * len(got)

    send(broker, *wanted)
    for thread in [Background(consume) for _ in range(8)]:
        thread.result()
    assert sorted(taken) == sorted(wanted)
    assert peek(broker) == []


# Repeated requests


def test_a_repeated_receive_gets_the_same_messages(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    first = receive(broker, count=2, request_id="r1")
    again = receive(broker, count=2, request_id="r1")
    assert [(one.body, one.delivery_count, one.receipt.handle) for one in again] == [
        (one.body, one.delivery_count, one.receipt.handle) for one in first
    ]
    assert bodies(receive(broker, count=2, request_id="r2")) == ["c"]


def test_a_receive_repeated_after_its_lock_ended_gets_a_new_delivery(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    (first,) = receive(broker, "", request_id="r1")
    clock.advance(30)
    (again,) = receive(broker, "", request_id="r1")
    assert again.delivery_count == 2
    assert again.receipt.handle != first.receipt.handle


def test_a_late_attempt_of_a_receive_without_messages_takes_none(broker: EmbeddedBroker) -> None:
    assert receive(broker, "A", request_id="r1") == []
    send(broker, "a", "b")
    assert receive(broker, "A", timeout=600, request_id="r1") == []
    assert bodies(receive(broker, "A", 2, request_id="r2")) == ["a", "b"]


def test_receives_without_messages_do_not_displace_the_answers_with_messages(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (first,) = receive(broker, "A", request_id="r1")
    for number in range(200):
        assert receive(broker, "A", request_id=f"empty {number}") == []
    (again,) = receive(broker, "A", request_id="r1")
    assert again.receipt.handle == first.receipt.handle


def test_a_receive_under_a_new_lock_does_not_repeat_the_empty_answer_of_the_old_one(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    assert receive(broker, "", request_id="r1") == []
    clock.advance(30)
    send(broker, "a")
    assert bodies(receive(broker, "", request_id="r1")) == ["a"]


def test_a_repeated_receive_whose_messages_are_settled_does_not_wait_for_later_ones(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    settle(broker, COMPLETE, *receive(broker, "A", request_id="r1"))
    assert bodies(receive(broker, "A", timeout=600, request_id="r1")) == []
    assert bodies(receive(broker, "A", request_id="r2")) == ["b"]


# Deferred messages


def test_a_deferred_message_is_received_by_its_sequence_number_only(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    (a,) = receive(broker)
    settle(broker, DEFER, a)
    assert bodies(receive(broker, count=10)) == ["b"]
    assert a.sequence_number is not None
    (again,) = broker.receive_deferred("q", "s", "A", [a.sequence_number]).result()
    assert (again.body, again.delivery_count, again.state) == (b"a", 1, "Deferred")
    assert settle(broker, COMPLETE, again) == [None]
    assert peek(broker) == ["b"]


def test_an_abandoned_deferred_message_stays_deferred(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (a,) = receive(broker)
    settle(broker, DEFER, a)
    (again,) = broker.receive_deferred("q", "s", "A", [a.sequence_number or 0]).result()
    settle(broker, ABANDON, again)
    assert receive(broker) == []
    assert [one.state for one in broker.peek("q", "s", 0, 10).result()] == ["Deferred"]


def test_deferred_messages_are_received_all_or_none(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "active")
    settle(broker, DEFER, *receive(broker, count=2))
    a, b, active = (number or 0 for number in numbers(broker))
    for wanted in ([a, 99], [b, active], [a, 2**40 + b]):
        with pytest.raises(ProviderError) as caught:
            broker.receive_deferred("q", "s", "A", wanted).result()
        assert caught.value.code == "MessageNotFound"
    assert bodies(broker.receive_deferred("q", "s", "A", [b, a]).result()) == ["b", "a"]


def test_receiving_a_deferred_message_again_gives_the_same_lock_token(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    settle(broker, DEFER, *receive(broker, count=2))
    a, b = (number or 0 for number in numbers(broker))
    first = broker.receive_deferred("q", "s", "A", [a]).result()
    again = broker.receive_deferred("q", "s", "A", [a, b]).result()
    assert [message.receipt.handle for message in first] == [message.receipt.handle for message in again[:1]]
    assert [message.delivery_count for message in (*first, *again)] == [1, 1, 1]
    settle(broker, COMPLETE, *again)
    assert numbers(broker) == []


def test_a_deferred_message_of_another_session_or_queue_is_not_found(broker: EmbeddedBroker) -> None:
    for queue in ("q", "q2", "q3", "q4"):
        if queue != "q":
            broker.create_queue(queue, QueueSettings()).result()
        send(broker, "a", queue=queue)
        (message,) = receive(broker, queue=queue)
        broker.settle(queue, "s", [Settlement(message.receipt.handle, DEFER)]).result()
    receive(broker, "A", session="other")
    for number in [1 + (offset << 40) for offset in range(1, 8)]:
        with pytest.raises(ProviderError) as caught:
            broker.receive_deferred("q", "s", "A", [number]).result()
        assert caught.value.code == "MessageNotFound"
    with pytest.raises(ProviderError):
        broker.receive_deferred("q", "other", "A", [1]).result()


# The size of a result


LARGE = b"x" * (1024 * 1024)


def large(count: int) -> list[Message]:
    return [Message(LARGE, session_id="s") for _ in range(count)]


def test_a_result_is_bounded_in_bytes_and_the_rest_keeps_its_delivery_count(broker: EmbeddedBroker) -> None:
    limit = STEP_BYTES // len(LARGE)
    broker.send("q", large(limit + 4)).result()
    assert len(broker.peek("q", "s", 0, 1000).result()) == limit
    first = receive(broker, "A", 1000)
    rest = receive(broker, "A", 1000)
    assert (len(first), len(rest)) == (limit, 4)
    assert {one.delivery_count for one in (*first, *rest)} == {1}
    assert [one.sequence_number for one in (*first, *rest)] == list(range(1, limit + 5))


def test_a_message_larger_than_the_bound_is_returned_alone(broker: EmbeddedBroker) -> None:
    huge = Message(b"x" * (STEP_BYTES + 1), session_id="s")
    broker.send("q", [huge, *messages("small")]).result()
    assert [len(one.body) for one in receive(broker, "A", 10)] == [STEP_BYTES + 1]
    assert bodies(receive(broker, "A", 10)) == ["small"]


def test_results_with_dead_letters_and_deferred_messages_are_bounded_in_bytes(broker: EmbeddedBroker) -> None:
    limit = STEP_BYTES // len(LARGE)
    broker.send("q", large(limit + 2)).result()
    received = [*receive(broker, "A", 1000), *receive(broker, "A", 1000)]
    defer = [Settlement(one.receipt.handle, Disposition.DEFER) for one in received]
    assert broker.settle("q", "s", defer).result() == [None] * (limit + 2)
    numbers = [one.sequence_number or 0 for one in received]
    assert len(broker.receive_deferred("q", "s", "A", numbers).result()) == limit
    broker.dead_letter_session("q", "s", "A", "why", None).result()
    assert len(broker.dead_letters("q", 0, 1000).result()) == limit


def test_a_receive_passes_many_abandoned_messages_that_are_gone_in_steps(broker: EmbeddedBroker, clock: HandClock) -> None:
    send_many(broker, MANY, time_to_live=20)
    send(broker, "alive")
    received = receive(broker, "A", MANY)
    broker.give_back("q", "s", "A", [one.receipt.handle for one in received]).result()
    clock.advance(21)
    eventually(lambda: broker.get_queue("q").result().active_count == 1)
    seen: list[str] = []
    broker._core.connection.set_trace_callback(seen.append)
    assert bodies(receive(broker, "A", 10)) == ["alive"]
    assert seen.count("COMMIT") >= 5
