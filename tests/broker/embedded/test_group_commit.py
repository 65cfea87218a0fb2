"""`GroupCommit`: jobs that share a transaction, fail or are interrupted, and threads that pass the lead on."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest

from azsession import ProviderError, QueueError, SessionLockedError
from azsession.broker.clock import Clock
from azsession.broker.embedded import group_commit
from azsession.broker.embedded.group_commit import MAX_JOBS, GroupCommit
from azsession.broker.embedded.jobs import Job, Transaction, Unfinished
from tests.conftest import eventually

from .commit_helpers import Connection, Gate, insert, stored
from .helpers import Background


def test_a_single_job_runs_in_the_thread_of_its_caller(group: GroupCommit) -> None:
    assert group.run(lambda tx: threading.current_thread(), durable=True) is threading.current_thread()


def _thread_of(group: GroupCommit) -> Job[threading.Thread]:
    job: Job[threading.Thread] = Job(lambda tx: threading.current_thread(), True, 0.0)
    group.submit(job, blocking=False)
    return job


def test_a_caller_that_does_not_block_runs_a_job_in_memory_itself(connection: Connection) -> None:
    group = GroupCommit(connection, Clock(), lambda: None, in_memory=True)
    assert _thread_of(group).future.result(0) is threading.current_thread()


def test_a_caller_that_does_not_block_runs_no_job_on_a_file(group: GroupCommit) -> None:
    job = _thread_of(group)
    assert not job.future.done()
    group.lead()
    assert job.future.result(0) is threading.current_thread()


def test_a_caller_that_does_not_block_does_not_wait_for_another_job_in_memory(connection: Connection) -> None:
    group = GroupCommit(connection, Clock(), lambda: None, in_memory=True)
    gate = Gate(group)
    job = _thread_of(group)
    assert not job.future.done()
    # The queued job does not count as one that this thread waits for.
    assert not group.is_inside()
    gate.open()
    eventually(lambda: group._leader is group)
    group.lead()
    assert job.future.result(0) is threading.current_thread()


@pytest.mark.usefixtures("unhurried")
def test_jobs_that_are_queued_together_share_a_commit(group: GroupCommit, connection: Connection, commits: list[str]) -> None:
    gate = Gate(group)
    jobs = gate.queue(*(insert(connection, value) for value in range(20)))
    gate.open()
    assert [job.result() for job in jobs] == list(range(20))
    assert stored(connection) == list(range(20))
    assert len(commits) == 2


@pytest.mark.usefixtures("unhurried")
def test_the_jobs_of_one_transaction_are_bounded(group: GroupCommit, connection: Connection, commits: list[str]) -> None:
    gate = Gate(group)
    jobs = gate.queue(*(insert(connection, value) for value in range(MAX_JOBS + 10)))
    gate.open()
    for job in jobs:
        job.result()
    assert len(commits) == 3


def test_a_job_that_arrives_while_a_transaction_runs_shares_its_commit(
    group: GroupCommit, connection: Connection, commits: list[str]
) -> None:
    late: Job[int] = Job(insert(connection, 2), True, 0.0)

    def first(tx: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        group.submit(late, blocking=False)

    group.run(first, durable=True)
    assert late.future.result(0) == 2
    assert len(commits) == 1
    assert stored(connection) == [1, 2]


def test_a_durable_job_does_not_join_a_transaction_that_is_not(
    group: GroupCommit, connection: Connection, commits: list[str]
) -> None:
    late: Job[int] = Job(insert(connection, 2), True, 0.0)
    group.run(lambda tx: group.submit(late, blocking=False), durable=False)
    assert not late.future.done()
    group.lead()
    assert late.future.result(0) == 2
    assert len(commits) == 2


def test_a_job_that_is_queued_again_while_its_transaction_runs_runs_once_in_it(
    group: GroupCommit, commits: list[str]
) -> None:
    runs: list[int] = []

    def work(tx: Transaction) -> Unfinished:
        runs.append(len(commits))
        return Unfinished.WAITING

    waiting: Job[Unfinished] = Job(work, True, 0.0, may_wait=True)
    group.submit(waiting, blocking=False)
    group.submit(Job(lambda tx: group.requeue(waiting), True, 0.0), blocking=False)
    group.lead()
    group.lead()
    assert runs == [0, 1]


def test_a_transaction_takes_no_further_job_after_its_time(
    group: GroupCommit, connection: Connection, commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MAX_SECONDS", 0.0)
    gate = Gate(group)
    jobs = gate.queue(*(insert(connection, value) for value in range(5)))
    gate.open()
    assert [job.result() for job in jobs] == list(range(5))
    assert len(commits) == 6


def test_actions_after_the_commit_run_before_the_future_is_resolved(
    group: GroupCommit, connection: Connection, commits: list[str]
) -> None:
    seen: list[int] = []
    group.run(lambda tx: tx.after_commit(lambda: seen.append(len(commits))), durable=True)
    assert seen == [1]


def test_a_failed_job_is_undone_in_reverse_order(group: GroupCommit, connection: Connection) -> None:
    undone: list[str] = []

    def job(tx: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        tx.on_rollback(lambda: undone.append("first"))
        tx.on_rollback(lambda: undone.append("second"))
        tx.after_commit(lambda: undone.append("never"))
        connection.execute("INSERT INTO t VALUES (1)")

    with pytest.raises(ProviderError, match="nothing was changed") as caught:
        group.run(job, durable=True)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert undone == ["second", "first"]
    assert stored(connection) == []
    assert not connection.in_transaction


def test_a_queue_error_keeps_the_changes_of_its_job(group: GroupCommit, connection: Connection) -> None:
    def job(tx: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        tx.on_rollback(lambda: pytest.fail("was rolled back"))
        raise SessionLockedError("no")

    with pytest.raises(SessionLockedError):
        group.run(job, durable=True)
    assert stored(connection) == [1]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), ZeroDivisionError("a bug")])
def test_only_the_failing_job_of_a_shared_transaction_fails(
    group: GroupCommit, connection: Connection, error: Exception
) -> None:
    undone: list[str] = []

    def failing(tx: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES (99)")
        raise error

    def refused(tx: Transaction) -> None:
        raise SessionLockedError("held")

    def successful(tx: Transaction) -> str:
        tx.on_rollback(lambda: undone.append("x"))
        connection.execute("INSERT INTO t VALUES (3)")
        return "fine"

    gate = Gate(group)
    jobs = gate.queue(insert(connection, 1), refused, successful, failing, insert(connection, 2))
    gate.open()
    assert jobs[0].result() == 1
    with pytest.raises(SessionLockedError, match="held"):
        jobs[1].result()
    assert jobs[2].result() == "fine"
    with pytest.raises((ProviderError, ZeroDivisionError)):
        jobs[3].result()
    assert jobs[4].result() == 2
    assert stored(connection) == [1, 2, 3]
    assert undone == ["x"], "each failed attempt is undone once"


def test_an_action_before_the_commit_runs_once_for_all_jobs_with_its_subject(
    group: GroupCommit, connection: Connection
) -> None:
    done: list[list[int]] = []

    def job(tx: Transaction) -> None:
        tx.before_commit(group, lambda: done.append(stored(connection)))

    gate = Gate(group)
    jobs = gate.queue(job, insert(connection, 1), job)
    gate.open()
    for each in jobs:
        each.result()
    assert done == [[1]], "it ran once, and after the other job of the transaction"
    group.run(job, durable=True)
    assert done == [[1], [1]]


def test_an_action_before_the_commit_that_fails_fails_only_the_jobs_that_asked_for_it(
    group: GroupCommit, connection: Connection
) -> None:
    def failing(tx: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES (99)")
        tx.before_commit(group, lambda: connection.execute("INSERT INTO missing VALUES (1)"))

    gate = Gate(group)
    jobs = gate.queue(insert(connection, 1), failing, insert(connection, 2))
    gate.open()
    assert (jobs[0].result(), jobs[2].result()) == (1, 2)
    with pytest.raises(ProviderError, match="missing"):
        jobs[1].result()
    assert stored(connection) == [1, 2]


def test_first_touch_is_true_once_for_each_object_and_transaction() -> None:
    tx, thing = Transaction(), object()
    assert [tx.first_touch(thing), tx.first_touch(thing), tx.first_touch(object())] == [True, False, True]
    assert Transaction().first_touch(thing)


def test_32_threads_pass_the_lead_on_without_losing_a_job(group: GroupCommit, connection: Connection) -> None:
    start = threading.Barrier(32)
    running: list[int] = []

    def work(thread: int) -> list[int]:
        start.wait()
        done = []
        for number in range(50):
            value = thread * 1000 + number

            def job(tx: Transaction, value: int = value) -> int:
                running.append(value)
                assert len(running) == 1, "two jobs at once"
                connection.execute("INSERT INTO t VALUES (?)", (value,))
                running.clear()
                return value

            done.append(group.run(job, durable=number % 2 == 0))
        return done

    threads = [Background(lambda thread=thread: work(thread)) for thread in range(32)]
    answers = [value for thread in threads for value in thread.result(60)]
    assert sorted(answers) == stored(connection)
    assert len(answers) == 1600
    assert group._leader is None


def test_an_interrupt_in_the_leading_thread_is_raised_only_there(group: GroupCommit, connection: Connection) -> None:
    undone: list[str] = []

    def interrupted(tx: Transaction) -> None:
        raise KeyboardInterrupt

    def other(tx: Transaction) -> None:
        tx.on_rollback(lambda: undone.append("other"))
        connection.execute("INSERT INTO t VALUES (2)")

    gate = Gate(group)
    first, second, third = gate.queue(insert(connection, 1), other, interrupted)
    gate.open()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    for job in (second, third):
        with pytest.raises(QueueError, match="interrupted") as caught:
            job.result()
        assert caught.value.is_transient
    assert undone == ["other"]
    assert stored(connection) == []
    assert group.run(insert(connection, 4), durable=True) == 4


def test_an_interrupt_during_the_commit_does_not_undo_it(group: GroupCommit, connection: Connection) -> None:
    seen: list[str] = []

    def job(tx: Transaction) -> str:
        connection.execute("INSERT INTO t VALUES (1)")
        tx.on_rollback(lambda: seen.append("rolled back"))
        tx.after_commit(lambda: seen.append("followed"))
        return "done"

    gate = Gate(group)
    first, second = gate.queue(job, insert(connection, 2))
    # Set by the next job: the commit of the gate must not raise the interrupt.
    group._queue[0].work = _arm(connection, group._queue[0].work)
    gate.open()
    with pytest.raises(KeyboardInterrupt):
        first.result()
    assert second.result() == 2
    assert stored(connection) == [1, 2]
    assert seen == ["followed"]


def _arm(connection: Connection, work: Callable[[Transaction], Any]) -> Callable[[Transaction], Any]:
    def armed(tx: Transaction) -> Any:
        connection.after_commit = KeyboardInterrupt()
        return work(tx)

    return armed


@pytest.mark.parametrize("place", [0, 1])
def test_an_interrupt_in_a_thread_that_waits_does_not_stop_the_others(
    group: GroupCommit, connection: Connection, place: int
) -> None:
    gate = Gate(group)
    others = list(gate.queue(insert(connection, 1)) if place else [])

    def interrupt() -> None:
        eventually(lambda: len(group._queue) == place + 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter = Background(interrupt)
        with pytest.raises(KeyboardInterrupt):
            group.run(insert(connection, 99), durable=True)
        interrupter.result()
    finally:
        signal.signal(signal.SIGINT, before)
    others = gate.queue(insert(connection, 2))
    gate.open()
    for job in others:
        job.result()
    assert group.run(insert(connection, 3), durable=True) == 3
    assert 99 not in stored(connection)


def test_an_interrupted_leader_passes_the_lead_on(group: GroupCommit, connection: Connection) -> None:
    gate = Gate(group)
    # The interrupt comes after the thread got the lead, and before it runs a job.
    interrupted = Job(insert(connection, 1), True, 0.0)
    interrupted.owner, interrupted.is_queued = threading.Lock(), True
    interrupted.owner.acquire()
    group._queue.append(interrupted)
    jobs = gate.queue(insert(connection, 2), insert(connection, 3))
    gate.open()
    assert group._leader is interrupted
    group._leave(interrupted)
    assert [job.result() for job in jobs] == [2, 3]
    assert stored(connection) == [2, 3]


def test_jobs_fail_after_close(group: GroupCommit) -> None:
    group.close()
    with pytest.raises(ProviderError, match="the broker is closed"):
        group.run(lambda tx: None, durable=True)
