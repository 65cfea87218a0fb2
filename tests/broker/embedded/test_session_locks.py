"""The session locks of the embedded broker: holders, expiry, and unsettled messages of a lock that ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from azsession import SessionLockedError, SessionNotFoundError
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.due_work import STEP_LOCKS
from azsession.broker.embedded.jobs import Job, Transaction
from azsession.broker.embedded.session_locks import SessionLock
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import ABANDON, COMPLETE, NO_WAIT, Background, HandClock, Hold, accept, bodies, peek, receive, send, settle


def test_a_receive_takes_a_free_session_for_the_lock_duration(broker: EmbeddedBroker) -> None:
    delivery = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=0)).result()
    assert delivery.lock_expires_in == 30
    assert delivery.messages == []


def test_another_holder_gets_an_error_with_the_time_that_is_left(broker: EmbeddedBroker, clock: HandClock) -> None:
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
def test_receive_renew_and_accept_give_the_lock_its_full_duration(
    broker: EmbeddedBroker, clock: HandClock, kind: str
) -> None:
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
def test_every_operation_of_a_holder_fails_after_its_lock_expired(
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


def test_a_lock_id_that_is_lost_in_one_session_can_take_another(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    clock.advance(30)
    receive(broker, "A", session="other")


def test_a_holder_that_released_the_session_cannot_take_it_again(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    broker.release("q", "s", "A").result()
    with pytest.raises(SessionNotFoundError):
        receive(broker, "A")
    receive(broker, "B")


def test_a_release_by_another_holder_changes_nothing(broker: EmbeddedBroker) -> None:
    receive(broker, "A")
    broker.release("q", "s", "B").result()
    broker.release("q", "s", "").result()
    assert broker.renew("q", "s", "A").result() == 30


def test_a_renewal_without_a_lock_fails(broker: EmbeddedBroker) -> None:
    for holder in ("A", ""):
        with pytest.raises(SessionNotFoundError):
            broker.renew("q", "s", holder).result()


@pytest.mark.parametrize("how", ["expiry", "release"])
def test_unsettled_messages_return_in_order_when_the_lock_ends(broker: EmbeddedBroker, clock: HandClock, how: str) -> None:
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
    counts = (3, 2, 1) if how == "expiry" else (2, 1, 1)
    assert [(one.body, one.delivery_count) for one in again] == list(zip((b"b", b"c", b"d"), counts, strict=True))
    assert settle(broker, COMPLETE, c) == ["MessageLockLost"]


def test_setting_the_wall_clock_does_not_change_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        send(broker, "kept", time_to_live=3600)
        receive(broker, "A")
        for step in (1e9, -1e9):
            monkeypatch.setattr("time.time", lambda step=step: 1_700_000_000 + step)
            with pytest.raises(SessionLockedError) as caught:
                receive(broker, "B")
            assert 0 < (caught.value.retry_after or 0) <= 60
            # The call itself takes a moment.
            assert 59 < broker.renew("q", "s", "A").result() <= 60
            assert peek(broker) == ["kept"]


def test_a_restart_ends_all_locks_and_tokens(path: Path, clock: HandClock) -> None:
    with EmbeddedBroker(path, queues=["q"], clock=clock) as broker:
        send(broker, "a")
        (message,) = receive(broker, "A")
    with EmbeddedBroker(path, clock=clock) as broker:
        assert settle(broker, COMPLETE, message) == ["SessionLockLost"]
        (again,) = receive(broker, "B")
        assert again.delivery_count == 1
        assert settle(broker, COMPLETE, message) == ["MessageLockLost"]


# The shared holder of the plain dialect


def test_the_plain_dialect_can_take_the_session_again_after_its_lock_ended(broker: EmbeddedBroker, clock: HandClock) -> None:
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


def test_the_plain_dialect_cannot_take_a_locked_session(broker: EmbeddedBroker, clock: HandClock) -> None:
    receive(broker, "A")
    with pytest.raises(SessionLockedError):
        receive(broker, "")
    clock.advance(30)
    receive(broker, "")


# Waiting receives


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


def test_a_wait_that_ends_without_messages_extends_the_lock(broker: EmbeddedBroker, clock: HandClock) -> None:
    waiting = Background(lambda: broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=20)).result())
    eventually(lambda: any(lock.waiters for lock in broker._core.locks))
    clock.advance(40)
    for lock in broker._core.locks:
        lock.wake_waiters()
    assert waiting.result().lock_expires_in == 30
    clock.advance(29)
    with pytest.raises(SessionLockedError):
        receive(broker, "B")


# Operations that arrive before the expiry


def test_a_renewal_that_arrives_before_the_expiry_is_in_time_although_it_runs_later(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    receive(broker, "A")
    clock.advance(29)
    hold = Hold(broker)
    renewal = broker.renew("q", "s", "A", context=NO_WAIT)
    of_another = broker.renew("q", "s", "B", context=NO_WAIT)
    clock.advance(10)
    hold.let_go()
    assert renewal.result(10) == 30
    with pytest.raises(SessionLockedError):
        of_another.result(10)


def test_a_settlement_that_arrives_before_the_expiry_is_in_time_although_it_runs_later(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    send(broker, "a")
    (message,) = receive(broker, "A")
    clock.advance(29)
    hold = Hold(broker)
    settlement = Settlement(message.receipt.handle, Disposition.COMPLETE)
    settled = broker.settle("q", "s", [settlement], context=NO_WAIT)
    clock.advance(10)
    hold.let_go()
    assert settled.result(10) == [None]
    assert peek(broker) == []


# Memory


def test_released_locks_are_removed_from_the_heap_of_expiries() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=300)).result()
        send(broker, "kept", session="kept")
        assert receive(broker, "keeper", session="kept")
        for number in range(1000):
            receive(broker, f"holder-{number}", session=f"s-{number}")
            broker.release("q", f"s-{number}", f"holder-{number}").result()
        assert len(broker._core.locks._expiries) < 100
        # The remaining lock expires on time.
        clock.advance(299)
        assert broker.renew("q", "kept", "keeper").result() == 300
        clock.advance(301)
        assert bodies(receive(broker, "next", session="kept")) == ["kept"]


def test_expired_locks_are_removed_from_the_heap_of_expiries() -> None:
    clock = HandClock()
    with EmbeddedBroker(clock=clock) as broker:
        broker.create_queue("q", QueueSettings(lock_duration=10)).result()
        send(broker, "x")
        for number in range(300):
            assert accept(broker, f"holder-{number}") == "s"
            for _ in range(3):
                clock.advance(9)
                broker.renew("q", "s", f"holder-{number}").result()
            clock.advance(11)
        assert len(broker._core.locks._expiries) < 100
        assert len(list(broker._core.locks)) <= 1


# Many locks


def test_many_locks_that_expire_together_end_in_steps(broker: EmbeddedBroker, clock: HandClock) -> None:
    for number in range(1000):
        send(broker, "a", session=f"s{number}")
        assert accept(broker, "A") == f"s{number}"
    ended: list[int] = []
    end_lock = broker._core.end_lock
    run_job = broker._core.commits._run_job

    def counted(job: Job[Any], tx: Transaction) -> None:
        ended.append(0)
        run_job(job, tx)

    def count(tx: Transaction, lock: SessionLock) -> None:
        ended[-1] += 1
        end_lock(tx, lock)

    broker._core.end_lock = count  # type: ignore[method-assign]
    broker._core.commits._run_job = counted  # type: ignore[method-assign]
    clock.advance(31)
    # The lock of the last session has expired, although its step has not come.
    assert bodies(receive(broker, "B", session="s999")) == ["a"]
    assert sum(ended) < 1000
    # Each operation does one step. With a real clock, the broker's thread does the steps.
    eventually(lambda: broker.list_queues().result() and len(list(broker._core.locks)) == 1)
    # The receive also ends the lock of its own session.
    assert max(ended) <= STEP_LOCKS + 1
