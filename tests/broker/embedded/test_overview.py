"""The numbers of queues, and the list of sessions."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

import attrs
import pytest

from azsession import Message, QueueNotFoundError, QueueStatistics, ReceivedMessage, SessionInfo
from azsession.broker.calls import AcceptRequest, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings

from .helpers import ABANDON, COMPLETE, DEAD_LETTER, DEFER, HandClock, receive, send, settle


def numbers(broker: EmbeddedBroker, queue: str = "q") -> dict[str, object]:
    """Return the numbers that are not 0, and the age of the oldest message in seconds, unless it is 0."""
    found = attrs.asdict(broker.queue_statistics(queue).result())
    assert found.pop("name") == queue
    oldest = found.pop("oldest_enqueued_at")
    if oldest is not None:
        found["age"] = (datetime.fromtimestamp(broker._core.clock.now(), timezone.utc) - oldest).total_seconds()
    return {name.removesuffix("_count"): value for name, value in found.items() if value}


def abandon_for(broker: EmbeddedBroker, message: ReceivedMessage, seconds: float) -> None:
    assert message.session_id is not None
    settlement = Settlement(message.receipt.handle, ABANDON, delay=seconds)
    assert broker.settle("q", message.session_id, [settlement]).result() == [None]


def infos(broker: EmbeddedBroker) -> dict[str, SessionInfo]:
    return {info.session_id: info for info in broker.list_sessions("q", None, 1000).result()}


def test_messages_are_counted_by_their_state(broker: EmbeddedBroker, clock: HandClock) -> None:
    assert numbers(broker) == {}
    later = datetime.fromtimestamp(clock.now() + 100, timezone.utc)
    send(broker, "complete", "defer", "dead", "abandon", "rest")
    send(broker, "scheduled", "scheduled", scheduled_enqueue_time=later)
    broker.create_queue("other", QueueSettings()).result()
    send(broker, "x", queue="other")
    assert numbers(broker) == {"active": 5, "scheduled": 2, "session": 1, "waiting_session": 1}
    found = receive(broker, "A", 5)
    for message, disposition in zip(found, (COMPLETE, DEFER, DEAD_LETTER, ABANDON), strict=False):
        settle(broker, disposition, message)
    # Unsettled messages stay active.
    locked = {"active": 2, "scheduled": 2, "deferred": 1, "dead_letter": 1, "session": 1, "locked_session": 1}
    assert numbers(broker) == locked
    clock.advance(29)
    assert numbers(broker) == {**locked, "age": 29}
    clock.advance(2)
    assert numbers(broker) == {
        **{name: value for name, value in locked.items() if name != "locked_session"},
        "waiting_session": 1,
        "age": 31,
    }
    clock.advance(100)
    assert numbers(broker)["active"] == 4
    assert "scheduled" not in numbers(broker)
    broker.purge("q", "s").result()
    assert numbers(broker) == {"dead_letter": 1}
    assert numbers(broker, "other")["active"] == 1


def test_sessions_are_counted_by_their_holders(broker: EmbeddedBroker, clock: HandClock) -> None:
    for name in ("held", "held too", "free", "delayed", "held and delayed"):
        send(broker, "x", "y", session=name)
        clock.advance(1)
    taken = {}
    for name in ("held", "held too", "empty", "delayed", "held and delayed"):
        taken[name] = receive(broker, name, 2, session=name)
        if "delayed" in name:
            abandon_for(broker, taken[name][0], 20.0)
    broker.release("q", "delayed", "delayed").result()
    counted = {"active": 10, "session": 5, "locked_session": 4, "waiting_session": 1}
    assert numbers(broker) == {**counted, "age": 5}
    # The oldest message is found in locked, free and delayed sessions.
    settle(broker, COMPLETE, *taken["held"], session="held")
    assert numbers(broker)["age"] == 4
    settle(broker, COMPLETE, *taken["held too"], session="held too")
    assert numbers(broker)["age"] == 3
    settle(broker, COMPLETE, *receive(broker, "F", 2, session="free"), session="free")
    assert numbers(broker) == {"active": 4, "session": 2, "locked_session": 5, "age": 2}
    clock.advance(20)
    settle(broker, COMPLETE, *receive(broker, "D", 2, session="delayed"), session="delayed")
    assert numbers(broker) == {"active": 2, "session": 1, "locked_session": 6, "age": 21}


def test_the_first_messages_of_many_locked_sessions_are_found(broker: EmbeddedBroker, clock: HandClock) -> None:
    count = 500
    broker.send("q", [Message("x", session_id=str(number)) for number in range(count)]).result()
    for number in range(count):
        receive(broker, str(number), session=str(number))
    clock.advance(5)
    assert numbers(broker) == {"active": count, "session": count, "locked_session": count, "age": 5}


def test_a_transaction_that_fails_changes_no_number(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "x")
        before = numbers(broker)
        broker._core.connection.execute(
            "CREATE TEMP TRIGGER full BEFORE INSERT ON deliveries BEGIN SELECT raise(FAIL, 'disk'); END"
        )
        with pytest.raises(Exception, match="disk"):
            receive(broker, "A")
        broker._core.connection.execute("DROP TRIGGER full")
        assert numbers(broker) == before
        receive(broker, "A")
        assert numbers(broker)["locked_session"] == 1


def test_a_queue_that_does_not_exist_has_no_numbers() -> None:
    with EmbeddedBroker(auto_create=True) as broker:
        receive(broker, queue="awaited")
        for name in ("awaited", "nowhere"):
            with pytest.raises(QueueNotFoundError):
                broker.queue_statistics(name).result()
        assert broker.list_queues().result() == []


def test_numbers_survive_a_restart_except_the_locks(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "x", "y")
        receive(broker, "A")
        before = broker.queue_statistics("q").result()
    with EmbeddedBroker(path) as broker:
        after = broker.queue_statistics("q").result()
    assert before.locked_session_count == 1
    assert after == attrs.evolve(before, locked_session_count=0, waiting_session_count=1)


def test_sessions_are_described(broker: EmbeddedBroker, clock: HandClock) -> None:
    start = datetime.fromtimestamp(clock.now(), timezone.utc)
    send(broker, "one", session="a")
    clock.advance(3)
    send(broker, "two", "three", session="a")
    send(broker, "x", session="b")
    broker.receive(ReceiveRequest("q", "a", "A", max_count=2, timeout=0, client="host:7")).result()
    broker.receive(ReceiveRequest("q", "b", "B", max_count=1, timeout=0)).result()
    broker.set_state("q", "b", "B", b"").result()
    found = infos(broker)
    assert found["a"] == SessionInfo(
        "a",
        3,
        start + timedelta(seconds=33),
        holder="host:7",
        deferred_count=0,
        has_state=False,
        oldest_enqueued_at=start,
    )
    assert (found["b"].holder, found["b"].has_state) == ("unknown client", True)
    (first,) = receive(broker, "A", 1, session="a")
    settle(broker, DEFER, first, session="a")
    assert infos(broker)["a"].deferred_count == 1
    broker.release("q", "a", "A").result()
    assert (infos(broker)["a"].holder, infos(broker)["a"].locked_until) == (None, None)


def test_the_holder_is_the_client_that_used_the_lock_last(broker: EmbeddedBroker) -> None:
    send(broker, "x")

    def client_after(name: str) -> str | None:
        broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=0, client=name)).result()
        return infos(broker)["s"].holder

    broker.accept(AcceptRequest("q", None, "A", timeout=0, client="first")).result()
    assert infos(broker)["s"].holder == "first"
    assert [client_after(name) for name in ("", "second", "")] == ["first", "second", "second"]


def test_a_delayed_session_has_no_holder(broker: EmbeddedBroker) -> None:
    send(broker, "x")
    (message,) = receive(broker)
    abandon_for(broker, message, 20.0)
    broker.release("q", "s", "A").result()
    (info,) = infos(broker).values()
    assert info.locked_until is not None
    assert info.holder is None


@pytest.mark.parametrize("queue", ["q"])
def test_counting_reads_few_rows_of_a_long_queue(broker: EmbeddedBroker, queue: str) -> None:
    for start in range(0, 20_000, 1000):
        broker.send("q", [Message("x", session_id=str(number % 7000)) for number in range(start, start + 1000)]).result()
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection: sqlite3.Connection = broker._core.connection
    connection.set_progress_handler(count, 1)
    found = broker.queue_statistics(queue).result()
    connection.set_progress_handler(None, 0)
    assert (found.active_count, found.session_count) == (20_000, 7000)
    # SQLite's virtual machine would take some instructions for each row.
    assert steps < 500
    assert isinstance(found, QueueStatistics)
