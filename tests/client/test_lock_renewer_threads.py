"""`Renewer` alone: its threads, with a system that cannot start one, at the end and after a fork."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from azsession import threads as azsession_threads
from azsession.client.lock_renewer import MAX_WORKERS, Renewer
from azsession.events import Event

from ..conftest import eventually
from .renewals import Lock, refuse, stop, threads, workers


@pytest.fixture
def renewer() -> Iterator[Renewer]:
    renewer = Renewer()
    yield renewer
    stop(renewer)


def test_renewal_starts_when_the_system_can_start_its_thread(
    renewer: Renewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allow = refuse(monkeypatch, "azsession-renewer")
    lock = Lock()
    renewer.watch(lock)
    assert [record.message for record in caplog.records] == [
        "session locks are not renewed until the system can start another thread: can't start new thread"
    ]
    allow()
    renewer.ensure_thread()
    eventually(lambda: lock.renewed)
    (thread,) = threads("azsession-renewer")
    assert thread.daemon
    renewer.ensure_thread()
    renewer.watch(Lock(60))
    assert threads("azsession-renewer") == [thread]


def test_a_lock_for_which_no_worker_can_be_started_is_tried_again_soon(
    renewer: Renewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []
    allow = refuse(monkeypatch, "azsession-renewer-worker", attempts)
    lock = Lock()
    renewer.watch(lock)
    eventually(lambda: len(attempts) >= 3)
    assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(attempts))
    assert (lock.renewed, caplog.records) == ([], [])
    allow()
    eventually(lambda: lock.renewed)


def test_one_worker_renews_all_locks_if_no_more_can_be_started(renewer: Renewer, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, other = Lock(), Lock()
    slow.gate.clear()
    renewer.watch(slow)
    eventually(lambda: slow.renewed)
    refuse(monkeypatch, "azsession-renewer-worker")
    renewer.watch(other)
    eventually(lambda: renewer._workers._outstanding == 2)
    slow.gate.set()
    eventually(lambda: other.renewed)
    assert len(renewer._workers._threads) == 1


# Workers


def test_a_slow_renewal_does_not_delay_others_up_to_the_largest_number_of_workers(renewer: Renewer) -> None:
    locks = [Lock() for _ in range(MAX_WORKERS + 1)]
    for lock in locks:
        lock.gate.clear()
    for lock in locks:
        renewer.watch(lock)
    eventually(lambda: sum(len(lock.renewed) for lock in locks) == MAX_WORKERS)
    eventually(lambda: renewer._workers._outstanding == MAX_WORKERS + 1)
    assert len(workers()) == MAX_WORKERS
    assert all(thread.daemon for thread in workers())
    for lock in locks:
        lock.gate.set()
    eventually(lambda: all(lock.renewed for lock in locks))
    eventually(lambda: renewer._workers._outstanding == 0)


def test_a_worker_that_is_free_is_used_again(renewer: Renewer) -> None:
    lock = Lock(again=0.01)
    renewer.watch(lock)
    eventually(lambda: len(lock.renewed) >= 10)
    assert len(workers()) == 1


def test_an_idle_worker_ends_and_the_next_renewal_starts_another(renewer: Renewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azsession_threads, "WORKER_IDLE", 0.05)
    first = Lock()
    renewer.watch(first)
    eventually(lambda: first.renewed and not workers())
    assert not renewer._workers._threads
    second = Lock()
    renewer.watch(second)
    eventually(lambda: second.renewed)


# The end


def test_stopping_waits_for_the_renewal_that_runs_and_ends_all_threads(renewer: Renewer) -> None:
    lock = Lock(again=0.01)
    lock.gate.clear()
    renewer.watch(lock)
    renewer.watch(Lock(60))
    eventually(lambda: lock.renewed)
    stopping = threading.Thread(target=renewer.stop)
    stopping.start()
    eventually(lambda: not threads("azsession-renewer"))
    assert stopping.is_alive()
    lock.gate.set()
    stopping.join(20)
    assert not workers()
    assert len(lock.renewed) == 1
    stop(renewer)


def test_after_the_stop_no_lock_is_watched_and_no_thread_starts(renewer: Renewer) -> None:
    lock = Lock()
    renewer.watch(first := Lock(60))
    assert first.renewed == []
    (thread,) = renewer.dismiss()
    thread.join(20)
    renewer.watch(lock)
    renewer.ensure_thread()
    assert renewer._due == []
    assert renewer.dismiss() == [thread]
    assert not threads("azsession-renewer")
    assert lock.renewed == []


def test_a_worker_can_stop_the_renewer(renewer: Renewer) -> None:
    class Closing(Lock):
        def renew_in_background(self) -> float | None:
            renewer.stop()
            return super().renew_in_background()

    lock = Closing(again=0.01)
    renewer.watch(lock)
    eventually(lambda: lock.renewed and not workers())
    assert len(lock.renewed) == 1


def test_a_forked_child_starts_without_the_parents_threads_and_locks(renewer: Renewer) -> None:
    lock = Lock(60)
    renewer.watch(lock)
    eventually(lambda: renewer._thread is not None)
    thread = renewer._thread
    parent = vars(renewer).copy()
    with renewer._lock:  # As a thread that does not exist in the child would hold it.
        renewer.after_fork()
    assert renewer._lock is not parent["_lock"]
    own = Lock()
    renewer.watch(own)
    eventually(lambda: own.renewed)
    assert renewer._thread is not thread
    stop(renewer)
    # The parent's renewer ends, too.
    vars(renewer).update(parent)
    assert renewer._thread is thread


class _CountedEvent(Event):
    """Counts how often a thread is about to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.cleared = 0

    def clear(self) -> None:
        self.cleared += 1
        super().clear()


def test_the_thread_sleeps_until_a_lock_is_due(renewer: Renewer) -> None:
    renewer._changed = changed = _CountedEvent()
    lock = Lock(0.3)
    renewer.watch(lock)
    eventually(lambda: lock.renewed)
    assert changed.cleared < 20


def test_entries_without_a_holder_are_removed_only_when_there_are_many(renewer: Renewer) -> None:
    kept = Lock(60)
    renewer.watch(kept)
    for _ in range(70):
        renewer.watch(Lock(60))
    assert len(renewer._due) < 10
    # The next removal is not due at once.
    assert renewer._clean_at == 2 + 64
