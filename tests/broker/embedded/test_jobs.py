"""Jobs of `GroupCommit` that have several steps, wait, are withdrawn, or come at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from azsession import ProviderError
from azsession.broker.clock import Clock
from azsession.broker.embedded.broker_thread import BrokerThread
from azsession.broker.embedded.group_commit import GroupCommit
from azsession.broker.embedded.jobs import Job, Transaction, Unfinished

from .commit_helpers import Connection, Gate, insert, stored
from .helpers import Background

# Jobs with several steps, and jobs that wait


def step_job(work: Callable[[Transaction], Any], *, may_wait: bool = False) -> Job[Any]:
    return Job(work, False, 0.0, may_wait=may_wait)


@pytest.fixture
def driven(connection: Connection) -> Iterator[tuple[GroupCommit, BrokerThread]]:
    """Return a `GroupCommit` with a thread that runs jobs without waiting callers."""
    thread = BrokerThread(lambda: group.lead(), lambda: None, Clock())
    group = GroupCommit(connection, Clock(), thread.wake)
    thread.start()
    yield group, thread
    thread.stop()


def test_a_job_that_continues_and_is_requeued_at_the_same_time_runs_once_more(
    driven: tuple[GroupCommit, BrokerThread],
) -> None:
    group, _ = driven
    runs: list[int] = []

    def work(tx: Transaction) -> object:
        runs.append(1)
        tx.after_commit(lambda: group.requeue(job))
        return Unfinished.CONTINUE if len(runs) == 1 else len(runs)

    job = step_job(work, may_wait=True)
    assert group.submit(job, blocking=False).result(10) == 2
    group.run(lambda tx: None, durable=False)
    assert len(runs) == 2


def test_a_job_that_is_requeued_in_the_batch_that_finishes_it_does_not_run_again(
    driven: tuple[GroupCommit, BrokerThread],
) -> None:
    group, _ = driven
    runs: list[int] = []
    gate = Gate(group)

    def work(tx: Transaction) -> int:
        runs.append(1)
        return len(runs)

    job = step_job(work, may_wait=True)
    requeueing = group.submit(step_job(lambda tx: group.requeue(job)), blocking=False)
    future = group.submit(job, blocking=False)
    gate.open()
    assert future.result(10) == 1
    requeueing.result(10)
    group.run(lambda tx: None, durable=False)
    assert len(runs) == 1


def test_a_job_whose_transaction_fails_after_its_claim_can_be_withdrawn_again(
    driven: tuple[GroupCommit, BrokerThread],
) -> None:
    group, _ = driven
    gate = Gate(group)
    runs: list[int] = []

    def work(tx: Transaction) -> object:
        runs.append(1)
        if len(runs) == 1:
            assert job.claim(tx)
            assert not job.future.cancel()
            return "given"
        return Unfinished.WAITING

    def fail(tx: Transaction) -> None:
        raise ZeroDivisionError

    job = step_job(work, may_wait=True)
    future = group.submit(job, blocking=False)
    failing = group.submit(step_job(fail), blocking=False)
    gate.open()
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    with pytest.raises(CancelledError):
        future.result(10)


def test_a_job_that_is_withdrawn_while_it_is_queued_does_not_run(
    driven: tuple[GroupCommit, BrokerThread], connection: Connection
) -> None:
    group, _ = driven
    gate = Gate(group)
    future = group.submit(step_job(insert(connection, 1)), blocking=False)
    assert future.cancel()
    gate.open()
    group.run(lambda tx: None, durable=False)
    assert stored(connection) == []


def test_a_job_that_has_run_its_first_step_cannot_be_withdrawn(driven: tuple[GroupCommit, BrokerThread]) -> None:
    group, _ = driven
    cancelled: list[bool] = []

    def work(tx: Transaction) -> object:
        if cancelled:
            return "done"
        tx.after_commit(lambda: cancelled.append(job.future.cancel()))
        return Unfinished.CONTINUE

    job = step_job(work)
    assert group.submit(job, blocking=False).result(10) == "done"
    assert cancelled == [False]


# The end


@pytest.mark.parametrize("blocking", [False, True])
def test_a_job_that_comes_after_the_end_of_the_thread_fails(driven: tuple[GroupCommit, BrokerThread], blocking: bool) -> None:
    group, thread = driven
    group.close()
    thread.stop()
    group.fail_queued(ProviderError("the broker is closed"))
    late = step_job(lambda tx: None)
    call = Background(lambda: group.submit(late, blocking=blocking).result(10))
    with pytest.raises(ProviderError, match="the broker is closed"):
        call.result()


def test_a_signal_handler_that_interrupts_a_job_gets_an_error_instead_of_a_deadlock(group: GroupCommit) -> None:
    errors: list[str] = []

    def interrupted(tx: Transaction) -> str:
        with pytest.raises(ProviderError) as caught:
            group.run(lambda tx: None, durable=False)
        errors.append(str(caught.value))
        return "done"

    assert Background(lambda: group.run(interrupted, durable=False)).result() == "done"
    assert "signal handler" in errors[0]
