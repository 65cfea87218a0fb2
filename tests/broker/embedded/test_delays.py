"""Delayed abandons in the embedded broker: restarts, clocks, expiry, and what ends a delay."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import QueueSettings, SessionLockedError
from azsession.broker.calls import Disposition, Settlement
from azsession.broker.embedded import EmbeddedBroker

from .helpers import HandClock, accept, bodies, messages, peek, receive, send


def abandon(broker: EmbeddedBroker, delay: float, lock: str = "A", session: str = "s") -> None:
    """Receive a message and abandon it with a delay."""
    (message,) = receive(broker, lock=lock, session=session)
    settlement = Settlement(message.receipt.handle, Disposition.ABANDON, delay=delay)
    assert broker.settle("q", session, [settlement]).result() == [None]


def test_a_delay_survives_a_restart(tmp_path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(tmp_path / "data", queues=["q"], clock=clock) as broker:
        send(broker, "a", "b")
        abandon(broker, 100)
    clock.advance(40)
    with EmbeddedBroker(tmp_path / "data", clock=clock) as broker:
        with pytest.raises(SessionLockedError) as caught:
            receive(broker, lock="B")
        assert caught.value.retry_after == pytest.approx(60, abs=0.1)
        assert accept(broker, "B") is None
        (info,) = broker.list_sessions("q", None, 10).result()
        assert info.locked_until is not None
        clock.advance(60.1)
        assert accept(broker, "B") is not None
        assert bodies(receive(broker, lock="B", count=2)) == ["a", "b"]
    with EmbeddedBroker(tmp_path / "data", clock=clock) as broker:
        assert bodies(receive(broker, lock="C")) == ["a"]


def test_a_wall_clock_that_is_set_does_not_change_a_delay(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    abandon(broker, 100)
    clock.set_wall_clock(10_000)
    assert receive(broker) == []
    clock.set_wall_clock(-20_000)
    clock.advance(100.1)
    assert bodies(receive(broker, lock="B")) == ["a"]


def test_a_wall_clock_set_back_between_two_runs_does_not_lengthen_a_delay(tmp_path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(tmp_path / "data", queues=["q"], clock=clock) as broker:
        send(broker, "a")
        abandon(broker, 100)
    clock.set_wall_clock(-100_000)
    with EmbeddedBroker(tmp_path / "data", clock=clock) as broker:
        clock.advance(100.1)
        assert bodies(receive(broker, lock="B")) == ["a"]


def test_a_lock_that_expires_meanwhile_does_not_end_the_delay(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    abandon(broker, 100)
    clock.advance(31)
    with pytest.raises(SessionLockedError):
        receive(broker, lock="B")
    clock.advance(70)
    (message,) = receive(broker, lock="B")
    assert message.delivery_count == 2


def test_of_two_delays_the_one_that_ends_last_counts(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b")
    first, second = receive(broker, count=2)
    for message, delay in ((first, 20.0), (second, 10.0)):
        broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.ABANDON, delay=delay)]).result()
    clock.advance(15)
    assert receive(broker) == []
    clock.advance(6)
    assert bodies(receive(broker, count=2)) == ["a", "b"]


def test_a_message_at_its_limit_is_dead_lettered_and_delays_nothing(clock: HandClock) -> None:
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(max_delivery_count=1)).result()
        send(broker, "a", "b")
        abandon(broker, 100)
        assert peek(broker) == ["b"]
        assert bodies(receive(broker)) == ["b"]


def test_a_repeated_abandon_does_not_delay_again(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    settlement = Settlement(message.receipt.handle, Disposition.ABANDON, delay=10)
    broker.settle("q", "s", [settlement]).result()
    clock.advance(8)
    assert broker.settle("q", "s", [settlement]).result() == [None]
    clock.advance(2.1)
    assert bodies(receive(broker)) == ["a"]


def test_many_delayed_sessions_do_not_slow_down_an_accept(broker: EmbeddedBroker, clock: HandClock) -> None:
    for number in range(300):
        broker.send("q", messages("x", session=f"s{number}")).result()
        abandon(broker, 1000 + number, lock=f"L{number}", session=f"s{number}")
        broker.release("q", f"s{number}", f"L{number}").result()
    assert accept(broker, "B") is None
    send(broker, "y", session="t")
    assert accept(broker, "B") == "t"
    broker.release("q", "t", "B").result()
    clock.advance(1000.5)
    assert [accept(broker, lock) for lock in "CDE"] == ["s0", "t", None]


def test_deleting_a_queue_ends_its_delays(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    abandon(broker, 100)
    broker.delete_queue("q").result()
    broker.create_queue("q", QueueSettings()).result()
    send(broker, "b")
    assert bodies(receive(broker, lock="B")) == ["b"]
