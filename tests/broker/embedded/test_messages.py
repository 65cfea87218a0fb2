"""What the embedded broker does with messages: order, deliveries, times, dead letters, and what it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from azsession import Message, ProviderError, QueueNotFoundError, ValidationError
from azsession.broker.base import Disposition, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from . import (
    ABANDON,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    HandClock,
    accept,
    bodies,
    dead,
    messages,
    peek,
    receive,
    send,
    settle,
)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.db"


@pytest.fixture
def broker(clock: HandClock) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(clock=clock) as made:
        made.create_queue("q", QueueSettings(lock_duration=30, max_delivery_count=3)).result()
        yield made


def with_settings(clock: HandClock, **fields: object) -> EmbeddedBroker:
    broker = EmbeddedBroker(clock=clock)
    broker.create_queue("q", QueueSettings(lock_duration=30, **fields)).result()  # type: ignore[arg-type]
    return broker


def numbers(broker: EmbeddedBroker, session: str = "s") -> list[int | None]:
    return [one.sequence_number for one in broker.peek("q", session, 0, 1000).result()]


def at(clock: HandClock, seconds: float) -> datetime:
    return datetime.fromtimestamp(clock.now() + seconds, timezone.utc)


# Sending


def test_sequence_numbers_rise_with_the_order_of_acceptance_across_sessions(broker: EmbeddedBroker) -> None:
    broker.send("q", [*messages("a", session="x"), *messages("b", session="y"), *messages("c", session="x")]).result()
    send(broker, "d", session="y")
    (a, c), (b, d) = numbers(broker, "x"), numbers(broker, "y")
    assert [a, b, c, d] == sorted({a, b, c, d})  # type: ignore[type-var]


def test_a_batch_with_a_message_of_no_session_is_refused_as_a_whole(broker: EmbeddedBroker) -> None:
    with pytest.raises(ValidationError, match="session_id"):
        broker.send("q", [*messages("a"), Message(b"b")]).result()
    assert peek(broker) == []


def test_a_message_comes_back_as_it_was_sent(broker: EmbeddedBroker, clock: HandClock) -> None:
    sent = Message(
        bytes(range(256)),
        session_id="s",
        message_id="m-1",
        subject="été",
        content_type="text/plain",
        correlation_id="c",
        reply_to="back",
        reply_to_session_id="there",
        to="you",
        time_to_live=timedelta(days=1),
        attributes={"a": 1, "b": 1.5, "c": True, "d": "ü"},
    )
    broker.send("q", [sent]).result()
    (received,) = receive(broker)
    for name in Message.__slots__:
        if not name.startswith("__"):
            assert getattr(received, name) == getattr(sent, name), name
    assert {type(value) for value in received.attributes.values()} == {int, float, bool, str}
    assert received.enqueued_at == at(clock, 0)
    assert received.receipt.expires_at == at(clock, 30)


def test_an_unknown_queue_is_refused_unless_queues_are_made_on_use() -> None:
    with EmbeddedBroker() as broker, pytest.raises(QueueNotFoundError):
        send(broker, "a")
    with EmbeddedBroker(auto_create=True) as broker:
        send(broker, "a")
        assert peek(broker) == ["a"]


def test_a_send_with_the_same_request_id_does_not_double(broker: EmbeddedBroker, clock: HandClock) -> None:
    for _ in range(3):
        broker.send("q", messages("a", "b"), "r1").result()
        clock.advance(199)
    assert peek(broker) == ["a", "b"]
    broker.send("q", messages("c"), "r2").result()
    assert peek(broker) == ["a", "b", "c"]


def test_a_request_id_is_remembered_for_ten_minutes_whenever_it_came(broker: EmbeddedBroker, clock: HandClock) -> None:
    for step in range(30):
        broker.send("q", messages(f"m{step}"), f"r{step}").result()
        clock.advance(97)
        for earlier in range(max(0, step - 5), step + 1):
            broker.send("q", messages(f"m{earlier}"), f"r{earlier}").result()
    assert peek(broker) == [f"m{step}" for step in range(30)]


def test_request_ids_do_not_pile_up(broker: EmbeddedBroker, clock: HandClock) -> None:
    for step in range(50):
        broker.send("q", messages("m"), f"r{step}").result()
        clock.advance(100)
    run = broker._core.connection.execute
    assert sum(run(f"SELECT count(*) FROM requests_{table}").fetchone()[0] for table in (0, 1)) <= 13


def test_a_request_id_belongs_to_its_queue(broker: EmbeddedBroker) -> None:
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


def test_what_is_remembered_outlives_a_failed_turnover_and_a_restart(path: Path, clock: HandClock) -> None:
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


def test_a_clock_that_was_set_back_between_two_runs_does_not_forget(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=HandClock(now=2_000_000_000)) as broker:
        broker.send("q", messages("a"), "r1").result()
    back = HandClock(now=1_000_000_000)
    with EmbeddedBroker(path, clock=back) as broker:
        broker.send("q", messages("b"), "r2").result()
        back.advance(500)
        broker.send("q", messages("a"), "r1").result()
        broker.send("q", messages("b"), "r2").result()
        assert peek(broker) == ["a", "b"]


def test_duplicate_detection_goes_by_message_id_in_its_window(clock: HandClock) -> None:
    with with_settings(clock, requires_duplicate_detection=True, duplicate_detection_window=60) as broker:
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


def test_duplicate_detection_sees_duplicates_in_one_batch(clock: HandClock) -> None:
    with with_settings(clock, requires_duplicate_detection=True) as broker:
        broker.send("q", [*messages("a", message_id="m"), *messages("b", message_id="m"), *messages("c")]).result()
        assert peek(broker) == ["a", "c"]


def test_a_message_that_was_completed_is_still_a_duplicate(clock: HandClock) -> None:
    with with_settings(clock, requires_duplicate_detection=True) as broker:
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


def test_without_duplicate_detection_a_message_id_may_come_again(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", message_id="m")
    assert peek(broker) == ["a", "b"]


@pytest.mark.parametrize("removed", ["nothing", "the last message", "all messages"])
def test_sequence_numbers_are_not_used_again_after_a_restart(path: Path, clock: HandClock, removed: str) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a", "b", "c")
        highest = numbers(broker)[-1]
        if removed != "nothing":
            a, b, c = receive(broker, count=3)
            settle(broker, COMPLETE, *([c] if removed == "the last message" else [a, b, c]))
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "d")
        assert numbers(broker)[-1] > highest  # type: ignore[operator]


def test_the_number_of_a_resubmitted_message_is_not_used_again_after_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        settle(broker, DEAD_LETTER, *receive(broker))
        broker.resubmit("q", 1).result()
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "b")
        assert peek(broker) == ["a", "b"]
        assert len(set(numbers(broker))) == 2


# Deliveries


def test_the_first_delivery_counts_one(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 1).result()] == [0]
    assert [one.delivery_count for one in receive(broker)] == [1]


def test_a_message_abandoned_at_its_last_delivery_is_dead_lettered(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    for count in (1, 2, 3):
        (message,) = receive(broker)
        assert (message.body, message.delivery_count) == (b"a", count)
        assert settle(broker, ABANDON, message) == [None]
    assert bodies(receive(broker)) == ["b"]
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]


def test_lost_locks_count_when_the_message_would_be_delivered_again(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b")
    for count in (1, 2, 3):
        (message,) = receive(broker, f"lock {count}")
        assert (message.body, message.delivery_count) == (b"a", count)
        clock.advance(30)
    assert dead(broker) == []
    assert bodies(receive(broker, "last")) == ["b"]
    assert dead(broker) == [("a", "MaxDeliveryCountExceeded")]
    (letter,) = broker.dead_letters("q", 0, 10).result()
    assert (letter.session_id, letter.delivery_count, letter.state) == ("s", 3, "DeadLettered")


def test_a_receive_passes_over_many_messages_that_failed_too_often(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, *(f"{number}" for number in range(50)), "good")
    for attempt in range(3):
        receive(broker, f"lock {attempt}", 50)
        clock.advance(30)
    assert bodies(receive(broker, "last")) == ["good"]
    assert len(dead(broker)) == 50


def test_a_receive_tried_again_gets_the_same_messages(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    first = receive(broker, count=2, request_id="r1")
    again = receive(broker, count=2, request_id="r1")
    assert [(one.body, one.delivery_count, one.receipt.handle) for one in again] == [
        (one.body, one.delivery_count, one.receipt.handle) for one in first
    ]
    assert bodies(receive(broker, count=2, request_id="r2")) == ["c"]


def test_a_receive_tried_again_after_its_lock_ended_gets_nothing_of_it(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    (first,) = receive(broker, "", request_id="r1")
    clock.advance(30)
    (again,) = receive(broker, "", request_id="r1")
    assert again.delivery_count == 2
    assert again.receipt.handle != first.receipt.handle


def test_a_receive_that_came_empty_may_bring_something_when_tried_again(broker: EmbeddedBroker) -> None:
    assert receive(broker, request_id="r1") == []
    send(broker, "a")
    assert bodies(receive(broker, request_id="r1")) == ["a"]


# Settling


@pytest.mark.parametrize("kind", [COMPLETE, ABANDON, DEFER, DEAD_LETTER])
def test_a_settle_is_remembered_for_five_minutes(broker: EmbeddedBroker, clock: HandClock, kind: Disposition) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    assert settle(broker, kind, message) == [None]
    for _ in range(10):
        for other in (COMPLETE, ABANDON, DEFER, DEAD_LETTER):
            assert settle(broker, other, message) == [None if other is kind else "Conflict"]
        clock.advance(29.9)
    assert len(peek(broker)) + len(dead(broker)) == (0 if kind is COMPLETE else 1)


def test_settles_do_not_pile_up_in_memory_of_them(broker: EmbeddedBroker, clock: HandClock) -> None:
    for _ in range(50):
        send(broker, "m")
        settle(broker, COMPLETE, *receive(broker, ""))
        clock.advance(50)
    run = broker._core.connection.execute
    assert sum(run(f"SELECT count(*) FROM settled_{table}").fetchone()[0] for table in (0, 1)) <= 13


def test_a_settle_survives_a_restart_in_memory(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        (message,) = receive(broker)
        settle(broker, COMPLETE, message)
    with EmbeddedBroker(path, clock=clock) as broker:
        assert settle(broker, COMPLETE, message) == [None]
        assert settle(broker, ABANDON, message) == ["Conflict"]


def test_a_restart_ends_all_locks_and_tokens(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        (message,) = receive(broker, "A")
    with EmbeddedBroker(path, clock=clock) as broker:
        assert settle(broker, COMPLETE, message) == ["SessionLockLost"]
        (again,) = receive(broker, "B")
        assert again.delivery_count == 2
        assert settle(broker, COMPLETE, message) == ["MessageLockLost"]


@pytest.mark.parametrize("token", ["", "x", "0" * 36, "g" * 32, "00000000-0000-0000-0000-000000000000", "é" * 36])
def test_an_unknown_token_settles_nothing(broker: EmbeddedBroker, token: str) -> None:
    send(broker, "a")
    receive(broker)
    assert broker.settle("q", "s", [Settlement(token, COMPLETE)]).result() == ["MessageLockLost"]
    assert broker.settle("q", "other", [Settlement(token, COMPLETE)]).result() == ["SessionLockLost"]
    assert peek(broker) == ["a"]


def test_a_token_settles_nothing_in_another_session(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    receive(broker, "B", session="other")
    assert settle(broker, COMPLETE, message, session="other") == ["MessageLockLost"]
    assert peek(broker) == ["a"]


def test_one_request_settles_each_message_in_its_way(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c", "d")
    a, b, c, d = receive(broker, count=4)
    codes = broker.settle(
        "q",
        "s",
        [
            Settlement(a.receipt.handle, COMPLETE),
            Settlement(b.receipt.handle, ABANDON),
            Settlement(c.receipt.handle, DEFER),
            Settlement("unknown", COMPLETE),
            Settlement(d.receipt.handle, DEAD_LETTER, "why", "more"),
            Settlement(a.receipt.handle, COMPLETE),
            Settlement(a.receipt.handle, ABANDON),
        ],
    ).result()
    assert codes == [None, None, None, "MessageLockLost", None, None, "Conflict"]
    assert [(one.body, one.state) for one in broker.peek("q", "s", 0, 10).result()] == [(b"b", "Active"), (b"c", "Deferred")]
    (letter,) = broker.dead_letters("q", 0, 10).result()
    assert (letter.body, letter.dead_letter_reason, letter.dead_letter_description) == (b"d", "why", "more")


# Time to live


@pytest.mark.parametrize("keep", [False, True])
def test_an_expired_message_is_dropped_or_dead_lettered_as_the_queue_says(clock: HandClock, keep: bool) -> None:
    with with_settings(clock, dead_letter_on_expiration=keep) as broker:
        send(broker, "short", time_to_live=10)
        send(broker, "long", time_to_live=20)
        clock.advance(9.9)
        assert peek(broker) == ["short", "long"]
        clock.advance(0.1)
        assert peek(broker) == ["long"]
        assert bodies(receive(broker, count=10)) == ["long"]
        assert dead(broker) == ([("short", "TTLExpiredException")] if keep else [])


def test_the_queues_time_to_live_caps_that_of_its_messages(clock: HandClock) -> None:
    with with_settings(clock, default_time_to_live=10.0) as broker:
        send(broker, "none")
        send(broker, "long", time_to_live=100)
        send(broker, "short", time_to_live=5)
        clock.advance(5)
        assert peek(broker) == ["none", "long"]
        clock.advance(5)
        assert peek(broker) == []


def test_a_message_in_hand_does_not_expire(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", time_to_live=10)
    (message,) = receive(broker)
    clock.advance(20)
    assert peek(broker) == ["a"]
    assert settle(broker, COMPLETE, message) == [None]


@pytest.mark.parametrize("how", ["expiry", "release", "abandon", "abandon and release", "defer"])
def test_a_message_that_expired_in_hand_is_buried_when_it_comes_back(clock: HandClock, how: str) -> None:
    with with_settings(clock, dead_letter_on_expiration=True) as broker:
        send(broker, "a", time_to_live=10)
        (message,) = receive(broker)
        clock.advance(20)
        assert dead(broker) == []
        if "abandon" in how or how == "defer":
            settle(broker, DEFER if how == "defer" else ABANDON, message)
        if "release" in how:
            broker.release("q", "s", "A").result()
        if how == "expiry":
            clock.advance(10)
        assert dead(broker) == [("a", "TTLExpiredException")]
        assert accept(broker, "B") is None


def test_deferred_messages_expire_too(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", time_to_live=10)
    settle(broker, DEFER, *receive(broker))
    clock.advance(10)
    assert peek(broker) == []


def test_many_expired_messages_in_hand_do_not_keep_others(clock: HandClock) -> None:
    with with_settings(clock, dead_letter_on_expiration=True) as broker:
        send(broker, *("held" for _ in range(600)), time_to_live=10)
        send(broker, *("waiting" for _ in range(700)), session="other", time_to_live=11)
        assert len(receive(broker, count=600)) == 600
        clock.advance(12)
        eventually(lambda: broker.get_queue("q").result().dead_letter_count == 700)
        assert len(peek(broker)) == 600


def test_a_message_that_expired_while_the_broker_was_down_is_gone(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a", time_to_live=10)
    clock.advance(10)
    with EmbeddedBroker(path, clock=clock) as broker:
        assert accept(broker) is None
        assert peek(broker) == []


# Scheduled


def test_a_scheduled_message_is_invisible_until_its_time(broker: EmbeddedBroker, clock: HandClock) -> None:
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


def test_scheduled_messages_are_ordered_by_the_number_they_get_at_their_time(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
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


def test_messages_that_became_due_while_the_broker_was_down_come_in_the_order_of_their_times(
    path: Path, clock: HandClock
) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "b", scheduled_enqueue_time=at(clock, 20))
        send(broker, "a", scheduled_enqueue_time=at(clock, 10))
    clock.advance(100)
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "c")
        assert bodies(receive(broker, count=10)) == ["a", "b", "c"]


def test_a_schedule_in_the_past_is_now(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", scheduled_enqueue_time=at(clock, -5))
    assert bodies(receive(broker)) == ["a"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_scheduled_messages_time_to_live_begins_at_its_time(path: Path, clock: HandClock, restarted: bool) -> None:
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


def test_more_scheduled_messages_than_one_turn_handles_all_become_visible(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, *(f"{number}" for number in range(1200)), scheduled_enqueue_time=at(clock, 10))
    clock.advance(10)
    eventually(lambda: broker.get_queue("q").result().active_count == 1200)
    assert bodies(receive(broker, count=1200)) == [f"{number}" for number in range(1200)]


# Deferred


def test_a_deferred_message_is_received_by_its_number_only(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    (a,) = receive(broker)
    settle(broker, DEFER, a)
    assert bodies(receive(broker, count=10)) == ["b"]
    assert a.sequence_number is not None
    (again,) = broker.receive_deferred("q", "s", "A", [a.sequence_number]).result()
    assert (again.body, again.delivery_count, again.state) == (b"a", 2, "Deferred")
    assert settle(broker, COMPLETE, again) == [None]
    assert peek(broker) == ["b"]


def test_an_abandoned_deferred_message_stays_deferred(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (a,) = receive(broker)
    settle(broker, DEFER, a)
    (again,) = broker.receive_deferred("q", "s", "A", [a.sequence_number or 0]).result()
    settle(broker, ABANDON, again)
    assert receive(broker) == []
    assert [one.state for one in broker.peek("q", "s", 0, 10).result()] == ["Deferred"]


def test_deferred_messages_are_received_all_or_none(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "active")
    settle(broker, DEFER, *receive(broker, count=2))
    a, b, active = (number or 0 for number in numbers(broker))
    for wanted in ([a, 99], [b, active], [a, 2**40 + b]):
        with pytest.raises(ProviderError) as caught:
            broker.receive_deferred("q", "s", "A", wanted).result()
        assert caught.value.code == "MessageNotFound"
    assert bodies(broker.receive_deferred("q", "s", "A", [b, a]).result()) == ["b", "a"]


def test_a_retried_receive_of_deferred_messages_gives_the_same_again(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    settle(broker, DEFER, *receive(broker, count=2))
    a, b = (number or 0 for number in numbers(broker))
    first = broker.receive_deferred("q", "s", "A", [a]).result()
    again = broker.receive_deferred("q", "s", "A", [a, b]).result()
    assert [message.receipt.handle for message in first] == [message.receipt.handle for message in again[:1]]
    assert [message.delivery_count for message in (*first, *again)] == [2, 2, 2]
    settle(broker, COMPLETE, *again)
    assert numbers(broker) == []


def test_a_deferred_message_of_another_session_or_queue_is_not_found(broker: EmbeddedBroker) -> None:
    for queue in ("q", "q2", "q3", "q4"):
        if queue != "q":
            broker.create_queue(queue, QueueSettings()).result()
        send(broker, "a", queue=queue)
        (message,) = receive(broker, queue=queue)
        broker.settle(queue, "s", [Settlement(message.receipt.handle, DEFER)]).result()
    receive(broker, "A", session="other")
    for number in [1 + (offset << 40) for offset in range(1, 8)]:
        with pytest.raises(ProviderError) as caught:
            broker.receive_deferred("q", "s", "A", [number]).result()
        assert caught.value.code == "MessageNotFound"
    with pytest.raises(ProviderError):
        broker.receive_deferred("q", "other", "A", [1]).result()


# Dead letters


def test_a_resubmitted_dead_letter_is_a_new_message_at_the_end(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    (a,) = receive(broker)
    settle(broker, DEAD_LETTER, a, reason="why")
    (letter,) = broker.dead_letters("q", 0, 10).result()
    broker.resubmit("q", letter.sequence_number or 0).result()
    assert dead(broker) == []
    received = receive(broker, count=10)
    assert [(one.body, one.delivery_count, one.dead_letter_reason) for one in received] == [
        (b"b", 1, None),
        (b"a", 1, None),
    ]


def test_a_resubmitted_dead_letter_lives_as_long_as_it_did_when_it_was_new(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", time_to_live=10)
    (a,) = receive(broker)
    settle(broker, DEAD_LETTER, a, reason="why")
    clock.advance(60)
    broker.resubmit("q", 1).result()
    clock.advance(9)
    assert peek(broker) == ["a"]
    clock.advance(2)
    assert peek(broker) == []


def test_the_rest_of_a_session_is_dead_lettered_in_one_go(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "deferred", "in hand", "waiting")
    send(broker, "scheduled", scheduled_enqueue_time=at(clock, 100))
    send(broker, "of another", session="other")
    deferred, in_hand = receive(broker, count=2)
    settle(broker, DEFER, deferred)
    assert broker.dead_letter_session("q", "s", "A", "why", "more").result() == 3
    assert dead(broker) == [("deferred", "why"), ("in hand", "why"), ("waiting", "why")]
    assert peek(broker) == ["scheduled"]
    assert peek(broker, "other") == ["of another"]
    assert settle(broker, DEAD_LETTER, in_hand) == [None]
    assert settle(broker, COMPLETE, in_hand) == ["Conflict"]


@pytest.mark.parametrize("number", [0, -1, 2, 2**40 + 1, 2**41 + 1, 2**64])
def test_a_dead_letter_that_is_not_there_is_not_found(broker: EmbeddedBroker, number: int) -> None:
    for queue in ("q", "q2", "q3"):
        if queue != "q":
            broker.create_queue(queue, QueueSettings()).result()
        send(broker, "a", queue=queue)
        receive(broker, queue=queue)
        broker.dead_letter_session(queue, "s", "A", "why", None).result()
    for call in (broker.resubmit, broker.delete_dead_letter):
        with pytest.raises(ProviderError) as caught:
            call("q", number).result()
        assert (caught.value.code, caught.value.status) == ("MessageNotFound", 404)
    assert [broker.get_queue(queue).result().dead_letter_count for queue in ("q", "q2", "q3")] == [1, 1, 1]


@pytest.mark.parametrize("start", [-1, -(2**70), 2**40, 2**70])
def test_looking_from_an_odd_number_shows_nothing_of_another_queue(broker: EmbeddedBroker, start: int) -> None:
    broker.create_queue("q2", QueueSettings()).result()
    send(broker, "a")
    receive(broker)
    broker.dead_letter_session("q", "s", "A", "why", None).result()
    assert broker.dead_letters("q2", start, 10).result() == []
    assert broker.peek("q2", "s", start, 10).result() == []
    assert bodies(broker.dead_letters("q", start, 10).result()) == (["a"] if start < 0 else [])


def test_a_session_of_dead_letters_only_is_not_listed(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    settle(broker, DEAD_LETTER, *receive(broker))
    assert broker.list_sessions("q", "", 10).result() == []


# Session state


def test_the_state_of_a_session_outlives_its_messages_and_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        receive(broker, "A")
        assert broker.get_state("q", "s", "A").result() is None
        broker.set_state("q", "s", "A", b"\x00step 2").result()
    with EmbeddedBroker(path, clock=clock) as broker:
        receive(broker, "B")
        assert broker.get_state("q", "s", "B").result() == b"\x00step 2"
        broker.set_state("q", "s", "B", None).result()
        assert broker.get_state("q", "s", "B").result() is None
        assert broker.list_sessions("q", "", 10).result() == []
