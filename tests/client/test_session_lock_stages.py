"""`SessionLock` alone: what its calls answer while it is new, held, lost, closed, handed over or inherited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from azsession import ReceiptHandle, SessionNotFoundError, UnsupportedOperationError
from azsession.client.lock_term import LockExpiredError
from azsession.client.session_lock import SessionLock, Stage
from azsession.protocol.error_codes import SESSION_LOCK_LOST
from azsession.protocol.routes import route_of

from .received import received

NAME = "the session 's1' of 'orders'"


@pytest.fixture
def lock() -> SessionLock:
    return SessionLock(NAME, 300)


def held(lock: SessionLock, lasts: float = 300.0, sent: float = 0.0) -> None:
    """Hold the lock: the request was sent `sent` seconds ago."""
    lock.request()
    lock.refresh(time.monotonic() - sent, lasts)


def close(lock: SessionLock) -> None:
    lock.close()


def abandon(lock: SessionLock) -> None:
    lock.abandon()


def lose(lock: SessionLock) -> None:
    assert lock.lose(SessionNotFoundError("the session was taken", code="SessionNotFound"))


def in_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


# Stages


def test_a_new_lock_is_neither_held_nor_closed_nor_lost(lock: SessionLock) -> None:
    assert (lock.stage, lock.closed, lock.error, lock.is_shared, lock.is_live) == (Stage.NEW, False, None, False, False)
    assert lock.route == route_of(lock.lock_id)
    assert 299 < lock.seconds_left() <= 300
    lock.check()


def test_a_request_is_noted_and_gives_the_lock_id(lock: SessionLock) -> None:
    assert lock.request() == lock.lock_id
    assert lock.stage is Stage.REQUESTED
    assert not lock.is_live


def test_a_granted_lock_is_held_and_stays_held_by_later_requests(lock: SessionLock) -> None:
    held(lock)
    assert (lock.stage, lock.is_live) == (Stage.HELD, True)
    lock.request()
    assert lock.stage is Stage.HELD


def test_an_accepted_session_keeps_the_lock_id_of_the_accept(lock: SessionLock) -> None:
    lock.take_over("12345678-abcd")
    assert (lock.lock_id, lock.route, lock.stage) == ("12345678-abcd", route_of("12345678-abcd"), Stage.REQUESTED)


@pytest.mark.parametrize("end", [close, abandon, lose])
def test_an_ended_lock_is_not_live(lock: SessionLock, end: Callable[[SessionLock], None]) -> None:
    held(lock)
    end(lock)
    assert not lock.is_live


# Errors


def test_a_closed_lock_says_so(lock: SessionLock) -> None:
    lock.close()
    assert lock.closed is True
    for settling in (False, True):
        with pytest.raises(SessionNotFoundError) as caught:
            lock.check(settling=settling)
        assert (str(caught.value), caught.value.code) == (f"{NAME} is closed", SESSION_LOCK_LOST)


def test_a_finalizer_closes_the_lock_without_waiting_for_another_thread(lock: SessionLock) -> None:
    with lock._guard:
        in_another_thread(lock.abandon)
    assert lock.closed is True


def test_a_lost_lock_gives_the_reason_each_time(lock: SessionLock) -> None:
    reason = SessionNotFoundError("the session was taken", code="SessionNotFound")
    assert lock.lose(reason) is True
    assert lock.error is reason
    for _ in range(2):
        with pytest.raises(SessionNotFoundError, match=r"^the session was taken$") as caught:
            lock.check()
        assert caught.value is not reason
        assert (caught.value.code, caught.value.__cause__) == ("SessionNotFound", reason)


@pytest.mark.parametrize("end", [close, abandon, lose])
def test_a_lock_is_lost_once_and_not_after_it_was_closed(lock: SessionLock, end: Callable[[SessionLock], None]) -> None:
    end(lock)
    first = lock.error
    assert lock.lose(SessionNotFoundError("later", code=SESSION_LOCK_LOST)) is False
    assert lock.error is first


def test_an_expired_lock_is_reported_with_an_error_for_the_user(lock: SessionLock) -> None:
    held(lock, 10, sent=11)
    with pytest.raises(LockExpiredError, match=f"^the lock of {NAME} expired$") as caught:
        lock.check()
    assert (str(caught.value.error), caught.value.error.code) == (f"the lock of {NAME} expired", SESSION_LOCK_LOST)


def test_a_lock_that_was_only_requested_cannot_expire(lock: SessionLock) -> None:
    short = SessionLock(NAME, -1)
    short.request()
    short.check()
    assert short.seconds_left() < 0


# The term


def test_a_grant_counts_from_the_request_and_adds_the_time_that_the_server_held_it(lock: SessionLock) -> None:
    held(lock, 60, sent=20)
    assert 39 < lock.seconds_left() <= 40
    lock.refresh(time.monotonic() - 20, 60, waited=15)
    assert 54 < lock.seconds_left() <= 55


def test_the_answer_to_the_later_request_counts_also_if_it_is_shorter(lock: SessionLock) -> None:
    now = time.monotonic()
    lock.request()
    assert lock.refresh(now, 100) is True  # Earlier than the 300 seconds that were expected.
    assert lock.refresh(now + 1, 20) is True
    assert 20 < lock.seconds_left() <= 21
    # An answer that was overtaken, to an earlier request.
    assert lock.refresh(now, 100) is False
    assert 20 < lock.seconds_left() <= 21
    assert lock.refresh(now + 2, 100) is False
    assert lock.seconds_left() > 90


def test_of_two_answers_to_requests_of_one_instant_the_later_answer_counts(lock: SessionLock) -> None:
    now = time.monotonic()
    lock.request()
    lock.refresh(now, 100)
    lock.refresh(now, 20)
    assert lock.seconds_left() <= 20


def test_the_first_grant_counts_on_a_machine_whose_clock_has_just_begun(lock: SessionLock) -> None:
    lock.request()
    lock.refresh(0.5, 1e9)
    lock.refresh(0.25, 5)
    assert lock.seconds_left() > 1e8
    fresh = SessionLock(NAME, 300)
    fresh.request()
    fresh.refresh(-5.0, 1e9)
    assert fresh.seconds_left() > 1e8


def test_a_lock_of_another_process_is_held_shared_and_due_for_renewal(lock: SessionLock) -> None:
    before = time.monotonic()
    lock.resume("12345678-abcd", ("orders", "s1"), 60)
    assert (lock.lock_id, lock.route, lock.stage) == ("12345678-abcd", route_of("12345678-abcd"), Stage.HELD)
    assert lock.is_shared is True
    assert before <= lock.term.renew_at <= time.monotonic()
    assert 59 < lock.seconds_left() <= 60


# A receipt of another process


def test_a_client_made_from_a_receipt_can_only_settle(lock: SessionLock) -> None:
    receipt = ReceiptHandle("token", queue_name="orders", session_id="s1", route="elsewhere")
    lock.adopt(receipt)
    assert lock.route == "elsewhere"
    assert lock.resolve(receipt) == "token"
    lock.check(settling=True)
    with pytest.raises(UnsupportedOperationError, match=NAME):
        lock.check()


def test_a_receipt_without_a_route_leaves_the_clients_own(lock: SessionLock) -> None:
    lock.adopt(ReceiptHandle("token", queue_name="orders", session_id="s1"))
    assert lock.route == route_of(lock.lock_id)


# Forks


def test_a_forked_child_gets_a_lock_that_nobody_asked_for_under_its_own_id(lock: SessionLock) -> None:
    parent = lock.lock_id
    lock.after_fork()
    assert lock.stage is Stage.NEW
    assert lock.lock_id != parent
    assert lock.route == route_of(lock.lock_id)


@pytest.mark.parametrize("grant", [False, True])
def test_a_forked_child_may_only_settle_under_its_parents_lock(lock: SessionLock, grant: bool) -> None:
    lock.request()
    if grant:
        held(lock)
    message = received(1)
    lock.register([message])
    parent = lock.lock_id
    lock.after_fork()
    assert (lock.stage, lock.lock_id) == (Stage.INHERITED, parent)
    assert not lock.is_live
    lock.check(settling=True)
    assert lock.resolve(message) == message.receipt.handle
    with pytest.raises(SessionNotFoundError) as caught:
        lock.check()
    assert str(caught.value) == (
        f"{NAME} belongs to the parent process that opened it: open another session in this process, or settle the messages "
        "that the parent received"
    )
    assert caught.value.code == SESSION_LOCK_LOST
    assert lock.lose(SessionNotFoundError("later", code=SESSION_LOCK_LOST)) is False
    assert lock.error is None
    # An answer to a request of the parent changes nothing.
    lock.refresh(time.monotonic(), 60)
    assert lock.stage is Stage.INHERITED


def test_a_forked_child_forgets_what_the_parents_threads_were_doing(lock: SessionLock) -> None:
    held(lock)
    messages = [received(1)]
    running = lock.begin_receive()
    request_id, _ = lock.request_id()
    lock.register(messages)
    lock.put_ahead(messages)
    fetches = lock.fetches
    with lock._guard:  # As a thread that does not exist in the child would hold it.
        in_another_thread(lock.after_fork)
        done: list[object] = []
        in_another_thread(lambda: done.append(lock.request_id()))
    assert lock.ahead_count == 0
    assert lock.fetches is not fetches
    assert lock.fetches.begin(None) is None
    assert done[0] != (request_id, True)
    assert running.arrived
