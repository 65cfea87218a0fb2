"""Which events the embedded broker counts as a failed delivery: Microsoft's rules (message-sessions, "Impact of delivery
count"), and the same for messages that were fetched ahead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from azsession import ReceivedMessage
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings

from .helpers import (
    ABANDON,
    BOUND,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    MANY,
    RELEASE,
    TAKE,
    HandClock,
    JobLog,
    copy_data,
    dead,
    receive,
    receive_deferred,
    send,
    send_many,
    settle,
)


def counts(messages: Sequence[ReceivedMessage]) -> list[tuple[str, int]]:
    return [(one.text(), one.delivery_count) for one in messages]


# Messages that the holder uses


def test_a_release_of_the_lock_counts_no_delivery(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    for turn in range(20):
        assert counts(receive(broker, f"lock {turn}", 2)) == [("a", 1), ("b", 1)]
        broker.release("q", "s", f"lock {turn}").result()
    assert dead(broker) == []


def test_a_lock_with_many_messages_is_released_in_steps(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    while receive(broker, "A", 1000):
        pass
    log = JobLog(broker)
    broker.release("q", "s", "A").result()
    assert log.most <= BOUND
    again: list[ReceivedMessage] = []
    while more := receive(broker, "B", 1000):
        again += more
    assert {one.delivery_count for one in again} == {1}
    numbers = [one.sequence_number or 0 for one in again]
    assert numbers == sorted(numbers)
    assert len(numbers) == MANY


def test_an_expiry_counts_a_delivery_of_every_message_in_use(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b")
    for turn in (1, 2, 3):
        assert counts(receive(broker, f"lock {turn}", 2)) == [("a", turn), ("b", turn)]
        clock.advance(30)
    assert receive(broker, "last") == []
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded"), ("b", "MaxDeliveryCountExceeded")]


def test_deferring_counts_no_delivery(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    settle(broker, DEFER, message)
    for _ in range(20):
        (again,) = receive_deferred(broker, message)
        assert again.delivery_count == 1
        settle(broker, DEFER, again)
    (again,) = receive_deferred(broker, message)
    settle(broker, ABANDON, again)
    (again,) = receive_deferred(broker, message)
    assert again.delivery_count == 2
    broker.release("q", "s", "A").result()
    (again,) = receive_deferred(broker, message, lock="")
    assert again.delivery_count == 2


def test_a_deferred_message_whose_lock_expires_too_often_is_dead_lettered(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    settle(broker, DEFER, message)
    clock.advance(30)
    for turn in (1, 2, 3):
        (again,) = receive_deferred(broker, message, lock="")
        assert again.delivery_count == turn
        clock.advance(30)
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


def test_a_released_message_counts_no_delivery_and_comes_first(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    a, b = receive(broker, count=2)
    assert settle(broker, RELEASE, b, a) == [None, None]
    assert settle(broker, RELEASE, a) == [None]
    assert settle(broker, COMPLETE, a) == ["Conflict"]
    assert counts(receive(broker, count=3)) == [("a", 1), ("b", 1), ("c", 1)]


def test_the_death_of_the_process_counts_a_delivery_and_closing_the_broker_does_not(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.create_queue("q", QueueSettings(max_delivery_count=2)).result()
        send(broker, "a", "b")
    for expected in (1, 1, 1):
        with EmbeddedBroker(path, clock=clock) as broker:
            assert counts(receive(broker)) == [("a", expected)]
    for expected in (1, 2):
        with EmbeddedBroker(path, clock=clock) as broker:
            assert counts(receive(broker)) == [("a", expected)]
            path = copy_data(path)
    with EmbeddedBroker(path, clock=clock) as broker:
        assert counts(receive(broker)) == [("b", 1)]
        assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


# Messages that were fetched ahead


def test_a_message_fetched_ahead_counts_no_delivery_when_the_lock_expires(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b", "c")
    for turn in (1, 2, 3):
        assert counts(receive(broker, f"lock {turn}", 3, taken=1)) == [("a", turn), ("b", 1), ("c", 1)]
        clock.advance(30)
    assert counts(receive(broker, "last", 3, taken=1)) == [("b", 1), ("c", 1)]
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


def test_a_message_fetched_ahead_counts_no_delivery_when_the_process_dies(path: Path) -> None:
    with EmbeddedBroker(path) as broker:
        broker.create_queue("q", QueueSettings()).result()
        send(broker, "a", "b", "c")
        receive(broker, count=3, taken=1)
        path = copy_data(path)
    with EmbeddedBroker(path) as broker:
        assert counts(receive(broker, count=3)) == [("a", 2), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("settled", [COMPLETE, ABANDON, DEFER, DEAD_LETTER])
def test_settling_the_message_in_use_makes_the_holder_use_the_next_one(
    broker: EmbeddedBroker, clock: HandClock, settled: object
) -> None:
    send(broker, "a", "b", "c")
    a, _, _ = receive(broker, count=3, taken=1)
    settle(broker, settled, a)  # type: ignore[arg-type]
    clock.advance(30)
    again = dict(counts(receive(broker, "B", 3)))
    assert (again["b"], again["c"]) == (2, 1)


def test_a_message_that_the_holder_takes_counts(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b", "c", "d")
    _, b, c, _ = receive(broker, count=4, taken=1)
    assert settle(broker, TAKE, b, c, b) == [None, None, None]
    clock.advance(30)
    assert counts(receive(broker, "B", 4)) == [("a", 2), ("b", 2), ("c", 2), ("d", 1)]
    assert settle(broker, TAKE, b) == ["MessageLockLost"]


def test_an_abandoned_message_comes_before_those_that_were_released_with_it(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    for turn in (1, 2, 3):
        messages = receive(broker, count=3, taken=1)
        assert counts(messages) == [("a", turn), ("b", 1), ("c", 1)]
        settle(broker, RELEASE, *messages[1:])
        settle(broker, ABANDON, messages[0])
    assert counts(receive(broker, count=3)) == [("b", 1), ("c", 1)]
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


def test_a_message_fetched_ahead_that_is_abandoned_counts(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    for turn in (1, 2, 3):
        messages = receive(broker, count=2, taken=1)
        assert counts(messages) == [("a", 1), ("b", turn)]
        settle(broker, ABANDON, messages[1])
        settle(broker, RELEASE, messages[0])
    assert dead(broker) == [("b", "MaxDeliveryCountExceeded")]
