"""Settle and receive in one operation of the embedded broker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from azsession import ProviderError, ReceivedMessage
from azsession.broker.calls import ReceiveRequest, Settled, Settlement
from azsession.broker.embedded import EmbeddedBroker

from .helpers import (
    ABANDON,
    BOUND,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    MANY,
    NO_WAIT,
    RELEASE,
    TAKE,
    Disk,
    HandClock,
    Hold,
    JobLog,
    accept,
    bodies,
    broker_with,
    copy_data,
    dead,
    peek,
    receive,
    send,
    send_many,
    settle,
    settle_and_receive,
    waiting_receive,
)


def counted(settled: Settled) -> list[tuple[str, int]]:
    """Return the bodies and delivery counts of the messages that followed the settlements."""
    assert settled.delivery is not None
    return [(one.body.decode(), one.delivery_count) for one in settled.delivery.messages]


def stored_counts(broker: EmbeddedBroker) -> list[int]:
    return [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()]


def handles(received: Sequence[ReceivedMessage], how: object = COMPLETE) -> list[Settlement]:
    return [Settlement(one.receipt.handle, how) for one in received]  # type: ignore[arg-type]


def test_the_next_messages_follow_the_settlement(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, *"1234")
    received = receive(broker)
    clock.advance(10)
    settled = settle_and_receive(broker, received, count=2)
    assert settled.codes == [None]
    assert counted(settled) == [("2", 1), ("3", 1)]
    assert settled.delivery is not None
    # The receive renews the lock, as every receive does.
    assert settled.delivery.lock_expires_in == 30
    assert peek(broker) == ["2", "3", "4"]


def test_both_are_one_transaction(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    received = receive(broker)
    log = JobLog(broker)
    settle_and_receive(broker, received)
    assert len(log.rows) == 1


def test_no_message_is_waited_for(broker: EmbeddedBroker) -> None:
    send(broker, "1")
    (message,) = receive(broker)
    request = ReceiveRequest("q", "s", "A", max_count=1, timeout=600, holds_lock=True)
    settled = broker.settle_and_receive(handles([message]), request, context=NO_WAIT).result(10)
    assert counted(settled) == []


@pytest.mark.parametrize(
    ("how", "following", "counts"),
    [
        (ABANDON, ["1", "2"], [2, 1]),
        (RELEASE, ["1", "2"], [1, 1]),
        (DEFER, ["2", "3"], [0, 1]),
        (DEAD_LETTER, ["2", "3"], [1, 1]),
    ],
)
def test_each_way_to_settle_can_be_followed(
    broker: EmbeddedBroker, how: object, following: list[str], counts: list[int]
) -> None:
    send(broker, *"123")
    settled = settle_and_receive(broker, receive(broker), count=2, disposition=how)  # type: ignore[arg-type]
    assert [body for body, _ in counted(settled)] == following


def test_a_message_that_is_abandoned_for_the_last_time_is_dead_lettered(broker: EmbeddedBroker) -> None:
    send(broker, "bad", "good")
    settled = settle_and_receive(broker, receive(broker), disposition=ABANDON)
    settled = settle_and_receive(broker, settled.delivery.messages, disposition=ABANDON)  # type: ignore[union-attr]
    settled = settle_and_receive(broker, settled.delivery.messages, disposition=ABANDON)  # type: ignore[union-attr]
    assert counted(settled) == [("good", 1)]
    assert dead(broker) == [("bad", "MaxDeliveryCountExceeded")]


def test_a_delay_holds_all_messages_back(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", "2")
    (message,) = receive(broker)
    request = ReceiveRequest("q", "s", "A", max_count=5, timeout=0, holds_lock=True)
    settlement = Settlement(message.receipt.handle, ABANDON, delay=5)
    assert counted(broker.settle_and_receive([settlement], request).result()) == []
    clock.advance(5)
    assert bodies(receive(broker, count=5)) == ["1", "2"]


def test_messages_that_are_fetched_ahead_count_when_they_are_used(broker: EmbeddedBroker) -> None:
    send(broker, *"12345")
    first = receive(broker)
    settled = settle_and_receive(broker, first, count=3, taken=1)
    assert counted(settled) == [("2", 1), ("3", 1), ("4", 1)]
    assert stored_counts(broker) == [1, 0, 0, 0]
    assert settled.delivery is not None
    two, three, _ = settled.delivery.messages
    # The next message counts when those before it are settled, and a taken one at once.
    settle(broker, COMPLETE, two)
    assert stored_counts(broker) == [1, 0, 0]
    assert settle_and_receive(broker, [three], count=1, disposition=TAKE, taken=1).codes == [None]
    assert stored_counts(broker) == [1, 0, 1]


def test_nothing_is_received_if_one_settlement_fails(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    first, second = receive(broker, count=2)
    settle(broker, COMPLETE, first)
    settled = broker.settle_and_receive(
        [*handles([first], ABANDON), *handles([second])],
        ReceiveRequest("q", "s", "A", max_count=1, timeout=0, holds_lock=True),
    ).result()
    assert settled == Settled(["Conflict", None], None)
    assert peek(broker) == ["3"]
    assert stored_counts(broker) == [0]


def test_a_large_number_of_settlements_is_followed_by_a_receive(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY + 1)
    received = receive(broker, count=MANY)
    log = JobLog(broker)
    settled = settle_and_receive(broker, received)
    assert settled.codes == [None] * MANY
    assert counted(settled) == [(str(MANY), 1)]
    assert log.most <= 2 * BOUND


def test_messages_behind_many_expired_ones_are_received(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True, max_delivery_count=9) as broker:
        send(broker, "first")
        received = receive(broker)
        send_many(broker, MANY, time_to_live=10)
        clock.advance(10)
        hold = Hold(broker)
        future = broker.settle_and_receive(
            handles(received), ReceiveRequest("q", "s", "A", max_count=1, timeout=0, holds_lock=True), context=NO_WAIT
        )
        sent = hold.queue(lambda: send(broker, "good"))
        hold.let_go()
        sent.result()
        assert counted(future.result(10)) in ([("good", 1)], [])
        assert future.result().codes == [None]
        # The lock is not kept by an operation that has ended.
        clock.advance(60)
        assert accept(broker, "B", "s") == "s"


def test_a_session_that_is_dead_lettered_meanwhile_has_no_message(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    received = receive(broker)
    hold = Hold(broker)
    dead_lettered = broker.dead_letter_session("q", "s", "A", "why", None, context=NO_WAIT)
    future = broker.settle_and_receive(
        handles(received, DEAD_LETTER), ReceiveRequest("q", "s", "A", max_count=5, timeout=0), context=NO_WAIT
    )
    hold.let_go()
    assert dead_lettered.result(10) == MANY
    assert future.result(10).codes == [None]
    assert counted(future.result()) == []


def test_a_waiting_receive_of_the_same_holder_gets_what_the_settlement_returns(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2")
    first, second = receive(broker, count=2)
    waiting = waiting_receive(broker, count=5)
    settled = broker.settle_and_receive(
        handles([first, second], RELEASE), ReceiveRequest("q", "s", "A", max_count=1, timeout=0, holds_lock=True)
    ).result()
    assert counted(settled) == [("1", 1)]
    assert waiting.result() == ["2"]


# Repeated requests


def test_a_repeated_request_settles_once_and_returns_the_same_messages(broker: EmbeddedBroker) -> None:
    send(broker, *"1234")
    received = receive(broker)
    first = settle_and_receive(broker, received, count=2, request_id="r")
    again = settle_and_receive(broker, received, count=2, request_id="r")
    assert again.codes == [None]
    assert first.delivery is not None
    assert again.delivery is not None
    assert [one.receipt.handle for one in again.delivery.messages] == [one.receipt.handle for one in first.delivery.messages]
    assert counted(again) == [("2", 1), ("3", 1)]
    settle(broker, COMPLETE, *first.delivery.messages)
    # The first attempt was overtaken, and comes when the caller has gone on.
    assert counted(settle_and_receive(broker, received, count=2, request_id="r")) == []
    assert bodies(receive(broker)) == ["4"]


def test_an_answer_without_messages_is_repeated_without_messages(broker: EmbeddedBroker) -> None:
    send(broker, "1")
    received = receive(broker)
    assert counted(settle_and_receive(broker, received, request_id="r")) == []
    send(broker, "2")
    assert counted(settle_and_receive(broker, received, request_id="r")) == []
    assert bodies(receive(broker)) == ["2"]


def test_two_attempts_in_one_transaction_get_the_same_messages(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    received = receive(broker)
    hold = Hold(broker)
    attempts = [hold.queue(lambda: settle_and_receive(broker, received, request_id="r")) for _ in range(2)]
    hold.let_go()
    one, two = (attempt.result() for attempt in attempts)
    assert one.codes == two.codes == [None]
    assert counted(one) == counted(two) == [("2", 1)]
    # Both answers have the message: it returns when both are lost.
    for left in (["3"], ["2"]):
        broker.give_back("q", "s", "A", [message.receipt.handle for message in one.delivery.messages]).result()
        assert bodies(receive(broker)) == left


def test_messages_of_a_lost_answer_return_and_settlements_stand(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    received = receive(broker)
    settled = settle_and_receive(broker, received, count=2, request_id="r")
    assert settled.delivery is not None
    broker.give_back("q", "s", "A", [one.receipt.handle for one in settled.delivery.messages]).result()
    assert stored_counts(broker) == [0, 0]
    # The next attempt of the request gets messages again.
    assert counted(settle_and_receive(broker, received, count=2, request_id="r")) == [("2", 1), ("3", 1)]


# Locks


def test_a_settlement_that_arrived_in_time_is_followed_by_a_receive(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", "2")
    received = receive(broker)
    hold = Hold(broker)
    call = hold.queue(lambda: settle_and_receive(broker, received))
    clock.advance(31)
    hold.let_go()
    assert counted(call.result()) == [("2", 1)]


def test_a_lock_that_is_lost_is_reported_for_each_settlement(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", "2")
    received = receive(broker)
    clock.advance(31)
    assert settle_and_receive(broker, received) == Settled(["SessionLockLost"], None)
    assert receive(broker, "B")[0].delivery_count == 2
    assert settle_and_receive(broker, received) == Settled(["MessageLockLost"], None)


@pytest.mark.parametrize("other", [False, True])
def test_settlements_stand_if_the_lock_was_lost_before_the_retry(
    broker: EmbeddedBroker, clock: HandClock, other: bool
) -> None:
    send(broker, "1", "2")
    received = receive(broker)
    settle_and_receive(broker, received, request_id="r")
    clock.advance(31)
    if other:
        receive(broker, "B")
    assert settle_and_receive(broker, received, request_id="r") == Settled([None], None)


def test_settlements_stand_after_a_restart_and_the_lock_is_not_taken_again(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "1", "2")
        received = receive(broker)
        settle_and_receive(broker, received, request_id="r")
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert settle_and_receive(broker, received, request_id="r") == Settled([None], None)
        assert peek(broker) == ["2"]
        # Another holder has the session now.
        assert receive(broker, "B")[0].delivery_count == 2
        assert settle_and_receive(broker, received, request_id="r") == Settled([None], None)


# Failures


def test_both_parts_are_undone_if_the_disk_is_full(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send_many(broker, 2000)
        (message,) = receive(broker)
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            settle_and_receive(broker, [message], count=1000, disposition=DEAD_LETTER)
        disk.free()
        # The holder has lock and message, as before.
        assert dead(broker) == []
        assert settle(broker, COMPLETE, message) == [None]
        assert bodies(receive(broker, count=2)) == ["1", "2"]


def test_both_parts_are_done_again_if_another_operation_of_the_transaction_fails(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    received = receive(broker)
    hold = Hold(broker)

    def fail(tx: object) -> None:
        raise ValueError("the test's own failure")

    call = hold.queue(lambda: settle_and_receive(broker, received, request_id="r"))
    broken = hold.queue(lambda: broker._core.commits.run(fail, durable=False))
    hold.let_go()
    with pytest.raises(ValueError, match="own failure"):
        broken.result()
    assert call.result().codes == [None]
    assert counted(call.result()) == [("2", 1)]
    assert stored_counts(broker) == [1, 0]


def test_it_cannot_be_withdrawn_once_it_has_settled(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2", "3")
    received = receive(broker)
    request = ReceiveRequest("q", "s", "A", max_count=1, timeout=0, holds_lock=True)
    future = broker.settle_and_receive(handles(received), request, context=NO_WAIT)
    assert counted(future.result(10)) == [("2", 1)]
    assert not future.cancel()
    (second,) = future.result().delivery.messages  # type: ignore[union-attr]
    hold = Hold(broker)
    future = broker.settle_and_receive(handles([second]), request, context=NO_WAIT)
    assert future.cancel()
    hold.let_go()
    # It was withdrawn before it ran: nothing is settled or received.
    assert peek(broker) == ["2", "3"]
    assert settle(broker, COMPLETE, second) == [None]
    assert bodies(receive(broker)) == ["3"]
