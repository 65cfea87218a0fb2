"""Accepting a session of the embedded broker together with its first messages."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from azsession import ProviderError, SessionLockedError, SessionNotFoundError
from azsession.broker.calls import AcceptRequest, Delivery
from azsession.broker.embedded import EmbeddedBroker
from tests.conftest import eventually

from .helpers import (
    ABANDON,
    BOUND,
    COMPLETE,
    MANY,
    NO_WAIT,
    RELEASE,
    Disk,
    HandClock,
    Hold,
    JobLog,
    accept,
    accept_messages,
    acceptors,
    bodies,
    broker_with,
    copy_data,
    dead,
    messages,
    peek,
    receive,
    send,
    send_many,
    settle,
    undo_accept,
)


def counted(delivery: Delivery | None) -> tuple[str, list[tuple[str, int]]]:
    """Return the session, and the bodies and delivery counts of its messages."""
    assert delivery is not None
    return delivery.session_id, [(one.body.decode(), one.delivery_count) for one in delivery.messages]


def taken(delivery: Delivery | None) -> Sequence[str]:
    """Return the bodies of the messages of an accept."""
    assert delivery is not None
    return bodies(delivery.messages)


def test_the_next_session_comes_with_its_first_messages(broker: EmbeddedBroker) -> None:
    send(broker, "1", session="x")
    send(broker, "2", "3", "4", session="y")
    assert counted(accept_messages(broker, "A", count=2)) == ("x", [("1", 1)])
    delivery = accept_messages(broker, "B", count=2)
    assert counted(delivery) == ("y", [("2", 1), ("3", 1)])
    assert delivery is not None
    assert delivery.lock_expires_in == 30
    assert settle(broker, COMPLETE, *delivery.messages, session="y") == [None, None]
    assert bodies(receive(broker, "B", session="y")) == ["4"]
    assert accept_messages(broker, "C") is None


def test_the_lock_and_the_messages_are_one_transaction(broker: EmbeddedBroker) -> None:
    send_many(broker, 10)
    log = JobLog(broker)
    accept_messages(broker)
    assert len(log.rows) == 1


def test_a_named_session_may_have_no_messages(broker: EmbeddedBroker) -> None:
    assert counted(accept_messages(broker, "A", "s")) == ("s", [])
    send(broker, "1")
    assert bodies(receive(broker, "A")) == ["1"]
    with pytest.raises(SessionLockedError):
        accept_messages(broker, "B", "s")
    broker.release("q", "s", "A").result()
    with pytest.raises(SessionNotFoundError):
        accept_messages(broker, "A", "s")


def test_messages_are_not_waited_for(broker: EmbeddedBroker) -> None:
    request = AcceptRequest("q", "s", "A", timeout=600, max_count=1)
    delivery = broker.accept(request, context=NO_WAIT).result(10)
    assert delivery is not None
    assert delivery.messages == []


def test_a_waiting_accept_gets_the_messages_that_a_send_brings(broker: EmbeddedBroker) -> None:
    future = broker.accept(AcceptRequest("q", None, "A", timeout=600, max_count=5), context=NO_WAIT)
    send(broker, "1", "2")
    assert counted(future.result(10)) == ("s", [("1", 1), ("2", 1)])


# Delivery counts


def test_only_the_messages_that_the_caller_uses_count(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2", "3", "4")
    assert counted(accept_messages(broker, taken=2, count=3))[1] == [("1", 1), ("2", 1), ("3", 1)]
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()] == [1, 1, 0, 0]


def test_a_lock_that_ends_counts_the_messages_of_an_accept(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", "2")
    accept_messages(broker, taken=1)
    clock.advance(61)
    assert counted(accept_messages(broker, "B"))[1] == [("1", 2), ("2", 1)]


def test_a_killed_process_counts_the_messages_of_an_accept(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        send(broker, "1", "2")
        accept_messages(broker, taken=1)
        copy = copy_data(path)
    with EmbeddedBroker(copy) as broker:
        assert counted(accept_messages(broker, "B"))[1] == [("1", 2), ("2", 1)]


def test_a_message_at_its_limit_is_dead_lettered_and_the_next_session_comes(clock: HandClock) -> None:
    with broker_with(clock, max_delivery_count=1) as broker:
        send_many(broker, MANY)
        send(broker, "good", session="other")
        receive(broker, "A", MANY)
        log = JobLog(broker)
        # The end of the lock dead-letters a part, and the accept the others, in steps.
        clock.advance(61)
        assert counted(accept_messages(broker, "B")) == ("other", [("good", 1)])
        assert len(dead(broker)) == MANY
        assert log.most <= BOUND
        assert accept(broker, "C", "s") == "s"


# Messages that expire


@pytest.mark.parametrize("keep", [False, True])
def test_a_session_whose_messages_have_just_expired_is_passed_over(clock: HandClock, keep: bool) -> None:
    with broker_with(clock, sessions_expire_together=True, dead_letter_on_expiration=keep) as broker:
        send(broker, "short", time_to_live=10)
        send(broker, "with it")
        send(broker, "later", session="other")
        clock.advance(10)
        assert counted(accept_messages(broker)) == ("other", [("later", 1)])
        assert bodies(broker.dead_letters("q", 0, 10).result()) == (["short", "with it"] if keep else [])
        # Nobody has the session.
        send(broker, "new")
        assert counted(accept_messages(broker, "B")) == ("s", [("new", 1)])


def test_many_expired_messages_are_passed_over_in_steps(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        for session in ("first", "second"):
            send_many(broker, MANY, session=session, time_to_live=10)
        send(broker, "good", session="third")
        clock.advance(10)
        log = JobLog(broker)
        assert counted(accept_messages(broker)) == ("third", [("good", 1)])
        assert log.most <= BOUND
        assert peek(broker, "first") == peek(broker, "second") == []
        assert accept_messages(broker, "B") is None


def test_an_accept_waits_on_if_all_messages_have_expired(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        send(broker, "short", time_to_live=10)
        clock.advance(10)
        request = AcceptRequest("q", None, "A", timeout=600, max_count=1)
        future = broker.accept(request, context=NO_WAIT)
        eventually(lambda: acceptors(broker) == 1)
        assert not future.done()
        send(broker, "new", session="other")
        assert counted(future.result(10)) == ("other", [("new", 1)])


def test_a_named_session_whose_messages_have_expired_is_accepted_without_messages(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        send_many(broker, MANY, time_to_live=10)
        send(broker, "good")
        broker.set_state("q", "s", "", b"kept").result()
        clock.advance(10)
        assert counted(accept_messages(broker, "A", "s")) == ("s", [])
        assert bodies(receive(broker, "A")) == []


def test_a_session_that_is_dead_lettered_in_steps_shows_no_message(broker: EmbeddedBroker) -> None:
    send_many(broker, MANY)
    send(broker, "good", session="other")
    receive(broker, "A")
    hold = Hold(broker)
    dead_lettered = broker.dead_letter_session("q", "s", "A", "why", None, context=NO_WAIT)
    released = broker.release("q", "s", "A", context=NO_WAIT)
    following = [
        broker.accept(AcceptRequest("q", name, lock, timeout=0, max_count=5), context=NO_WAIT)
        for lock, name in (("B", None), ("C", "s"))
    ]
    hold.let_go()
    assert dead_lettered.result(10) == MANY
    released.result(10)
    assert counted(following[0].result(10)) == ("other", [("good", 1)])
    assert counted(following[1].result(10)) == ("s", [])
    assert len(dead(broker)) == 1000


# Repeated requests, and answers that do not arrive


def test_a_repeated_accept_returns_the_messages_that_are_not_settled(broker: EmbeddedBroker) -> None:
    send(broker, *"12345")
    first = accept_messages(broker, count=3, request_id="r")
    again = accept_messages(broker, count=3, request_id="r")
    assert first is not None
    assert again is not None
    assert [one.receipt.handle for one in again.messages] == [one.receipt.handle for one in first.messages]
    assert counted(again) == counted(first)
    settle(broker, COMPLETE, first.messages[0])
    assert taken(accept_messages(broker, count=3, request_id="r")) == ["2", "3"]
    settle(broker, COMPLETE, *first.messages[1:])
    # An attempt that comes late takes no further message.
    assert taken(accept_messages(broker, count=3, request_id="r")) == []
    assert bodies(receive(broker)) == ["4"]


def test_a_repeated_accept_of_an_empty_session_takes_no_later_message(broker: EmbeddedBroker) -> None:
    assert taken(accept_messages(broker, "A", "s", request_id="r")) == []
    send(broker, "1")
    assert taken(accept_messages(broker, "A", "s", request_id="r")) == []
    assert bodies(receive(broker, "A")) == ["1"]


def test_an_accept_is_undone_with_its_messages(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2", "3")
    for holder in ("A", "A", "B"):
        delivery = accept_messages(broker, holder, count=2, taken=1)
        assert counted(delivery) == ("s", [("1", 1), ("2", 1)])
        assert delivery is not None
        undo_accept(broker, holder, messages=delivery.messages)
        assert [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()] == [0, 0, 0]


def test_an_accept_that_was_repeated_keeps_lock_and_messages(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2", "3")
    first = accept_messages(broker, count=2, request_id="r")
    second = accept_messages(broker, count=2, request_id="r")
    assert first is not None
    assert second is not None
    undo_accept(broker, messages=first.messages)
    assert accept(broker, "B") is None
    assert bodies(receive(broker)) == ["3"]
    assert settle(broker, COMPLETE, second.messages[0]) == [None]
    # The answer of the second attempt is lost, too. The lock is in use.
    undo_accept(broker, messages=second.messages)
    assert accept(broker, "B") is None
    assert bodies(receive(broker)) == ["2"]


def test_messages_that_are_settled_are_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2")
    delivery = accept_messages(broker)
    assert delivery is not None
    settle(broker, ABANDON, delivery.messages[0])
    settle(broker, RELEASE, delivery.messages[1])
    undo_accept(broker, messages=delivery.messages)
    assert counted(accept_messages(broker, "B"))[1] == [("1", 2), ("2", 1)]


def test_an_accept_of_another_holder_is_not_undone(broker: EmbeddedBroker) -> None:
    send(broker, "1")
    delivery = accept_messages(broker, "A")
    assert delivery is not None
    undo_accept(broker, "B", messages=delivery.messages)
    assert settle(broker, COMPLETE, *delivery.messages) == [None]


# Failures


def test_an_accept_that_cannot_be_stored_changes_nothing(path: Path) -> None:
    with EmbeddedBroker(path, queues=["q"]) as broker:
        disk = Disk(broker)
        send(broker, *map(str, range(1000)))
        disk.fill()
        with pytest.raises(ProviderError, match="full"):
            accept_messages(broker, count=1000, request_id="r")
        disk.free()
        assert counted(accept_messages(broker, "B", count=1, request_id="r2")) == ("s", [("0", 1)])


def test_an_accept_that_is_cancelled_while_it_runs_takes_nothing(broker: EmbeddedBroker) -> None:
    hold = Hold(broker)
    sent = broker.send("q", messages("1", "2"), context=NO_WAIT)
    gone = broker.accept(AcceptRequest("q", None, "A", timeout=600, max_count=5), context=NO_WAIT)
    assert gone.cancel()
    hold.let_go()
    sent.result(10)
    with pytest.raises(CancelledError):
        gone.result(10)
    assert counted(accept_messages(broker, "B")) == ("s", [("1", 1), ("2", 1)])


def test_an_accept_is_undone_if_another_operation_of_its_transaction_fails(broker: EmbeddedBroker) -> None:
    send(broker, "1", "2")
    hold = Hold(broker)

    def fail(tx: object) -> None:
        raise ValueError("the test's own failure")

    first = hold.queue(lambda: accept_messages(broker, "A", request_id="r"))
    broken = hold.queue(lambda: broker._core.commits.run(fail, durable=False))
    hold.let_go()
    with pytest.raises(ValueError, match="own failure"):
        broken.result()
    # The accept ran again, alone, and its messages are delivered once.
    assert counted(first.result()) == ("s", [("1", 1), ("2", 1)])
    assert [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()] == [1, 1]
    assert taken(accept_messages(broker, "A", request_id="r")) == ["1", "2"]
