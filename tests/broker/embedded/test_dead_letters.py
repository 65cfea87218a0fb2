"""Dead letters of the embedded broker: reading, resubmitting, deleting, and dead-lettering a whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import ProviderError, SessionNotFoundError
from azsession.broker.calls import Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    BOUND,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    MANY,
    NO_WAIT,
    HandClock,
    JobLog,
    at,
    bodies,
    copy_data,
    dead,
    peek,
    receive,
    send,
    send_many,
    settle,
)


def test_a_resubmitted_dead_letter_is_a_new_message_at_the_end_of_its_session(broker: EmbeddedBroker) -> None:
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


def test_a_resubmitted_dead_letter_gets_its_whole_time_to_live_again(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", time_to_live=10)
    (a,) = receive(broker)
    settle(broker, DEAD_LETTER, a, reason="why")
    clock.advance(60)
    broker.resubmit("q", 1).result()
    clock.advance(9)
    assert peek(broker) == ["a"]
    clock.advance(2)
    assert peek(broker) == []


@pytest.mark.parametrize("number", [0, -1, 2, 2**40 + 1, 2**41 + 1, 2**64])
def test_a_missing_dead_letter_cannot_be_resubmitted_or_deleted(broker: EmbeddedBroker, number: int) -> None:
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
def test_peeking_from_any_number_shows_no_message_of_another_queue(broker: EmbeddedBroker, start: int) -> None:
    broker.create_queue("q2", QueueSettings()).result()
    send(broker, "a")
    receive(broker)
    broker.dead_letter_session("q", "s", "A", "why", None).result()
    assert broker.dead_letters("q2", start, 10).result() == []
    assert broker.peek("q2", "s", start, 10).result() == []
    assert bodies(broker.dead_letters("q", start, 10).result()) == (["a"] if start < 0 else [])


def test_a_session_that_has_only_dead_letters_is_not_listed(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    settle(broker, DEAD_LETTER, *receive(broker))
    assert broker.list_sessions("q", "", 10).result() == []


# Dead-lettering a session


def test_dead_lettering_a_session_includes_deferred_and_unsettled_messages(broker: EmbeddedBroker, clock: HandClock) -> None:
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


def test_a_holder_that_lost_its_lock_cannot_dead_letter_the_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    send_many(broker, 3)
    receive(broker, "A")
    clock.advance(61)
    with pytest.raises(SessionNotFoundError):
        broker.dead_letter_session("q", "s", "A", "why", None).result()


def test_a_session_is_dead_lettered_in_steps_that_no_caller_sees(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    receive(broker, "A", 3)
    log = JobLog(broker)
    context = NO_WAIT
    future = broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=context)
    seen = [broker.peek("q", "s", 0, 1000, context=context) for _ in range(3)]
    counts = [broker.get_queue("q", context=context) for _ in range(3)]
    assert future.result(10) == MANY
    assert [one.result(10) for one in seen] == [[]] * 3
    assert {one.result(10).dead_letter_count for one in counts} == {MANY}
    assert log.most <= BOUND
    assert {reason for _, reason in dead(broker)} == {"why"}


def test_a_repeated_dead_lettering_of_a_session_returns_the_same_number(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    receive(broker, "A")
    context = NO_WAIT
    calls = [broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=context) for _ in range(2)]
    assert [call.result(10) for call in calls] == [MANY, MANY]


def test_messages_that_are_sent_while_a_session_is_dead_lettered_stay_active(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    receive(broker, "A")
    future = broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=NO_WAIT)
    send(broker, "later")
    assert future.result(10) == MANY
    assert peek(broker) == ["later"]
    assert bodies(receive(broker, "A")) == ["later"]


def test_an_interrupted_dead_lettering_of_a_session_is_finished_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send_many(broker, MANY)
        receive(broker, "A")
        broker.dead_letter_session("q", "s", "A", "why", None, "r1", context=NO_WAIT)
        eventually(lambda: broker._core.connection.execute("SELECT count(*) FROM dead_letterings").fetchone()[0] < 2)
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        # The copy holds either nothing of the operation, or all of it.
        assert peek(broker) in ([], [str(number) for number in range(MANY)])
        assert broker.get_queue("q").result().dead_letter_count in (0, MANY)


def test_the_lock_tokens_of_a_dead_lettered_session_are_remembered_in_steps(broker: EmbeddedBroker) -> None:
    send_many(broker, 2 * MANY)
    received = receive(broker, "A", 2 * MANY)
    assert len(received) == 2 * MANY
    log = JobLog(broker)
    future = broker.dead_letter_session("q", "s", "A", "why", None, context=NO_WAIT)
    # Settlements wait until the session is dead-lettered.
    settlements = [Settlement(one.receipt.handle, DEAD_LETTER) for one in received[::100]]
    settled = broker.settle("q", "s", settlements, context=NO_WAIT)
    assert settled.result(10) == [None] * len(settlements)
    assert future.result(10) == 2 * MANY
    assert log.most <= BOUND
    assert settle(broker, COMPLETE, received[-1]) == ["Conflict"]
