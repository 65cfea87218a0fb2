"""Starting threads while signal handlers raise exceptions."""

from __future__ import annotations

import threading

import pytest

from azsession import threads
from azsession.threads import Workers

from .client.renewals import refuse
from .conftest import eventually
from .interrupts.conftest import alarm


def test_a_started_thread_has_started() -> None:
    thread = threading.Thread(target=lambda: None)
    threads.start(thread)
    assert thread.ident is not None
    thread.join(30)


def test_the_error_of_a_start_reaches_the_caller() -> None:
    thread = threading.Thread(target=lambda: None)
    threads.start(thread)
    with pytest.raises(RuntimeError, match="once"):
        threads.start(thread)
    thread.join(30)


def test_an_interrupted_start_raises_the_exception_and_the_thread_runs() -> None:
    class AlarmError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AlarmError

    interrupted, before = 0, threading.active_count()
    for number in range(400):
        done = threading.Event()
        thread = threading.Thread(target=done.set)
        try:
            with alarm(0.00002 + number * 0.0000005, handler):
                threads.start(thread)
        except AlarmError:
            interrupted += 1
        else:
            assert done.wait(30)
        if thread.ident is not None:
            assert done.wait(30)
            thread.join(30)
    assert interrupted > 0
    eventually(lambda: threading.active_count() < before + 20)


NAME = "azsession-test-worker"


def running() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


class Work:
    """The work of workers. It records the items, and waits for `gate`."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = threading.Event()

    def __call__(self, item: int) -> None:
        self.begun.append(item)
        assert self.gate.wait(30)


def test_workers_start_when_they_are_needed_up_to_their_limit() -> None:
    work = Work()
    workers = Workers(NAME, 2, work)
    assert running() == 0
    for item in range(3):
        assert workers.put(item)
    eventually(lambda: work.begun == [0, 1] or work.begun == [1, 0])
    assert running() == 2
    work.gate.set()
    eventually(lambda: len(work.begun) == 3)
    workers.dismiss()
    eventually(lambda: running() == 0)


def test_a_free_worker_takes_the_next_item() -> None:
    work = Work()
    work.gate.set()
    workers = Workers(NAME, 5, work)
    for item in range(20):
        workers.put(item)
        eventually(lambda item=item: len(work.begun) == item + 1 and workers._outstanding == 0)  # type: ignore[misc]
    assert running() == 1
    workers.dismiss()


def test_an_idle_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WORKER_IDLE", 0.02)
    work = Work()
    work.gate.set()
    workers = Workers(NAME, 5, work)
    for item in range(2):
        workers.put(item)
        eventually(lambda item=item: len(work.begun) == item + 1)  # type: ignore[misc]
        eventually(lambda: running() == 0)
    assert not workers._threads


def test_dismissed_workers_finish_their_items_and_refuse_others() -> None:
    work = Work()
    workers = Workers(NAME, 1, work)
    for item in range(3):
        workers.put(item)
    dismissed = workers.dismiss()
    assert not workers.put(3)
    work.gate.set()
    for thread in dismissed:
        thread.join(30)
        assert not thread.is_alive()
    assert work.begun == [0, 1, 2]


def test_an_item_is_refused_only_if_there_is_no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    workers = Workers(NAME, 5, work)
    allow = refuse(monkeypatch, NAME)
    assert not workers.put(0)
    allow()
    assert workers.put(1)
    refuse(monkeypatch, NAME)
    assert workers.put(2)
    work.gate.set()
    eventually(lambda: work.begun == [1, 2])
    workers.dismiss()


def test_workers_of_a_forked_child_start_without_threads_and_items() -> None:
    work = Work()
    workers = Workers(NAME, 1, work)
    workers.put(0)
    parent = vars(workers).copy()
    with workers._lock:  # As a thread that does not exist in the child would hold it.
        workers.after_fork()
    assert workers._lock is not parent["_lock"]
    assert (workers._outstanding, workers._threads, workers._items.empty()) == (0, set(), True)
    vars(workers).update(parent)
    work.gate.set()
    workers.dismiss()


def test_an_interrupted_put_leaves_the_workers_usable() -> None:
    class AlarmError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AlarmError

    work, interrupted = Work(), 0
    work.gate.set()
    for number in range(200):
        workers = Workers(NAME, 3, work)
        try:
            with alarm(0.00002 + number * 0.000001, handler):
                workers.put(0)
        except AlarmError:
            interrupted += 1
        before = len(work.begun)
        assert workers.put(1)
        eventually(lambda before=before: 1 in work.begun[before:])  # type: ignore[misc]
        workers.dismiss()
        work.begun.clear()
    assert interrupted > 0
    eventually(lambda: running() == 0)
