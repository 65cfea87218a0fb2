"""The session lock of the embedded broker: who has a session, until when, and what becomes of what was in hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from azsession import SessionLockedError, SessionNotFoundError
from azsession.broker.base import ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from tests.conftest import eventually

from . import ABANDON, COMPLETE, DEFER, Background, HandClock, accept, bodies, dead, peek, receive, send, settle


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def broker(clock: HandClock) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(clock=clock) as made:
        made.create_queue("q", QueueSettings(lock_duration=30)).result()
        yield made


def test_a_receive_takes_a_free_session_for_the_lock_duration(broker: EmbeddedBroker) -> None:
    delivery = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=0)).result()
    assert delivery.lock_expires_in == 30
    assert delivery.messages == []


def test_another_holder_gets_session_locked_with_the_time_that_is_left(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    clock.advance(10)
    for attempt in (
        lambda: receive(broker, "B"),
        lambda: accept(broker, "B", "s"),
        lambda: broker.renew("q", "s", "B").result(),
    ):
        with pytest.raises(SessionLockedError) as caught:
            attempt()
        assert caught.value.retry_after == pytest.approx(20)
        assert caught.value.locked_until is not None
        assert caught.value.locked_until.timestamp() == pytest.approx(clock.now() + 20, abs=1e-3)


def test_a_lock_ends_at_its_expiry_and_not_before(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    clock.advance(29.9)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")
    clock.advance(0.1)
    receive(broker, "B")


@pytest.mark.parametrize("kind", ["receive", "empty receive", "renew", "accept"])
def test_what_extends_a_lock_sets_it_to_the_full_duration(broker: EmbeddedBroker, clock: HandClock, kind: str) -> None:
    accept(broker, "A", "s")
    clock.advance(20)
    if kind == "receive":
        send(broker, "a")
    if kind == "renew":
        assert broker.renew("q", "s", "A").result() == 30
    elif kind == "accept":
        accept(broker, "A", "s")
    else:
        receive(broker, "A")
    clock.advance(29)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")
    clock.advance(1)
    receive(broker, "B")


@pytest.mark.parametrize("taken_by_another", [False, True])
def test_a_holder_whose_lock_expired_is_told_so_for_ever(
    broker: EmbeddedBroker, clock: HandClock, taken_by_another: bool
) -> None:
    receive(broker, "A")
    clock.advance(30)
    if taken_by_another:
        receive(broker, "B")
    for _ in range(2):
        for call in (
            lambda: receive(broker, "A"),
            lambda: accept(broker, "A", "s"),
            lambda: broker.renew("q", "s", "A").result(),
            lambda: broker.get_state("q", "s", "A").result(),
            lambda: broker.set_state("q", "s", "A", b"x").result(),
            lambda: broker.receive_deferred("q", "s", "A", [1]).result(),
            lambda: broker.dead_letter_session("q", "s", "A", "why", None).result(),
        ):
            with pytest.raises(SessionNotFoundError) as caught:
                call()
            assert caught.value.code == "SessionLockLost"


def test_several_lost_holders_of_a_session_are_remembered(broker: EmbeddedBroker, clock: HandClock) -> None:
    for holder in "ABCD":
        receive(broker, holder)
        clock.advance(30)
    for holder in "ABCD":
        with pytest.raises(SessionNotFoundError):
            receive(broker, holder)


def test_a_lock_id_lost_in_one_session_may_take_another(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    clock.advance(30)
    receive(broker, "A", session="other")


def test_a_holder_that_released_the_session_does_not_get_back_in(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    broker.release("q", "s", "A").result()
    with pytest.raises(SessionNotFoundError):
        receive(broker, "A")
    receive(broker, "B")


def test_a_release_by_somebody_else_changes_nothing(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    broker.release("q", "s", "B").result()
    broker.release("q", "s", "").result()
    assert broker.renew("q", "s", "A").result() == 30


def test_a_renewal_without_a_lock_is_refused(broker: EmbeddedBroker) -> None:
    for holder in ("A", ""):
        with pytest.raises(SessionNotFoundError):
            broker.renew("q", "s", holder).result()


def test_the_plain_dialects_holder_is_never_lost(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "a")
    (first,) = receive(broker, "")
    clock.advance(30)
    (again,) = receive(broker, "")
    assert again.delivery_count == 2
    assert settle(broker, COMPLETE, first) == ["MessageLockLost"]
    assert settle(broker, COMPLETE, again) == [None]
    broker.release("q", "s", "").result()
    assert receive(broker, "") == []


def test_callers_of_the_plain_dialect_are_one_holder(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b")
    assert bodies(receive(broker, "")) == ["a"]
    assert bodies(receive(broker, "")) == ["b"]
    with pytest.raises(SessionLockedError):
        receive(broker, "A")


def test_the_plain_dialect_gets_session_locked_while_another_holds_it(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    with pytest.raises(SessionLockedError):
        receive(broker, "")
    clock.advance(30)
    receive(broker, "")


@pytest.mark.parametrize("how", ["expiry", "release"])
def test_what_was_in_hand_returns_in_order_with_its_counts(broker: EmbeddedBroker, clock: HandClock, how: str) -> None:
    send(broker, "a", "b", "c", "d")
    a, b, c = receive(broker, "A", 3)
    settle(broker, ABANDON, b)
    (b,) = receive(broker, "A")
    settle(broker, COMPLETE, a)
    if how == "expiry":
        clock.advance(30)
    else:
        broker.release("q", "s", "A").result()
    again = receive(broker, "B", 10)
    assert [(one.body, one.delivery_count) for one in again] == [(b"b", 3), (b"c", 2), (b"d", 1)]
    assert settle(broker, COMPLETE, c) == ["MessageLockLost"]


def test_an_abandoned_message_goes_back_to_its_place(broker: EmbeddedBroker) -> None:
    send(broker, "a", "b", "c", "d")
    a, b, c = receive(broker, "A", 3)
    settle(broker, ABANDON, c)
    settle(broker, ABANDON, a)
    assert bodies(receive(broker, "A", 10)) == ["a", "c", "d"]
    assert settle(broker, COMPLETE, b) == [None]


def test_accept_takes_the_session_whose_first_message_is_oldest(broker: EmbeddedBroker) -> None:
    for session, body in (("z", "1"), ("a", "2"), ("m", "3"), ("z", "4")):
        send(broker, body, session=session)
    assert [accept(broker, lock) for lock in "ABCD"] == ["z", "a", "m", None]


def test_accept_goes_by_the_messages_that_are_left(broker: EmbeddedBroker) -> None:
    send(broker, "1", session="x")
    send(broker, "2", session="y")
    send(broker, "3", session="x")
    settle(broker, COMPLETE, *receive(broker, "A", session="x"), session="x")
    broker.release("q", "x", "A").result()
    assert accept(broker, "B") == "y"


def test_accept_passes_over_a_session_without_active_messages(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    settle(broker, DEFER, *receive(broker, "A"))
    broker.set_state("q", "s", "A", b"state").result()
    broker.release("q", "s", "A").result()
    assert accept(broker, "B") is None


def test_accept_of_a_named_session_takes_it_also_without_messages(broker: EmbeddedBroker) -> None:
    assert accept(broker, "A", "empty") == "empty"
    with pytest.raises(SessionLockedError):
        accept(broker, "B", "empty")


def test_an_accept_tried_again_gets_the_same_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", session="x")
    send(broker, "2", session="y")
    assert accept(broker, "A", request_id="r1") == "x"
    clock.advance(29)
    assert accept(broker, "A", request_id="r1") == "x"
    assert accept(broker, "B", request_id="r2") == "y"
    clock.advance(2)
    with pytest.raises(SessionLockedError):
        accept(broker, "C", "x")


def test_an_accept_tried_again_after_its_lock_ended_does_not_get_it_back(broker: EmbeddedBroker, clock: HandClock) -> None:
    send(broker, "1", session="x")
    assert accept(broker, "A", request_id="r1") == "x"
    clock.advance(30)
    assert accept(broker, "A", request_id="r1") is None
    assert accept(broker, "B", request_id="r2") == "x"


def test_a_waiting_receive_keeps_the_lock_alive(broker: EmbeddedBroker, clock: HandClock) -> None:
    waiting = Background(lambda: receive(broker, "A", timeout=600))
    eventually(lambda: any(lock.waiters for lock in broker._core.locks))
    for _ in range(5):
        clock.advance(100)
        with pytest.raises(SessionLockedError):
            receive(broker, "B")
    send(broker, "a")
    (message,) = waiting.result()
    assert settle(broker, COMPLETE, message) == [None]


def test_a_lock_expires_after_the_wait_in_it_is_over(broker: EmbeddedBroker, clock: HandClock) -> None:
    waiting = Background(lambda: receive(broker, "A", timeout=600))
    eventually(lambda: any(lock.waiters for lock in broker._core.locks))
    clock.advance(700)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")
    send(broker, "a")
    waiting.result()
    clock.advance(29)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")
    clock.advance(1)
    receive(broker, "B")


def test_a_wait_that_ends_empty_extends_the_lock(broker: EmbeddedBroker, clock: HandClock) -> None:
    waiting = Background(lambda: broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=20)).result())
    eventually(lambda: any(lock.waiters for lock in broker._core.locks))
    clock.advance(40)
    for lock in broker._core.locks:
        lock.wake_waiters()
    assert waiting.result().lock_expires_in == 30
    clock.advance(29)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")


def test_two_receives_of_one_holder_share_the_messages(broker: EmbeddedBroker) -> None:
    first = Background(lambda: receive(broker, "A", timeout=600))
    second = Background(lambda: receive(broker, "A", timeout=600))
    eventually(lambda: sum(len(lock.waiters) for lock in broker._core.locks) == 2)
    send(broker, "a")
    eventually(lambda: not (first.running and second.running))
    send(broker, "b")
    assert sorted(bodies([*first.result(), *second.result()])) == ["a", "b"]


def test_many_receives_of_one_holder_lose_and_double_nothing(broker: EmbeddedBroker) -> None:
    wanted = [f"{number}" for number in range(200)]
    taken: list[str] = []
    guard = threading.Lock()

    def consume() -> None:
        while got := receive(broker, "A", 3):
            with guard:
                taken.extend(bodies(got))
            assert settle(broker, COMPLETE, *got) == [None] * len(got)

    send(broker, *wanted)
    for thread in [Background(consume) for _ in range(8)]:
        thread.result()
    assert sorted(taken) == sorted(wanted)
    assert peek(broker) == []


def test_a_deleted_queue_ends_its_locks(broker: EmbeddedBroker) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    broker.delete_queue("q").result()
    broker.create_queue("q", QueueSettings()).result()
    assert settle(broker, COMPLETE, message) == ["SessionLockLost"]
    send(broker, "b")
    assert bodies(receive(broker, "B", 10)) == ["b"]
    assert dead(broker) == []


def test_the_machines_wall_clock_may_be_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        send(broker, "kept", time_to_live=3600)
        receive(broker, "A")
        for step in (1e9, -1e9):
            monkeypatch.setattr("time.time", lambda step=step: 1_700_000_000 + step)
            with pytest.raises(SessionLockedError) as caught:
                receive(broker, "B")
            assert 0 < (caught.value.retry_after or 0) <= 60
            # A step of the wall clock would make it far more or nothing; the call itself takes a moment.
            assert 59 < broker.renew("q", "s", "A").result() <= 60
            assert peek(broker) == ["kept"]
