"""Entries that the embedded broker remembers for some minutes: request ids, settlements, and message ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import ProviderError
from azsession.broker.calls import Disposition
from azsession.broker.embedded import EmbeddedBroker, remembered
from azsession.broker.embedded.jobs import Transaction
from azsession.queues import QueueSettings

from .helpers import (
    ABANDON,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    HandClock,
    bodies,
    broker_with,
    dead,
    messages,
    peek,
    receive,
    send,
    settle,
)

# Request ids


def test_sending_again_with_the_same_request_id_stores_the_messages_once(broker: EmbeddedBroker, clock: HandClock) -> None:
    for _ in range(3):
        broker.send("q", messages("a", "b"), "r1").result()
        clock.advance(199)
    assert peek(broker) == ["a", "b"]
    broker.send("q", messages("c"), "r2").result()
    assert peek(broker) == ["a", "b", "c"]


def test_a_request_id_is_remembered_for_at_least_ten_minutes(broker: EmbeddedBroker, clock: HandClock) -> None:
    for step in range(30):
        broker.send("q", messages(f"m{step}"), f"r{step}").result()
        clock.advance(97)
        for earlier in range(max(0, step - 5), step + 1):
            broker.send("q", messages(f"m{earlier}"), f"r{earlier}").result()
    assert peek(broker) == [f"m{step}" for step in range(30)]


def test_old_request_ids_are_deleted(broker: EmbeddedBroker, clock: HandClock) -> None:
    for step in range(50):
        broker.send("q", messages("m"), f"r{step}").result()
        clock.advance(100)
    run = broker._core.connection.execute
    assert sum(run(f"SELECT count(*) FROM requests_{table}").fetchone()[0] for table in (0, 1)) <= 13


def test_two_queues_can_get_the_same_request_id(broker: EmbeddedBroker) -> None:
    broker.create_queue("other", QueueSettings()).result()
    broker.send("q", messages("a"), "r1").result()
    broker.send("other", messages("b"), "r1").result()
    assert bodies(broker.peek("other", "s", 0, 10).result()) == ["b"]


def test_request_ids_survive_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        broker.send("q", messages("a"), "r1").result()
    clock.advance(599)
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.send("q", messages("a"), "r1").result()
        assert peek(broker) == ["a"]


def test_request_ids_survive_a_failed_write_at_the_end_of_their_period(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        broker.send("q", messages("first"), "r0").result()
        clock.advance(601)
        run = broker._core.connection.execute
        (pages,) = run("PRAGMA page_count").fetchone()
        run(f"PRAGMA max_page_count={pages}")
        with pytest.raises(ProviderError, match="full"):
            broker.send("q", messages("x" * 100_000), "r1").result()
        run("PRAGMA max_page_count=1000000")
        broker.send("q", messages("second"), "r2").result()
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.send("q", messages("third"), "r3").result()
        broker.send("q", messages("second"), "r2").result()
        assert peek(broker) == ["first", "second", "third"]


def test_request_ids_survive_two_requests_in_a_transaction_that_fails_at_the_end_of_their_period(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    core = broker._core

    def failing(tx: Transaction) -> None:
        for request in ("r1", "r2"):
            core.remembered.is_repeated(core.queue("q").id, request, clock.steady())
        raise ZeroDivisionError

    broker.send("q", messages("first"), "r0").result()
    clock.advance(601)
    with pytest.raises(ZeroDivisionError):
        core.perform(failing)
    broker.send("q", messages("second"), "r3").result()
    clock.advance(601)
    broker.send("q", messages("third"), "r4").result()
    assert core.remembered.is_repeated(core.queue("q").id, "r3", clock.steady()), "an entry lives for at least one period"
    broker.send("q", messages("second"), "r3").result()
    assert peek(broker) == ["first", "second", "third"]


def test_request_ids_survive_a_wall_clock_that_is_set_back_between_two_runs(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=HandClock(now=2_000_000_000)) as broker:
        broker.send("q", messages("a"), "r1").result()
    back = HandClock(now=1_000_000_000)
    with EmbeddedBroker(path, clock=back) as broker:
        broker.send("q", messages("b"), "r2").result()
        back.advance(500)
        broker.send("q", messages("a"), "r1").result()
        broker.send("q", messages("b"), "r2").result()
        assert peek(broker) == ["a", "b"]


# Duplicate detection


def test_a_message_id_is_accepted_once_within_the_window(clock: HandClock) -> None:
    with broker_with(clock, requires_duplicate_detection=True, duplicate_detection_window=60) as broker:
        send(broker, "a", message_id="m1")
        clock.advance(59)
        send(broker, "again", message_id="m1")
        send(broker, "again", message_id="m1", session="other")
        send(broker, "b", message_id="m2")
        send(broker, "c", "d")
        assert peek(broker) == ["a", "b", "c", "d"]
        assert peek(broker, "other") == []
        clock.advance(1)
        send(broker, "e", message_id="m1")
        assert peek(broker) == ["a", "b", "c", "d", "e"]


def test_duplicates_within_one_batch_are_detected(clock: HandClock) -> None:
    with broker_with(clock, requires_duplicate_detection=True) as broker:
        broker.send("q", [*messages("a", message_id="m"), *messages("b", message_id="m"), *messages("c")]).result()
        assert peek(broker) == ["a", "c"]


def test_a_message_is_a_duplicate_of_a_completed_one(clock: HandClock) -> None:
    with broker_with(clock, requires_duplicate_detection=True) as broker:
        send(broker, "a", message_id="m")
        settle(broker, COMPLETE, *receive(broker))
        send(broker, "a", message_id="m")
        assert peek(broker) == []


def test_duplicate_detection_survives_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, clock=clock) as broker:
        broker.create_queue("q", QueueSettings(requires_duplicate_detection=True)).result()
        send(broker, "a", message_id="m")
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "a", message_id="m")
        assert peek(broker) == ["a"]


def test_a_message_id_can_repeat_without_duplicate_detection(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", message_id="m")
    assert peek(broker) == ["a", "b"]


def test_message_ids_are_deleted_after_their_window() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        settings = QueueSettings(requires_duplicate_detection=True, duplicate_detection_window=20)
        broker.create_queue("q", settings).result()
        for number in range(50):
            send(broker, "x", message_id=f"m-{number}")
            clock.advance(5)
        assert rows(broker, "duplicates") <= 4


# Settlements


@pytest.mark.parametrize("kind", [COMPLETE, ABANDON, DEFER, DEAD_LETTER])
def test_a_settlement_is_remembered_for_five_minutes(broker: EmbeddedBroker, clock: HandClock, kind: Disposition) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    assert settle(broker, kind, message) == [None]
    for _ in range(10):
        for other in (COMPLETE, ABANDON, DEFER, DEAD_LETTER):
            assert settle(broker, other, message) == [None if other is kind else "Conflict"]
        clock.advance(29.9)
    assert len(peek(broker)) + len(dead(broker)) == (0 if kind is COMPLETE else 1)


def test_old_settlements_are_deleted(broker: EmbeddedBroker, clock: HandClock) -> None:
    for _ in range(50):
        send(broker, "m")
        settle(broker, COMPLETE, *receive(broker, ""))
        clock.advance(50)
    run = broker._core.connection.execute
    assert sum(run(f"SELECT count(*) FROM settled_{table}").fetchone()[0] for table in (0, 1)) <= 13


def test_settlements_are_remembered_across_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        (message,) = receive(broker)
        settle(broker, COMPLETE, message)
    with EmbeddedBroker(path, clock=clock) as broker:
        assert settle(broker, COMPLETE, message) == [None]
        assert settle(broker, ABANDON, message) == ["Conflict"]


def rows(broker: EmbeddedBroker, *tables: str) -> int:
    run = broker._core.connection.execute
    return sum(run(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def test_the_numbers_of_remembered_settlements_and_requests_stay_bounded() -> None:
    clock = HandClock()
    with EmbeddedBroker(queues=["q"], clock=clock) as broker:
        counts = []
        for number in range(12):
            for request in range(20):
                broker.send("q", messages("x"), f"r-{number}-{request}").result()
            settle(broker, COMPLETE, *receive(broker, f"holder-{number}", 20))
            broker.release("q", "s", f"holder-{number}").result()
            counts.append(rows(broker, "settled_0", "settled_1") + rows(broker, "requests_0", "requests_1"))
            clock.advance(remembered.REQUESTS_SECONDS / 2)
        # Settlements and requests are remembered for one to two of their periods.
        assert max(counts[6:]) <= max(counts[:6]) <= 20 * 2 * 2 + 20 * 4
