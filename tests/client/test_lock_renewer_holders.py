"""`Renewer` alone: when it renews the locks of holders that need no server, and which holders it forgets."""

from __future__ import annotations

import gc
import itertools
import logging
import time
import weakref
from collections.abc import Iterator

import pytest

from azsession.client.lock_renewer import Renewer

from ..conftest import eventually
from .renewals import Lock, stop, threads


@pytest.fixture
def renewer() -> Iterator[Renewer]:
    renewer = Renewer()
    yield renewer
    stop(renewer)


# When


def test_a_lock_is_renewed_when_it_is_due_and_not_before(renewer: Renewer) -> None:
    lock = Lock(0.2)
    due = lock.due
    renewer.watch(lock)
    eventually(lambda: lock.renewed)
    assert due is not None
    assert due <= lock.renewed[0]
    assert len(lock.renewed) == 1


def test_a_lock_is_renewed_again_at_the_time_that_its_renewal_returned(renewer: Renewer) -> None:
    lock = Lock(again=0.05)
    renewer.watch(lock)
    eventually(lambda: len(lock.renewed) >= 4)
    assert all(later - earlier >= 0.05 for earlier, later in itertools.pairwise(lock.renewed))


def test_a_lock_that_is_never_due_starts_no_thread(renewer: Renewer) -> None:
    renewer.watch(Lock(None))
    renewer.ensure_thread()
    assert not threads("azsession-renewer")


def test_a_lock_that_is_due_earlier_than_all_others_is_renewed_first(renewer: Renewer) -> None:
    late, early, last = Lock(60), Lock(0.05), Lock(70)
    for lock in (late, early, last):
        renewer.watch(lock)
    eventually(lambda: early.renewed)
    assert (late.renewed, last.renewed) == ([], [])


def test_a_lock_that_is_watched_again_is_renewed_at_the_earlier_time(renewer: Renewer) -> None:
    lock = Lock(60)
    renewer.watch(lock)
    lock.due = time.monotonic() + 0.05
    renewer.watch(lock)
    eventually(lambda: lock.renewed)
    # The entry of the later time is void.
    assert renewer._pop() is None
    assert renewer._due == []


def test_a_lock_that_is_watched_again_for_a_later_time_keeps_one_entry(renewer: Renewer) -> None:
    lock = Lock(60)
    renewer.watch(lock)
    lock.due = time.monotonic() + 70
    renewer.watch(lock)
    assert len(renewer._due) == 1


def test_a_lock_that_was_extended_in_between_is_not_renewed_at_the_former_time(
    renewer: Renewer, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock(2)
    renewer.watch(lock)
    lock.due = extended = time.monotonic() + 2.5
    eventually(lambda: lock.renewed)
    assert lock.renewed[0] >= extended
    assert not [record for record in caplog.records if record.name.startswith("azsession")]


def test_a_lock_that_ended_in_between_is_not_renewed(renewer: Renewer) -> None:
    ended, other = Lock(2), Lock(2.1)
    renewer.watch(ended)
    renewer.watch(other)
    ended.due = None
    eventually(lambda: other.renewed)
    assert ended.renewed == []


def test_locks_that_are_due_at_the_same_time_are_all_renewed(renewer: Renewer) -> None:
    locks, due = [Lock() for _ in range(20)], time.monotonic() + 0.05
    for lock in locks:
        lock.due = due
        renewer.watch(lock)
    eventually(lambda: all(lock.renewed for lock in locks))


# Failures


@pytest.mark.parametrize("failure", [RuntimeError("a hook failed"), SystemExit(1)])
def test_a_renewal_that_raises_is_logged_and_repeated_after_a_pause(
    renewer: Renewer, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    lock = Lock()
    lock.failure = failure
    renewer.watch(lock)
    eventually(lambda: len(lock.renewed) == 2)
    assert lock.renewed[1] - lock.renewed[0] >= 0.5
    (record,) = caplog.records
    assert (record.message, record.levelno) == ("a session lock could not be renewed yet", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


def test_a_renewal_that_raises_after_the_lock_ended_is_not_repeated(
    renewer: Renewer, caplog: pytest.LogCaptureFixture
) -> None:
    lock, later = Lock(), Lock(0.7)
    lock.failure = RuntimeError("a hook failed")
    lock.gate.clear()
    renewer.watch(lock)
    renewer.watch(later)
    eventually(lambda: lock.renewed)
    lock.due = None
    lock.gate.set()
    eventually(lambda: renewer._workers._outstanding == 0)
    assert lock not in [ref() for ref in renewer._next]
    eventually(lambda: later.renewed)
    assert len(lock.renewed) == 1
    assert "could not be renewed" in caplog.text


class Undecided(Lock):
    """A holder that fails once when it is asked for its due time in the renewer's thread."""

    asked = 0

    def renewal_due(self) -> float | None:
        self.asked += 1
        if self.asked == 2:
            raise RuntimeError("no answer")
        return super().renewal_due()


def test_a_lock_whose_due_time_cannot_be_asked_for_is_logged_and_renewed_later(
    renewer: Renewer, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Undecided()
    began = time.monotonic()
    renewer.watch(lock)
    eventually(lambda: lock.renewed)
    assert lock.renewed[0] - began >= 0.5
    (record,) = caplog.records
    assert record.message == "a session lock could not be handed to a thread that renews it"


# Memory


def test_a_holder_is_not_kept_alive_while_it_waits_or_after_its_renewal(renewer: Renewer) -> None:
    lock, renewed = Lock(60), Lock()
    refs = [weakref.ref(lock), weakref.ref(renewed)]
    renewer.watch(lock)
    renewer.watch(renewed)
    renewals = renewed.renewed
    eventually(lambda: renewals)
    del lock, renewed
    eventually(lambda: gc.collect() >= 0 and all(ref() is None for ref in refs))


def test_the_lock_of_a_holder_that_does_not_exist_any_more_is_not_renewed(renewer: Renewer) -> None:
    gone, other = Lock(2), Lock(2.1)
    renewed = gone.renewed
    renewer.watch(gone)
    renewer.watch(other)
    del gone
    gc.collect()
    eventually(lambda: other.renewed)
    assert renewed == []


def test_entries_of_holders_that_do_not_exist_any_more_are_removed(renewer: Renewer) -> None:
    living = [Lock(3 + number) for number in range(10)]
    for lock in living:
        renewer.watch(lock)
    for _ in range(500):
        renewer.watch(Lock(60))
    assert len(renewer._due) < 100
    assert len(renewer._next) < 100
    assert {ref() for _, _, ref in renewer._due} >= set(living)
    eventually(lambda: living[0].renewed)


def test_many_living_holders_are_kept(renewer: Renewer) -> None:
    living = [Lock(60) for _ in range(300)]
    for lock in living:
        renewer.watch(lock)
    assert len(renewer._due) == len(renewer._next) == 300
    assert sorted(renewer._due)[0] == renewer._due[0]


def test_a_lock_with_a_void_entry_is_renewed_again_after_entries_were_removed(renewer: Renewer) -> None:
    lock = Lock(60)
    renewer.watch(lock)
    lock.due = time.monotonic()
    renewer.watch(lock)
    eventually(lambda: lock.renewed and renewer._workers._outstanding == 0)
    for _ in range(200):
        renewer.watch(Lock(60))
    lock.due = time.monotonic()
    renewer.watch(lock)
    eventually(lambda: len(lock.renewed) == 2)
