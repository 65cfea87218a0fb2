"""The session locks alone: how changes are undone when their transaction fails, expiries, and who is woken."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from azsession.broker.embedded import session_locks
from azsession.broker.embedded.jobs import Job, Transaction
from azsession.broker.embedded.session_locks import MAX_ANSWERS, Acceptors, LockedMessage, SessionLock, SessionLocks, Waiter

KEY = (1, "s")


@pytest.fixture
def tx() -> Transaction:
    return Transaction()


@pytest.fixture
def locks() -> SessionLocks:
    return SessionLocks()


@pytest.fixture
def lock(locks: SessionLocks) -> SessionLock:
    return locks.take(Transaction(), KEY, "A", 30.0)


class Waits:
    """A waiter with a job, and what was done with it."""

    def __init__(self) -> None:
        self.requeued: list[Job[Any]] = []
        self.left: list[bool] = []
        self.waiter = Waiter("id", 5.0, self.requeued.append, lambda: self.left.append(True))
        self.job: Job[Any] = Job(lambda tx: None, False, 0.0)
        self.waiter.attach(self.job)


def expired(locks: SessionLocks, now: float) -> list[SessionLock]:
    return list(locks.expired(Transaction(), now))


# Messages


def test_a_delivery_is_not_counted_before(tx: Transaction) -> None:
    assert LockedMessage(1, 3, False, 10).count_before == 2


def test_using_a_message_that_was_fetched_ahead_is_undone(tx: Transaction) -> None:
    message = LockedMessage(1, 1, False, 10, ahead=True)
    message.take(tx)
    assert message.ahead is False
    tx.roll_back()
    assert message.ahead is True


def test_counting_answers_is_undone(tx: Transaction) -> None:
    message = LockedMessage(1, 1, False, 10)
    assert (message.answers, message.ahead) == (1, False)
    message.count_answers(tx, 2)
    message.count_answers(tx, -1)
    assert message.answers == 2
    tx.roll_back()
    assert message.answers == 1


def test_the_first_message_ahead_is_the_one_with_the_lowest_key(lock: SessionLock) -> None:
    assert lock.first_ahead() is None
    ahead = [LockedMessage(key, 1, False, 10, ahead=True) for key in (5, 3, 4)]
    lock.tokens.update({str(one.key): one for one in ahead})
    assert lock.first_ahead() is ahead[1]
    lock.tokens["6"] = LockedMessage(6, 1, False, 10)
    assert lock.first_ahead() is None


# One lock


def test_a_new_lock_has_delivered_nothing(lock: SessionLock) -> None:
    assert (lock.key, lock.holder, lock.expires, lock.cursor, lock.accepts, lock.expired_through) == (
        KEY,
        "A",
        30.0,
        -1,
        0,
        -1,
    )
    assert (lock.returned, lock.tokens, lock.answers, lock.dead_lettered, lock.waiters) == ([], {}, {}, {}, [])
    assert (lock.confirmed, lock.queued) == (False, True)


def test_counting_accepts_is_undone(tx: Transaction, lock: SessionLock) -> None:
    lock.count_accepts(tx, 2)
    lock.count_accepts(tx, -1)
    assert lock.accepts == 1
    tx.roll_back()
    assert lock.accepts == 0


def test_a_failed_transaction_restores_the_state_before_its_first_change(tx: Transaction, lock: SessionLock) -> None:
    message = LockedMessage(1, 1, False, 10)
    lock.give_back(7)
    lock.tokens["t"] = message
    lock.remember("r", ("t",))
    lock.dead_lettered, lock.cursor, lock.expired_through = {"d": 1}, 3, 2

    def state() -> tuple[Any, ...]:
        numbers = (lock.expires, lock.cursor, lock.expired_through)
        return numbers, list(lock.returned), dict(lock.tokens), list(lock.answers.items()), dict(lock.dead_lettered)

    before = state()
    lock.save_for_rollback(tx)
    lock.give_back(8)
    del lock.tokens["t"]
    lock.remember("r2", ())
    lock.expires, lock.cursor, lock.expired_through, lock.dead_lettered = 99.0, 9, 8, {}
    lock.save_for_rollback(tx)
    lock.cursor = 10
    tx.roll_back()
    assert state() == before


def test_a_failed_transaction_restores_all_locks_that_it_changed(tx: Transaction, locks: SessionLocks) -> None:
    both = [locks.take(Transaction(), (1, name), "A", 30.0) for name in "ab"]
    for lock in both:
        lock.save_for_rollback(tx)
        lock.cursor = 9
    tx.roll_back()
    assert [lock.cursor for lock in both] == [-1, -1]


def test_returned_messages_are_in_order(lock: SessionLock) -> None:
    for key in (5, 1, 3):
        lock.give_back(key)
    assert lock.returned == [1, 3, 5]


def test_the_latest_answers_are_remembered(lock: SessionLock) -> None:
    lock.remember("", ("t",))
    assert not lock.answers
    for number in range(MAX_ANSWERS + 2):
        lock.remember(str(number), (f"t{number}",))
    assert list(lock.answers) == [str(number) for number in range(2, MAX_ANSWERS + 2)]
    assert lock.answers["2"] == ("t2",)


def test_answers_are_forgotten_if_their_callers_got_no_message(lock: SessionLock) -> None:
    for request_id, tokens in {"all": ("a", "b"), "some": ("a", "c"), "none": ("c",), "empty": ()}.items():
        lock.remember(request_id, tokens)
    lock.forget_answers({"a", "b"})
    assert list(lock.answers) == ["some", "none", "empty"]


def test_a_lock_expires_at_its_end_unless_a_receive_waits_in_it(lock: SessionLock) -> None:
    assert not lock.has_expired(29.9)
    assert lock.has_expired(30.0)
    lock.waiters.append(Waits().waiter)
    assert not lock.has_expired(99.0)


# Waiters


def test_a_waiter_is_woken_until_its_job_is_done(lock: SessionLock) -> None:
    waits = Waits()
    waiter = waits.waiter
    assert (waiter.request_id, waiter.deadline, waiter.is_done) == ("id", 5.0, False)
    assert (waiter.woken, waiter.waits, waiter.superseded, waiter.job) == (False, False, False, waits.job)
    lock.waiters.append(waiter)
    lock.wake_waiters()
    lock.wake_waiters()
    assert waiter.woken is True
    assert waits.requeued == [waits.job] * 2
    waits.job.future.set_result(None)
    assert (waiter.is_done, waiter.job) == (True, None)
    waiter.wake()
    assert len(waits.requeued) == 2
    assert waits.left == []


@pytest.mark.parametrize(
    ("waiting", "end", "leaves"),
    [
        (False, lambda future: future.cancel(), True),
        (True, lambda future: future.cancel(), True),
        (True, lambda future: future.set_exception(OSError()), True),
        (False, lambda future: future.set_exception(OSError()), False),
        (True, lambda future: future.set_result(None), False),
    ],
)
def test_a_waiter_leaves_if_it_ends_without_a_result(waiting: bool, end: Any, leaves: bool) -> None:
    waits = Waits()
    waits.waiter.waits = waiting
    future: Future[Any] = waits.job.future
    end(future)
    assert waits.left == [True] * leaves
    assert waits.waiter.is_done


# All locks


def test_a_taken_session_is_locked_and_free_again_if_the_transaction_fails(tx: Transaction, locks: SessionLocks) -> None:
    assert locks.get(KEY) is None
    lock = locks.take(tx, KEY, "A", 30.0)
    assert locks.get(KEY) is lock
    assert list(locks) == [lock]
    tx.roll_back()
    assert locks.get(KEY) is None
    tx.roll_back()
    assert locks.next_expiry() is None


def test_a_failed_take_does_not_remove_a_later_lock(tx: Transaction, locks: SessionLocks) -> None:
    locks.end(Transaction(), locks.take(tx, KEY, "A", 30.0))
    later = locks.take(Transaction(), KEY, "B", 40.0)
    tx.roll_back()
    assert locks.get(KEY) is later


def test_an_ended_lock_is_free_and_its_id_is_lost(tx: Transaction, locks: SessionLocks, lock: SessionLock) -> None:
    waits = Waits()
    lock.waiters.append(waits.waiter)
    locks.end(tx, lock)
    assert locks.get(KEY) is None
    assert locks.has_ended(KEY, "A")
    assert not locks.has_ended(KEY, "B")
    assert not locks.has_ended((1, "other"), "A")
    assert waits.requeued == []
    tx.finish()
    assert waits.requeued == [waits.job]


def test_a_lock_whose_end_fails_is_held_and_expires_on_time(tx: Transaction, locks: SessionLocks, lock: SessionLock) -> None:
    assert expired(locks, 30.0) == [lock]
    lock.queued = False
    locks.end(tx, lock)
    tx.roll_back()
    assert locks.get(KEY) is lock
    assert lock.queued is True
    assert not locks.has_ended(KEY, "A")
    assert locks.next_expiry() == 30.0
    assert expired(locks, 30.0) == [lock]


def test_the_shared_holder_is_never_lost_or_refused(tx: Transaction, locks: SessionLocks) -> None:
    locks.end(tx, locks.take(tx, KEY, "", 30.0))
    locks.refuse(KEY, "")
    assert not locks.has_ended(KEY, "")


def test_an_undone_take_leaves_the_lock_id_usable(tx: Transaction, locks: SessionLocks, lock: SessionLock) -> None:
    lock.queued = False
    locks.undo_take(tx, lock)
    assert locks.get(KEY) is None
    assert not locks.has_ended(KEY, "A")
    tx.roll_back()
    assert locks.get(KEY) is lock
    assert lock.queued is True


def test_the_latest_ended_and_refused_ids_are_remembered(
    tx: Transaction, locks: SessionLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_locks, "MAX_LOST", 2)
    monkeypatch.setattr(session_locks, "MAX_REFUSED", 3)
    for holder in "ABC":
        locks.end(tx, locks.take(tx, KEY, holder, 30.0))
    assert [locks.has_ended(KEY, holder) for holder in "ABC"] == [False, True, True]
    for holder in "WXYZ":
        locks.refuse(KEY, holder)
    assert [locks.has_ended(KEY, holder) for holder in "WXYZ"] == [False, True, True, True]
    assert not locks.has_ended((2, "s"), "Z")


# Expiries


def test_locks_expire_in_the_order_of_their_ends(tx: Transaction, locks: SessionLocks) -> None:
    late, early, same = (locks.take(tx, (1, name), "A", end) for name, end in (("l", 30.0), ("e", 20.0), ("s", 20.0)))
    assert locks.next_expiry() == 20.0
    assert expired(locks, 19.9) == []
    assert expired(locks, 30.0) == [early, same, late]
    assert locks.next_expiry() is None


def test_an_extended_lock_expires_later(locks: SessionLocks, lock: SessionLock) -> None:
    locks.extend(lock, 50.0)
    assert locks.next_expiry() == 50.0
    assert expired(locks, 49.0) == []
    assert expired(locks, 50.0) == [lock]


def test_a_lock_that_was_extended_does_not_expire_at_its_former_end(locks: SessionLocks, lock: SessionLock) -> None:
    locks.extend(lock, 50.0)
    assert expired(locks, 30.0) == []
    assert locks.next_expiry() == 50.0
    assert expired(locks, 50.0) == [lock]


def test_a_lock_in_which_a_receive_waits_expires_after_it_is_extended(locks: SessionLocks, lock: SessionLock) -> None:
    lock.waiters.append(Waits().waiter)
    assert expired(locks, 40.0) == []
    assert lock.queued is False
    assert locks.next_expiry() is None
    lock.waiters.clear()
    locks.extend(lock, 60.0)
    locks.extend(lock, 70.0)
    assert lock.queued is True
    assert len(locks._expiries) == 1
    assert expired(locks, 70.0) == [lock]


def test_the_entries_of_ended_locks_are_void(tx: Transaction, locks: SessionLocks, lock: SessionLock) -> None:
    locks.end(tx, lock)
    again = locks.take(tx, KEY, "B", 90.0)
    assert locks.next_expiry() == 90.0
    locks.end(tx, again)
    assert expired(locks, 99.0) == []
    assert locks.next_expiry() is None


def test_a_lock_after_void_entries_expires(tx: Transaction, locks: SessionLocks, lock: SessionLock) -> None:
    locks.end(tx, lock)
    again = locks.take(tx, KEY, "B", 40.0)
    assert expired(locks, 40.0) == [again]


def test_a_step_that_fails_leaves_expired_locks_to_the_next_one(
    tx: Transaction, locks: SessionLocks, lock: SessionLock
) -> None:
    assert list(locks.expired(tx, 30.0)) == [lock]
    assert locks.next_expiry() is None
    tx.roll_back()
    assert locks.next_expiry() == 30.0


def test_entries_of_ended_locks_are_removed_once_they_are_the_majority(tx: Transaction, locks: SessionLocks) -> None:
    kept = locks.take(tx, KEY, "A", 500.0)
    for number in range(300):
        lock = locks.take(tx, (2, str(number)), "A", 400.0 - number)
        if number % 2:
            locks.end(tx, lock)
        else:
            locks.undo_take(tx, lock)
        assert len(locks._expiries) <= 66
    assert expired(locks, 499.0) == []
    assert expired(locks, 500.0) == [kept]


# Accepts


def test_waiting_accepts_are_woken_once_each_in_their_order() -> None:
    acceptors, first, second = Acceptors(), Waits(), Waits()
    for waits in (first, second):
        acceptors.add(waits.waiter)
    assert list(acceptors) == [first.waiter, second.waiter]
    acceptors.wake_next()
    assert (len(first.requeued), len(second.requeued)) == (1, 0)
    acceptors.wake_next()
    acceptors.wake_next()
    assert (len(first.requeued), len(second.requeued)) == (1, 1)
    acceptors.wake_all()
    assert (len(first.requeued), len(second.requeued)) == (2, 2)
    acceptors.leave(first.waiter)
    acceptors.leave(first.waiter)
    assert list(acceptors) == [second.waiter]


# The names of the locked sessions, and remembered receives


def test_the_names_of_a_queue_are_those_of_its_locked_sessions(
    locks: SessionLocks, lock: SessionLock, tx: Transaction
) -> None:
    locks.take(tx, (1, "t"), "B", 30.0)
    locks.take(tx, (2, "u"), "C", 30.0)
    assert (set(locks.names(1)), set(locks.names(2)), set(locks.names(3))) == ({"s", "t"}, {"u"}, set())
    locks.end(tx, lock)
    assert set(locks.names(1)) == {"t"}


def test_a_receive_that_returned_nothing_is_remembered_once(lock: SessionLock) -> None:
    for request_id in ("r1", "r1", "", "r2"):
        lock.remember_empty(request_id)
    assert list(lock.empty) == ["r1", "r2"]
