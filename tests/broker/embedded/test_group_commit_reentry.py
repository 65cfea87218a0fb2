"""The marks of the threads that are inside `GroupCommit`, and stacks that are searched only then; see `reentry`."""

from __future__ import annotations

import threading

import pytest

from azsession import ProviderError
from azsession.broker.embedded import group_commit
from azsession.broker.embedded.group_commit import GroupCommit
from azsession.broker.embedded.jobs import Job, Transaction

from .commit_helpers import Connection, insert, stored


def test_a_job_without_a_mark_searches_no_stack(group: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []
    monkeypatch.setattr(group_commit, "is_method_in", lambda *arguments: searched.append(arguments))
    group.run(lambda tx: None, durable=True)
    job: Job[None] = Job(lambda tx: None, True, 0.0)
    group.submit(job, blocking=False)
    group.lead()
    group.requeue(job)
    assert (searched, group._reentry._threads) == ([], set())


def test_a_mark_that_an_interrupt_left_refuses_nothing_and_is_removed(group: GroupCommit, connection: Connection) -> None:
    group._reentry.mark()
    group.run(insert(connection, 1), durable=True)
    assert stored(connection) == [1]
    assert group._reentry._threads == set()


def test_a_handler_that_queues_a_job_leaves_the_mark_of_the_interrupted_call(
    group: GroupCommit, connection: Connection
) -> None:
    """The second handler of an interrupted call is refused, like the first."""

    def job(tx: Transaction) -> None:
        # A signal handler can run here, in the thread that leads.
        group.submit(Job(insert(connection, 2), True, 0.0), blocking=False)
        for _ in range(2):
            with pytest.raises(ProviderError, match="a signal handler cannot wait"):
                group.run(insert(connection, 3), durable=True)

    group.run(job, durable=True)
    group.lead()
    assert stored(connection) == [2]


@pytest.mark.parametrize("method", ["submit", "requeue", "fail_queued"])
def test_each_method_that_takes_the_lock_marks_its_thread(
    group: GroupCommit, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    marked: list[bool] = []

    class Lock:
        """The lock of the queue, which notes whether the thread that takes it has a mark."""

        def __init__(self) -> None:
            self._lock = threading.RLock()

        def __enter__(self) -> None:
            marked.append(not group._reentry.mark())
            self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr(group, "_lock", Lock())
    job: Job[None] = Job(lambda tx: None, True, 0.0)
    if method == "fail_queued":
        group.fail_queued(ProviderError("closed"))
    elif method == "requeue":
        group.requeue(job)
    else:
        group.submit(job, blocking=False)
    assert marked
    assert all(marked)
