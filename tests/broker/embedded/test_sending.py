"""Sending to the embedded broker: order, sequence numbers, and the fields of a message."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from azsession import Message, ProviderError, QueueNotFoundError, QueueSettings, ValidationError
from azsession.broker.embedded import EmbeddedBroker

from .commit_helpers import Gate
from .helpers import COMPLETE, DEAD_LETTER, NO_WAIT, Background, HandClock, at, messages, numbers, peek, receive, send, settle


def test_sequence_numbers_rise_in_the_order_of_acceptance_across_sessions(broker: EmbeddedBroker) -> None:
    broker.send("q", [*messages("a", session="x"), *messages("b", session="y"), *messages("c", session="x")]).result()
    send(broker, "d", session="y")
    (a, c), (b, d) = numbers(broker, "x"), numbers(broker, "y")
    assert [a, b, c, d] == sorted({a, b, c, d})  # type: ignore[type-var]


def test_a_batch_is_refused_as_a_whole_if_one_message_has_no_session_id(broker: EmbeddedBroker) -> None:
    with pytest.raises(ValidationError, match="session_id"):
        broker.send("q", [*messages("a"), Message(b"b")]).result()
    assert peek(broker) == []


def test_a_message_is_received_with_all_fields_that_were_sent(broker: EmbeddedBroker, clock: HandClock) -> None:
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


def test_a_send_to_a_missing_queue_fails_unless_queues_are_created_on_use() -> None:
    with EmbeddedBroker() as broker, pytest.raises(QueueNotFoundError):
        send(broker, "a")
    with EmbeddedBroker(auto_create=True) as broker:
        send(broker, "a")
        assert peek(broker) == ["a"]


def test_sends_that_share_a_transaction_keep_their_numbers_over_a_restart(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q", "other"], clock=clock) as broker:
        gate = Gate(broker._core.commits)
        sent = [broker.send(queue, messages("a"), context=NO_WAIT) for queue in ("q", "other", "q")]
        gate.open()
        for future in sent:
            future.result(10)
        highest = numbers(broker)[-1]
        settle(broker, COMPLETE, *receive(broker, count=2))
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "b")
        assert numbers(broker) == [(highest or 0) + 1]


def test_sends_that_share_a_transaction_are_one_durable_commit(broker: EmbeddedBroker) -> None:
    before = broker.durable_commits
    gate = Gate(broker._core.commits)
    sent = [broker.send("q", messages("a"), context=NO_WAIT) for _ in range(3)]
    gate.open()
    for future in sent:
        future.result(10)
    assert broker.durable_commits == before + 1
    broker.list_queues().result()
    assert broker.durable_commits == before + 1, "reading needs no durable commit"
    send(broker, "b")
    assert broker.durable_commits == before + 2


@pytest.mark.parametrize("removed", ["nothing", "the last message", "all messages"])
def test_a_restart_does_not_reuse_sequence_numbers(path: Path, clock: HandClock, removed: str) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a", "b", "c")
        highest = numbers(broker)[-1]
        if removed != "nothing":
            a, b, c = receive(broker, count=3)
            settle(broker, COMPLETE, *([c] if removed == "the last message" else [a, b, c]))
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "d")
        assert numbers(broker)[-1] > highest  # type: ignore[operator]


def test_a_restart_does_not_reuse_the_sequence_number_of_a_resubmitted_message(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        settle(broker, DEAD_LETTER, *receive(broker))
        broker.resubmit("q", 1).result()
    with EmbeddedBroker(path, clock=clock) as broker:
        send(broker, "b")
        assert peek(broker) == ["a", "b"]
        assert len(set(numbers(broker))) == 2


def test_messages_sent_from_many_threads_keep_the_order_of_each_thread(tmp_path: Path) -> None:
    path = tmp_path / "data.db"

    def produce(broker: EmbeddedBroker, thread: int) -> None:
        for number in range(30):
            broker.send("q", messages(f"{thread}-{number}", session=f"s{thread % 2}")).result()

    with EmbeddedBroker(path, queues=["q"]) as broker:
        for one in [Background(lambda thread=thread: produce(broker, thread)) for thread in range(8)]:
            one.result(60)
    with EmbeddedBroker(path) as broker:
        for thread in range(8):
            found = [body for body in peek(broker, f"s{thread % 2}") if body.startswith(f"{thread}-")]
            assert found == [f"{thread}-{number}" for number in range(30)]


# Scheduling and cancelling


def scheduled(*bodies: str, at: datetime) -> list[Message]:
    return [Message(body, session_id="s", message_id=body, scheduled_enqueue_time=at) for body in bodies]


def test_a_repeated_schedule_returns_the_same_numbers_also_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    later = at(clock, 3600)
    with EmbeddedBroker(tmp_path / "data", queues=["q"], clock=clock) as broker:
        first = broker.schedule("q", scheduled("a", "b", at=later), "r1").result()
        assert broker.schedule("q", scheduled("a", "b", at=later), "r1").result() == first
        assert broker.schedule("q", scheduled("c", at=later), "r2").result() == [first[-1] + 1]
    with EmbeddedBroker(tmp_path / "data", clock=clock) as broker:
        assert broker.schedule("q", scheduled("a", "b", at=later), "r1").result() == first
        assert peek(broker) == ["a", "b", "c"]


def test_cancelling_is_all_or_none(broker: EmbeddedBroker, clock: HandClock) -> None:
    first, second = broker.schedule("q", scheduled("a", "b", at=at(clock, 3600))).result()
    with pytest.raises(ProviderError, match="no scheduled message with sequence number 99"):
        broker.cancel_scheduled("q", [first, 99]).result()
    assert peek(broker) == ["a", "b"]
    broker.cancel_scheduled("q", [second, first]).result()
    assert peek(broker) == []


def test_a_cancelled_message_does_not_become_available(broker: EmbeddedBroker, clock: HandClock) -> None:
    [number] = broker.schedule("q", scheduled("a", at=at(clock, 60))).result()
    broker.cancel_scheduled("q", [number]).result()
    clock.advance(61)
    assert receive(broker) == []


def test_a_duplicate_gets_a_number_that_cannot_be_cancelled(clock: HandClock) -> None:
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(requires_duplicate_detection=True)).result()
        numbers_given = broker.schedule("q", scheduled("a", "a", "b", at=at(clock, 60))).result()
        assert len(set(numbers_given)) == 3
        broker.cancel_scheduled("q", [numbers_given[0], numbers_given[2]]).result()
        with pytest.raises(ProviderError):
            broker.cancel_scheduled("q", [numbers_given[1]]).result()
