"""Settle and release in one operation of the embedded broker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from azsession import ProviderError, ReceivedMessage
from azsession.broker.calls import Disposition, Settlement
from azsession.broker.embedded import EmbeddedBroker

from .helpers import (
    ABANDON,
    BOUND,
    COMPLETE,
    DEAD_LETTER,
    MANY,
    Disk,
    HandClock,
    JobLog,
    accept,
    bodies,
    dead,
    receive,
    send,
    send_many,
    settle,
)


def handles(received: Sequence[ReceivedMessage], how: Disposition = COMPLETE) -> list[Settlement]:
    return [Settlement(one.receipt.handle, how) for one in received]


def test_a_release_settles_first(broker: EmbeddedBroker) -> None:
    send(broker, *"123")
    first, _ = receive(broker, count=2)
    log = JobLog(broker)
    assert broker.release("q", "s", "A", handles([first])).result() == [None]
    assert len(log.rows) == 1
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()] == [0, 0]
    assert bodies(receive(broker, "B", 5)) == ["2", "3"]
    # A repeated request does no harm.
    assert broker.release("q", "s", "A", handles([first])).result() == [None]
    assert broker.release("q", "s", "A").result() == []


def test_a_session_is_released_although_a_settlement_fails(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2")
    first, second = receive(broker, count=2)
    settle(broker, COMPLETE, first)
    codes = broker.release("q", "s", "A", [*handles([first], ABANDON), *handles([second])]).result()
    assert codes == ["Conflict", None]
    assert accept(broker, "B", "s") == "s"


def test_a_holder_that_lost_the_lock_releases_nothing(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1")
    received = receive(broker)
    clock.advance(31)
    (message,) = receive(broker, "B")
    assert broker.release("q", "s", "A", handles(received)).result() == ["MessageLockLost"]
    assert settle(broker, COMPLETE, message) == [None]


def test_an_abandoned_message_of_a_release_counts_and_a_delay_holds(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", "2")
    (message,) = receive(broker)
    assert broker.release("q", "s", "A", [Settlement(message.receipt.handle, ABANDON, delay=5)]).result() == [None]
    assert accept(broker, "B") is None
    clock.advance(5)
    assert [(one.body, one.delivery_count) for one in receive(broker, "B", 5)] == [(b"1", 2), (b"2", 1)]


def test_many_messages_are_settled_and_returned_in_steps(broker: EmbeddedBroker) -> None:
    send_many(broker, 2 * MANY)
    received = receive(broker, count=2 * MANY)
    log = JobLog(broker)
    assert broker.release("q", "s", "A", handles(received[:MANY])).result() == [None] * MANY
    assert log.most <= 2 * BOUND
    assert len(receive(broker, "B", MANY)) == MANY


def test_both_parts_are_undone_if_the_disk_is_full(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send_many(broker, 2000)
        (message,) = receive(broker)
        disk.fill()
        settlement = Settlement(message.receipt.handle, DEAD_LETTER, "x" * 50_000)
        with pytest.raises(ProviderError, match="full"):
            broker.release("q", "s", "A", [settlement]).result()
        disk.free()
        # The holder has lock and message, as before.
        assert dead(broker) == []
        assert settle(broker, COMPLETE, message) == [None]
        assert bodies(receive(broker, count=2)) == ["1", "2"]
