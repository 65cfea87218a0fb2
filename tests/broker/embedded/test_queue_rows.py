"""Peeking at all messages of a queue."""

from __future__ import annotations

from datetime import timedelta

from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.queue_rows import SCANNED
from azsession.queues import QueueSettings

from .helpers import COMPLETE, DEAD_LETTER, DEFER, JobLog, at, bodies, receive, send, send_many, settle


def all_of(broker: EmbeddedBroker, count: int = 1000, start: int = 0) -> list[tuple[str, str, str]]:
    found = broker.peek("q", None, start, count).result()
    return [(one.session_id or "", one.text(), one.state) for one in found]


def test_messages_of_all_sessions_come_by_sequence_number_with_their_states(broker: EmbeddedBroker, clock: Clock) -> None:
    send(broker, "a1", session="a")
    send(broker, "b1", "b2", session="b")
    send(broker, "later", session="only scheduled", scheduled_enqueue_time=at(clock, 3600))
    send(broker, "a2", "a3", session="a")
    [a1, a2] = receive(broker, "A", 2, session="a")
    settle(broker, DEFER, a1, session="a")
    settle(broker, DEAD_LETTER, a2, session="a", reason="bad")
    [b1] = receive(broker, "B", session="b")
    settle(broker, COMPLETE, b1, session="b")
    assert all_of(broker) == [
        ("a", "a1", "Deferred"),
        ("b", "b2", "Active"),
        ("only scheduled", "later", "Scheduled"),
        ("a", "a3", "Active"),
    ]


def test_other_queues_are_not_seen(broker: EmbeddedBroker) -> None:
    broker.create_queue("r", QueueSettings()).result()
    send(broker, "mine")
    send(broker, "other", queue="r")
    assert all_of(broker) == [("s", "mine", "Active")]
    assert bodies(broker.peek("r", None, 0, 10).result()) == ["other"]


def test_pages_join_without_gaps(broker: EmbeddedBroker) -> None:
    send_many(broker, 25)
    seen: list[str] = []
    start = 0
    while page := broker.peek("q", None, start, 7).result():
        assert len(page) <= 7
        seen += bodies(page)
        start = page[-1].sequence_number + 1
    assert seen == [str(number) for number in range(25)]


def test_many_dead_letters_in_front_are_passed_in_steps(broker: EmbeddedBroker) -> None:
    send_many(broker, 3 * SCANNED, time_to_live=timedelta(hours=1))
    receive(broker)
    broker.dead_letter_session("q", "s", "A", "old", None).result()
    send(broker, "behind")
    log = JobLog(broker)
    assert all_of(broker) == [("s", "behind", "Active")]
    assert len(log.rows) >= 3


def test_an_unknown_number_returns_nothing(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    assert all_of(broker, start=2**62) == []
    assert all_of(broker, start=-5) == [("s", "a", "Active")]
