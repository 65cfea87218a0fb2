"""Settling messages of the embedded broker, giving them back, and the session state."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import Message
from azsession.broker.calls import Disposition, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.store import STEP_BYTES

from .helpers import (
    ABANDON,
    COMPLETE,
    DEAD_LETTER,
    DEFER,
    RELEASE,
    TAKE,
    HandClock,
    JobLog,
    bodies,
    peek,
    receive,
    send,
    settle,
)


def test_one_settle_can_have_different_dispositions(broker: EmbeddedBroker) -> None:
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


@pytest.mark.parametrize("token", ["", "x", "0" * 36, "g" * 32, "00000000-0000-0000-0000-000000000000", "é" * 36])
def test_an_unknown_lock_token_settles_nothing(broker: EmbeddedBroker, token: str) -> None:
    send(broker, "a")
    receive(broker)
    assert broker.settle("q", "s", [Settlement(token, COMPLETE)]).result() == ["MessageLockLost"]
    assert broker.settle("q", "other", [Settlement(token, COMPLETE)]).result() == ["SessionLockLost"]
    assert peek(broker) == ["a"]


def test_a_lock_token_settles_nothing_in_another_session(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker)
    receive(broker, "B", session="other")
    assert settle(broker, COMPLETE, message, session="other") == ["MessageLockLost"]
    assert peek(broker) == ["a"]


@pytest.mark.parametrize("kind", [COMPLETE, ABANDON, DEFER, DEAD_LETTER])
def test_the_same_settlement_twice_after_a_message_was_taken_succeeds(broker: EmbeddedBroker, kind: Disposition) -> None:
    send(broker, "a")
    token = receive(broker)[0].receipt.handle
    settlements = [Settlement(token, one, None, None) for one in (TAKE, kind, kind, RELEASE)]
    assert broker.settle("q", "s", settlements).result() == [None, None, None, "Conflict"]


def test_an_abandoned_message_is_received_before_later_ones(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c", "d")
    a, b, c = receive(broker, "A", 3)
    settle(broker, ABANDON, c)
    settle(broker, ABANDON, a)
    assert bodies(receive(broker, "A", 10)) == ["a", "c", "d"]
    assert settle(broker, COMPLETE, b) == [None]


LARGE = b"x" * (1024 * 1024)


def large(count: int) -> list[Message]:
    return [Message(LARGE, session_id="s") for _ in range(count)]


def test_many_large_messages_are_settled_in_steps(broker: EmbeddedBroker) -> None:
    count = 2 * STEP_BYTES // len(LARGE)
    broker.send("q", large(count)).result()
    received = [*receive(broker, "A", 1000), *receive(broker, "A", 1000), *receive(broker, "A", 1000)]
    assert len(received) == count
    log = JobLog(broker)
    settlements = [Settlement(one.receipt.handle, Disposition.COMPLETE) for one in received]
    assert broker.settle("q", "s", settlements).result() == [None] * count
    assert len([rows for rows in log.rows if rows]) >= 2
    assert broker.get_queue("q").result().active_count == 0


# Messages that are given back


def test_messages_that_are_given_back_are_received_again_in_order_with_the_same_count(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c")
    received = receive(broker, "A", 2, request_id="r1")
    broker.give_back("q", "s", "A", [one.receipt.handle for one in received]).result()
    again = receive(broker, "A", 10)
    assert [(one.text(), one.delivery_count) for one in again] == [("a", 1), ("b", 1), ("c", 1)]


def test_only_the_holder_can_give_messages_back(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    broker.give_back("q", "s", "B", [message.receipt.handle]).result()
    assert broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.COMPLETE)]).result() == [None]


# Session state


def test_the_session_state_outlives_the_messages_and_a_restart(path: Path, clock: HandClock) -> None:
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


def test_messages_that_a_repeated_receive_has_got_are_not_given_back(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A", request_id="r1")
    receive(broker, "A", request_id="r1")
    broker.give_back("q", "s", "A", [message.receipt.handle]).result()
    assert receive(broker, "A") == []
    assert broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.COMPLETE)]).result() == [None]


def test_a_receive_that_is_repeated_after_its_messages_were_given_back_gets_them_again(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    received = receive(broker, "A", 2, request_id="r1")
    broker.give_back("q", "s", "A", [one.receipt.handle for one in received]).result()
    assert bodies(receive(broker, "A", 2, request_id="r1")) == ["a", "b"]


def test_a_receive_whose_messages_were_settled_is_not_forgotten_when_an_earlier_attempt_gives_them_back(
    broker: EmbeddedBroker,
) -> None:
    send(broker, "a", "b")
    (message,) = receive(broker, "A", request_id="r1")
    receive(broker, "A", request_id="r1")
    assert broker.settle("q", "s", [Settlement(message.receipt.handle, Disposition.COMPLETE)]).result() == [None]
    broker.give_back("q", "s", "A", [message.receipt.handle]).result()
    # A late third attempt, whose caller has gone on, must not take the next message.
    assert receive(broker, "A", request_id="r1") == []
    assert bodies(receive(broker, "A", request_id="r2")) == ["b"]
