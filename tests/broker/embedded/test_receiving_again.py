"""Repeated receives and accepts, and deferred messages: locks, lock tokens and delivery counts of what is returned again."""

from __future__ import annotations

import pytest

from azsession import ProviderError
from azsession.broker.calls import AcceptRequest, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker, accepting

from .helpers import (
    ABANDON,
    COMPLETE,
    DEFER,
    MANY,
    NO_WAIT,
    HandClock,
    Hold,
    accept,
    at,
    bodies,
    broker_with,
    numbers,
    receive,
    receive_deferred,
    send,
    send_many,
    settle,
)


def counts(broker: EmbeddedBroker) -> list[int]:
    return [one.delivery_count for one in broker.peek("q", "s", 0, 10).result()]


# Deferred messages


def test_the_shared_holder_takes_a_free_session_to_receive_a_deferred_message(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (a,) = receive(broker, "A")
    settle(broker, DEFER, a)
    broker.release("q", "s", "A").result()
    (again,) = receive_deferred(broker, a, lock="")
    assert settle(broker, COMPLETE, again) == [None]
    assert broker.renew("q", "s", "").result() == 30


def test_a_deferred_message_that_is_received_again_keeps_its_token_until_the_lock_ends(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    (a,) = receive(broker, "A")
    settle(broker, DEFER, a)
    broker.release("q", "s", "A").result()
    accept(broker, "B", "s")
    (again,) = receive_deferred(broker, a, lock="B")
    assert again.receipt.expires_at == at(clock, 30)
    assert broker.renew("q", "s", "B").result() == 30
    clock.advance(10)
    (repeated,) = receive_deferred(broker, a, lock="B")
    assert repeated.receipt.handle == again.receipt.handle
    assert repeated.receipt.expires_at == at(clock, 20)
    assert settle(broker, COMPLETE, again) == [None]


def test_a_deferred_message_of_a_lock_that_ended_stays_deferred(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a", "b")
    (a,) = receive(broker, "A")
    settle(broker, DEFER, a)
    receive_deferred(broker, a)
    clock.advance(30)
    assert bodies(receive(broker, "B", 10)) == ["b"]
    assert bodies(receive_deferred(broker, a, lock="B")) == ["a"]


def test_a_number_without_a_deferred_message_is_not_found(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (number,) = numbers(broker)
    accept(broker, "A", "s")
    for wrong in (number, number + 1):
        with pytest.raises(ProviderError) as caught:
            broker.receive_deferred("q", "s", "A", [wrong]).result()
        assert str(caught.value) == f"the session has no deferred message {wrong}"
        assert (caught.value.code, caught.value.status) == ("MessageNotFound", 404)


def test_a_number_that_is_named_twice_gives_one_message(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (a,) = receive(broker)
    settle(broker, DEFER, a)
    assert bodies(receive_deferred(broker, a, a)) == ["a"]


def test_a_deferred_message_goes_back_when_all_answers_with_it_are_lost(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (a,) = receive(broker, "A")
    settle(broker, DEFER, a)
    for _ in range(3):
        (again,) = receive_deferred(broker, a)
    for _ in range(2):
        broker.give_back("q", "s", "A", [again.receipt.handle]).result()
    (kept,) = receive_deferred(broker, a)
    assert kept.receipt.handle == again.receipt.handle
    for _ in range(2):
        broker.give_back("q", "s", "A", [again.receipt.handle]).result()
    (fresh,) = receive_deferred(broker, a)
    assert fresh.receipt.handle != again.receipt.handle


# Repeated receives


def test_a_message_goes_back_when_all_answers_with_it_are_lost(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    for _ in range(3):
        (a,) = receive(broker, count=1, request_id="r")
    for _ in range(2):
        broker.give_back("q", "s", "A", [a.receipt.handle]).result()
    assert bodies(receive(broker, count=1, request_id="r")) == ["a"]
    for _ in range(2):
        broker.give_back("q", "s", "A", [a.receipt.handle]).result()
    assert bodies(receive(broker, count=2, request_id="n")) == ["a", "b"]


def test_a_repeated_receive_returns_its_unsettled_messages_with_the_same_tokens(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a", "b", "c")
    first = receive(broker, count=2, request_id="r")
    settle(broker, COMPLETE, first[0])
    clock.advance(10)
    again = receive(broker, count=2, request_id="r")
    assert [one.receipt.handle for one in again] == [first[1].receipt.handle]
    assert again[0].delivery_count == 1
    assert again[0].receipt.expires_at == at(clock, 20)
    settle(broker, ABANDON, first[1])
    assert receive(broker, count=2, request_id="r") == []
    assert bodies(receive(broker, count=2, request_id="r2")) == ["b", "c"]


@pytest.mark.parametrize(("taken", "expected"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [1, 1, 0]), (None, [1, 1, 1])])
def test_a_repeated_receive_counts_the_messages_that_its_caller_uses_now(
    broker: EmbeddedBroker, taken: int | None, expected: list[int]
) -> None:
    send(broker, "a", "b", "c")
    first = receive(broker, count=3, request_id="r", taken=0)
    assert counts(broker) == [0, 0, 0]
    again = receive(broker, count=3, request_id="r", taken=taken)
    assert [one.receipt.handle for one in again] == [one.receipt.handle for one in first]
    assert counts(broker) == expected
    # A message that is used already is not counted twice.
    receive(broker, count=3, request_id="r", taken=taken)
    assert counts(broker) == expected


def test_a_delivery_tells_how_long_the_lock_lasts_and_how_long_the_caller_waited(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    clock.advance(7)
    accepted = broker.accept(AcceptRequest("q", "s", "A", timeout=0)).result()
    assert accepted is not None
    assert (accepted.session_id, accepted.messages, accepted.lock_expires_in, accepted.waited) == ("s", [], 30, 0)
    received = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=0)).result()
    assert (received.session_id, received.lock_expires_in, received.waited) == ("s", 30, 0)
    assert received.messages[0].receipt.expires_at == at(clock, 30)


# Repeated accepts


def test_a_repeated_accept_returns_the_same_session_while_its_lock_is_held(broker: EmbeddedBroker) -> None:
    send(broker, "a", session="s1")
    send(broker, "a", session="s2")
    assert accept(broker, "A", request_id="r") == "s1"
    assert accept(broker, "A", request_id="r") == "s1"
    assert accept(broker, "B", request_id="r2") == "s2"
    assert accept(broker, "C", request_id="r") is None
    broker.release("q", "s1", "A").result()
    assert accept(broker, "A", request_id="r") is None


def test_accepts_whose_locks_are_held_are_remembered_and_others_forgotten(broker: EmbeddedBroker) -> None:
    send(broker, "a", session="kept")
    assert accept(broker, "K", request_id="kept") == "kept"
    for number in range(200):
        accept(broker, f"A{number}", f"s{number}", request_id=f"r{number}")
        broker.release("q", f"s{number}", f"A{number}").result()
    known = broker._core.queues["q"].accepts
    assert len(known) <= 66
    assert "kept" in known
    assert accept(broker, "K", request_id="kept") == "kept"


def test_the_latest_accepts_are_remembered(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "MAX_ACCEPTS", 3)
    for number in range(5):
        send(broker, "a", session=f"s{number}")
        assert accept(broker, f"A{number}", request_id=f"r{number}") == f"s{number}"
    assert list(broker._core.queues["q"].accepts) == ["r2", "r3", "r4"]


def test_an_attempt_that_is_replaced_between_two_steps_does_not_keep_the_lock(clock: HandClock) -> None:
    with broker_with(clock, sessions_expire_together=True) as broker:
        receive(broker, "A")
        send_many(broker, MANY, time_to_live=10)
        clock.advance(10)
        hold = Hold(broker)
        request = ReceiveRequest("q", "s", "A", max_count=1, timeout=0, request_id="r")
        first, second = (broker.receive(request, context=NO_WAIT) for _ in range(2))
        hold.let_go()
        with pytest.raises(ProviderError, match="another attempt"):
            first.result(10)
        assert second.result(10).messages == []
        clock.advance(61)
        assert accept(broker, "B", "s") == "s"
