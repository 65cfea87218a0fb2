"""Messages of the embedded broker whose time to live ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import Message, ProviderError
from azsession.broker.calls import ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.store import STEP_BYTES
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    ABANDON,
    BOUND,
    COMPLETE,
    DEFER,
    MANY,
    NO_WAIT,
    Disk,
    HandClock,
    Hold,
    JobLog,
    accept,
    bodies,
    broker_with,
    count_rows,
    dead,
    peek,
    receive,
    receive_deferred,
    send,
    send_many,
    settle,
)


@pytest.mark.parametrize("keep", [False, True])
def test_an_expired_message_is_deleted_or_dead_lettered_according_to_the_queue(clock: HandClock, keep: bool) -> None:
    with broker_with(clock, dead_letter_on_expiration=keep) as broker:
        send(broker, "short", time_to_live=10)
        send(broker, "long", time_to_live=20)
        clock.advance(9.9)
        assert peek(broker) == ["short", "long"]
        clock.advance(0.1)
        assert peek(broker) == ["long"]
        assert bodies(receive(broker, count=10)) == ["long"]
        assert dead(broker) == ([("short", "TTLExpiredException")] if keep else [])


def test_the_time_to_live_of_the_queue_is_the_longest_of_its_messages(clock: HandClock) -> None:
    with broker_with(clock, default_time_to_live=10.0) as broker:
        send(broker, "none")
        send(broker, "long", time_to_live=100)
        send(broker, "short", time_to_live=5)
        clock.advance(5)
        assert peek(broker) == ["none", "long"]
        clock.advance(5)
        assert peek(broker) == []


def test_an_unsettled_message_does_not_expire(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", time_to_live=10)
    (message,) = receive(broker)
    clock.advance(20)
    assert peek(broker) == ["a"]
    assert settle(broker, COMPLETE, message) == [None]


@pytest.mark.parametrize("how", ["expiry", "release", "abandon", "abandon and release"])
def test_an_unsettled_message_expires_when_it_returns_to_the_session(clock: HandClock, how: str) -> None:
    with broker_with(clock, dead_letter_on_expiration=True) as broker:
        send(broker, "a", time_to_live=10)
        (message,) = receive(broker)
        clock.advance(20)
        assert dead(broker) == []
        if "abandon" in how:
            settle(broker, ABANDON, message)
        if "release" in how:
            broker.release("q", "s", "A").result()
        if how == "expiry":
            clock.advance(10)
        assert dead(broker) == [("a", "TTLExpiredException")]
        assert accept(broker, "B") is None


def test_a_message_expires_before_a_peek_that_shares_a_transaction_with_an_earlier_job(clock: HandClock) -> None:
    with broker_with(clock) as broker:
        send(broker, "a", time_to_live=10)
        receive(broker)
        clock.advance(20)
        assert peek(broker) == ["a"]
        hold = Hold(broker)
        broker.list_queues(context=NO_WAIT)
        clock.advance(10)
        # The lock expires between the two jobs, and the message returns to the session.
        shown = broker.peek("q", "s", 0, 10, context=NO_WAIT)
        hold.let_go()
        assert shown.result(10) == []


@pytest.mark.parametrize("wait", [1, 20])
def test_deferred_messages_do_not_expire(broker: EmbeddedBroker, clock: HandClock, wait: float) -> None:
    send(broker, "a", time_to_live=10)
    (message,) = receive(broker)
    clock.advance(wait)
    settle(broker, DEFER, message)
    clock.advance(100)
    assert peek(broker) == ["a"]
    (again,) = receive_deferred(broker, message, lock="")
    settle(broker, ABANDON, again)
    assert peek(broker) == ["a"]
    (again,) = receive_deferred(broker, message, lock="")
    assert settle(broker, COMPLETE, again) == [None]


def test_other_messages_expire_at_once_beside_many_deferred_ones(clock: HandClock) -> None:
    with broker_with(clock) as broker:
        send_many(broker, MANY, time_to_live=10)
        settle(broker, DEFER, *receive(broker, count=MANY))
        send(broker, "b", time_to_live=20)
        clock.advance(20)
        assert len(peek(broker)) == MANY


# Sessions whose messages expire together


def test_one_expired_message_expires_its_whole_session_when_it_is_received_from(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True, dead_letter_on_expiration=True) as broker:
        send(broker, "a")
        send(broker, "b", time_to_live=10)
        send(broker, "c", time_to_live=99)
        send(broker, "other", session="t")
        clock.advance(11)
        # Nobody receives, so nothing expires.
        assert peek(broker) == ["a", "b", "c"]
        assert receive(broker, count=10) == []
        assert dead(broker) == [(name, "TTLExpiredException") for name in "abc"]
        assert peek(broker, "t") == ["other"]
        send(broker, "later")
        assert bodies(receive(broker, count=10)) == ["later"]


def test_a_session_without_an_expired_message_is_received(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        send(broker, "a", "b", time_to_live=10)
        clock.advance(9)
        assert bodies(receive(broker)) == ["a"]
        assert bodies(receive(broker)) == ["b"]


def test_an_unsettled_message_does_not_expire_its_session_before_it_returns(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        send(broker, "a", time_to_live=10)
        send(broker, "b", "c", "d")
        (a,) = receive(broker)
        clock.advance(15)
        (b,) = receive(broker)
        assert bodies([b]) == ["b"]
        settle(broker, ABANDON, a)
        assert receive(broker, count=10) == []
        assert peek(broker) == ["b"]
        assert settle(broker, COMPLETE, b) == [None]


def test_a_large_session_expires_together_in_steps(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        send(broker, "first", time_to_live=10)
        send_many(broker, MANY)
        clock.advance(11)
        log = JobLog(broker)
        assert receive(broker, count=10) == []
        assert peek(broker) == []
        assert log.most <= BOUND


def test_other_messages_expire_while_many_unsettled_messages_cannot(clock: HandClock) -> None:
    with broker_with(clock, dead_letter_on_expiration=True) as broker:
        send(broker, *("held" for _ in range(600)), time_to_live=10)
        send(broker, *("waiting" for _ in range(700)), session="other", time_to_live=11)
        assert len(receive(broker, count=600)) == 600
        clock.advance(12)
        eventually(lambda: broker.get_queue("q").result().dead_letter_count == 700)
        assert len(peek(broker)) == 600


def test_a_message_that_expires_while_the_broker_is_closed_is_not_delivered(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a", time_to_live=10)
    clock.advance(10)
    with EmbeddedBroker(path, clock=clock) as broker:
        assert accept(broker) is None
        assert peek(broker) == []


# In steps


def test_expired_messages_are_removed_in_steps(broker: EmbeddedBroker, clock: HandClock) -> None:
    send_many(broker, MANY, time_to_live=60)
    send(broker, "alive")
    clock.advance(61)
    log = JobLog(broker)
    assert bodies(receive(broker)) == ["alive"]
    assert log.most <= BOUND


def test_another_holder_keeps_its_lock_while_many_messages_expire(broker: EmbeddedBroker, clock: HandClock) -> None:
    broker.create_queue("other", QueueSettings()).result()
    send_many(broker, MANY, time_to_live=60)
    clock.advance(61)
    receive(broker, "A", queue="other")
    future = broker.receive(ReceiveRequest("q", "s", "B", max_count=1, timeout=0), context=NO_WAIT)
    # The renewal runs between two steps of the receive, not after all of them.
    assert broker.renew("other", "s", "A", context=NO_WAIT).result(10) > 0
    assert future.result(10).messages == []


def test_messages_expire_after_a_full_disk_has_space_again(path: Path) -> None:
    clock = HandClock()
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.create_queue("q", QueueSettings(dead_letter_on_expiration=True)).result()
        disk = Disk(broker)
        send(broker, *(f"{number}" for number in range(400)), time_to_live=10)
        disk.fill()
        broker._core.connection.execute("PRAGMA query_only=ON")
        clock.advance(10)
        with pytest.raises(ProviderError, match="nothing was changed"):
            receive(broker)
        broker._core.connection.execute("PRAGMA query_only=OFF")
        disk.free()
        assert receive(broker) == []
        assert len(dead(broker)) == 400


def test_a_large_message_expires_although_it_does_not_fit_into_the_step_of_earlier_ones(clock: HandClock) -> None:
    with broker_with(clock) as broker:
        sizes = [STEP_BYTES // 16 * 7, STEP_BYTES // 16 * 10]
        for size in sizes:
            broker.send("q", [Message(b"x" * size, session_id="s", time_to_live=10)]).result()
        clock.advance(11)
        eventually(lambda: count_rows(broker, "messages") == 0)
