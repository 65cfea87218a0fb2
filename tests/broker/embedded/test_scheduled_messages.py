"""Scheduled messages of the embedded broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.rows import to_datetime
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import BOUND, MANY, HandClock, JobLog, accept, at, bodies, dead, numbers, peek, receive, send, send_many


def test_a_scheduled_message_is_not_delivered_before_its_time(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "later", scheduled_enqueue_time=at(clock, 10))
    assert receive(broker) == []
    broker.release("q", "s", "A").result()
    assert accept(broker, "B") is None
    assert [one.state for one in broker.peek("q", "s", 0, 10).result()] == ["Scheduled"]
    clock.advance(9.9)
    assert accept(broker, "B") is None
    clock.advance(0.1)
    assert accept(broker, "B") == "s"
    assert bodies(receive(broker, "B")) == ["later"]


def test_scheduled_messages_get_a_new_sequence_number_at_their_time(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "late", scheduled_enqueue_time=at(clock, 20))
    send(broker, "early", scheduled_enqueue_time=at(clock, 10))
    send(broker, "before")
    highest = numbers(broker)[-1] or 0
    clock.advance(15)
    send(broker, "between")
    clock.advance(15)
    send(broker, "after")
    received = receive(broker, count=10)
    assert bodies(received) == ["before", "early", "between", "late", "after"]
    found = [one.sequence_number or 0 for one in received]
    assert found == sorted(set(found))
    assert all(number > highest for number in found[1:])


def test_messages_that_became_due_while_the_broker_was_closed_are_ordered_by_time(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "b", scheduled_enqueue_time=at(clock, 20))
        send(broker, "a", scheduled_enqueue_time=at(clock, 10))
    clock.advance(100)
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "c")
        assert bodies(receive(broker, count=10)) == ["a", "b", "c"]


def test_a_message_scheduled_in_the_past_is_delivered_at_once(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", scheduled_enqueue_time=at(clock, -5))
    assert bodies(receive(broker)) == ["a"]


@pytest.mark.parametrize("restarted", [False, True])
def test_the_time_to_live_of_a_scheduled_message_begins_at_its_time(path: Path, clock: HandClock, restarted: bool) -> None:
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.create_queue("q", QueueSettings(dead_letter_on_expiration=True)).result()
        send(broker, "short-lived", time_to_live=5)
        send(broker, "later", scheduled_enqueue_time=at(clock, 100), time_to_live=10)
        clock.advance(50)
        assert dead(broker) == [("short-lived", "TTLExpiredException")]
        if restarted:
            broker.close()
            broker = EmbeddedBroker(path, clock=clock)
        with broker:
            clock.advance(59)
            assert peek(broker) == ["later"]
            clock.advance(1)
            assert peek(broker) == []
            assert accept(broker) is None
            assert dead(broker) == [("short-lived", "TTLExpiredException"), ("later", "TTLExpiredException")]


def test_more_scheduled_messages_than_fit_into_one_step_all_become_active(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, *(f"{number}" for number in range(1200)), scheduled_enqueue_time=at(clock, 10))
    clock.advance(10)
    eventually(lambda: broker.get_queue("q").result().active_count == 1200)
    assert bodies(receive(broker, count=1200)) == [f"{number}" for number in range(1200)]


def test_scheduled_messages_become_active_in_steps(broker: EmbeddedBroker, clock: HandClock) -> None:

    send_many(broker, MANY, scheduled_enqueue_time=to_datetime(clock.now() + 60))
    log = JobLog(broker)
    clock.advance(61)
    eventually(lambda: broker.get_queue("q").result().active_count == MANY)
    assert log.most <= BOUND
