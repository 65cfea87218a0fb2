"""The clocks of the embedded broker: messages follow the machine's wall clock, and locks and waits do not."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from azsession import SessionLockedError
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    COMPLETE,
    HandClock,
    accept,
    at,
    bodies,
    broker_with,
    dead,
    messages,
    peek,
    receive,
    send,
    settle,
    waiting_receive,
)

HOURS = 3 * 3600.0
LONGEST = timedelta(days=999_999_999)


class CorrectedClock(Clock):
    """A real clock whose wall clock tests set."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = 0.0

    def now(self) -> float:
        return super().now() + self.correction


def test_a_scheduled_message_follows_a_correction_of_the_wall_clock_within_a_second() -> None:
    clock = CorrectedClock()
    with EmbeddedBroker(queues=["q"], clock=clock) as broker:
        waiting = waiting_receive(broker)
        send(broker, "a", scheduled_enqueue_time=at(clock, HOURS))
        assert waiting.running
        clock.correction += HOURS
        assert waiting.result(20) == ["a"]


def test_a_message_expires_when_the_wall_clock_is_set_forward() -> None:
    clock = CorrectedClock()
    with broker_with(clock, dead_letter_on_expiration=True) as broker:
        send(broker, "a", time_to_live=HOURS)
        clock.correction = HOURS
        run = broker._core.connection.execute
        # The broker's thread expires the message without any call.
        eventually(lambda: run("SELECT dead FROM queues").fetchone() == (1,))
        assert dead(broker) == [("a", "TTLExpiredException")]


def test_a_message_waits_longer_when_the_wall_clock_is_set_back(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "scheduled", scheduled_enqueue_time=at(clock, 60))
    send(broker, "expiring", session="t", time_to_live=60)
    clock.set_wall_clock(-HOURS)
    clock.advance(61)
    assert receive(broker, "A") == []
    assert peek(broker, "t") == ["expiring"]
    clock.advance(HOURS)
    assert bodies(receive(broker, "B")) == ["scheduled"]
    assert peek(broker, "t") == []


@pytest.mark.parametrize("step", [HOURS, -HOURS])
def test_locks_and_remembered_entries_do_not_follow_the_wall_clock(
    broker: EmbeddedBroker, clock: HandClock, step: float
) -> None:
    broker.send("q", messages("a"), "r1").result()
    (message,) = receive(broker, "A")
    clock.set_wall_clock(step)
    assert broker.renew("q", "s", "A").result() == 30
    broker.send("q", messages("a"), "r1").result()
    assert settle(broker, COMPLETE, message) == [None]
    assert settle(broker, COMPLETE, message) == [None]
    assert peek(broker) == []
    clock.advance(29)
    with pytest.raises(SessionLockedError) as caught:
        receive(broker, "B")
    assert caught.value.locked_until is not None
    assert caught.value.locked_until.timestamp() == pytest.approx(clock.now() + 1, abs=1e-3)
    clock.advance(1)
    assert accept(broker, "B", "s") == "s"


def test_duplicate_detection_accepts_ids_that_were_stored_before_the_wall_clock_was_set_back(path: Path) -> None:
    with EmbeddedBroker(path, clock=HandClock(now=2_000_000_000)) as broker:
        broker.create_queue("q", QueueSettings(requires_duplicate_detection=True, duplicate_detection_window=60)).result()
        send(broker, "a", message_id="m")
    clock = HandClock(now=1_000_000_000)
    with EmbeddedBroker(path, clock=clock) as broker:
        clock.advance(61)
        send(broker, "b", message_id="m")
        assert peek(broker) == ["a", "b"]
        send(broker, "b", message_id="m")
        assert peek(broker) == ["a", "b"]


@pytest.mark.parametrize("offset", [0, 14])
def test_the_latest_times_survive_storage(path: Path, clock: HandClock, offset: int) -> None:
    latest = datetime.max.replace(tzinfo=timezone(timedelta(hours=offset)))
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "last", scheduled_enqueue_time=latest, time_to_live=LONGEST)
        send(broker, "long", time_to_live=LONGEST)
    with EmbeddedBroker(path, clock=clock) as broker:
        last, long = sorted(broker.peek("q", "s", 0, 10).result(), key=lambda one: one.text())
        assert last.scheduled_enqueue_time is not None
        assert abs(last.scheduled_enqueue_time - latest) < timedelta(seconds=1)
        assert (last.state, long.state) == ("Scheduled", "Active")
        assert long.time_to_live == LONGEST
        assert bodies(receive(broker, "A", 10)) == ["long"]


@pytest.mark.parametrize("offset", [-14, 0])
def test_the_earliest_times_survive_storage(broker: EmbeddedBroker, offset: int) -> None:
    earliest = datetime.min.replace(tzinfo=timezone(timedelta(hours=offset)))
    send(broker, "a", scheduled_enqueue_time=earliest)
    (message,) = receive(broker, "A")
    assert message.scheduled_enqueue_time is not None
    assert message.scheduled_enqueue_time - datetime.min.replace(tzinfo=timezone.utc) < timedelta(hours=15)
