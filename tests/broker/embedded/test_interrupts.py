"""Exceptions of signal handlers inside operations of the embedded broker: nothing is lost, and no other thread hangs.

A profile function raises the exception: Python runs signal handlers at the beginnings and ends of calls.
"""

from __future__ import annotations

import itertools
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from azsession import ProviderError, QueueError, ReceivedMessage
from azsession.broker.calls import Settlement
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded import broker as broker_module
from azsession.broker.embedded.group_commit import GroupCommit
from azsession.broker.embedded.jobs import Job, Transaction
from azsession.queues import QueueSettings
from tests.conftest import eventually

from .helpers import (
    ABANDON,
    COMPLETE,
    Background,
    accept,
    accept_messages,
    bodies,
    messages,
    peek,
    receive,
    receivers,
    send,
    settle,
    settle_and_receive,
    undo_accept,
    waiting_accept,
    waiting_receive,
)
from .model import check_counters

#: Python ignores exceptions that are raised while it closes a generator.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FOLDER = str(Path(broker_module.__file__).parent)


class TimeLimitError(Exception):
    """Raised by a signal handler, for example by Celery's soft time limit."""


def interrupted(call: Callable[[], object], place: int, kind: type[BaseException]) -> bool:
    """Make a call, and raise an exception at one of its places: the beginnings and ends of calls in the embedded broker.

    Returns:
        Whether the call has that many places.
    """
    places = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal places
        if event == "c_call" or not any(
            one is not None and one.f_code.co_filename.startswith(FOLDER) for one in (frame, frame.f_back)
        ):
            return
        places += 1
        if places == place:
            raise kind

    sys.setprofile(profile)
    try:
        call()
    except (kind, QueueError):
        pass
    finally:
        sys.setprofile(None)
    return places >= place


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    made.execute("CREATE TABLE t (x UNIQUE)")
    yield made
    made.close()


class Turn:
    """Jobs that share a transaction: one of the main thread, which leads, and two of other threads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.group = GroupCommit(connection, Clock(), lambda: None)
        self.done: list[str] = []
        self._held, self._free = threading.Event(), threading.Event()
        self._holder = Background(lambda: self.group.run(self._hold, durable=False))
        assert self._held.wait(10)
        self._others: dict[str, Background[str]] = {}
        self._starter = Background(self._start_others)

    def _hold(self, tx: Transaction) -> None:
        self._held.set()
        assert self._free.wait(10)

    def _start_others(self) -> None:
        for number in (1, 2):
            eventually(lambda number=number: len(self.group._queue) == number or self._free.is_set())
            if not self._free.is_set():
                self._others[f"other {number}"] = Background(lambda number=number: self.insert(f"other {number}"))
        eventually(lambda: len(self.group._queue) == 3 or self._free.is_set())
        self._free.set()

    def insert(self, value: str) -> str:
        def job(tx: Transaction) -> str:
            tx.after_commit(lambda: self.done.append(value))
            self.connection.execute("INSERT INTO t VALUES (?)", (value,))
            return value

        # Durable: it does not join the transaction of the holder, which is not.
        return self.group.run(job, durable=True)

    @staticmethod
    def _succeeds(value: str, call: Background[str]) -> bool:
        with suppress(QueueError):
            return call.result() == value
        return False

    def check(self) -> None:
        """Check that all other threads got a true result, and that the lead is free."""
        self._free.set()
        self._starter.result()
        self._holder.result()
        succeeded = [value for value, call in self._others.items() if self._succeeds(value, call)]
        stored = [row[0] for row in self.connection.execute("SELECT x FROM t")]
        assert set(self.done) == set(stored)
        assert [value for value in stored if value != "own"] == succeeded
        assert self.group._leader is None
        assert self.insert("next") == "next"


def test_an_interrupt_of_a_caller_that_does_not_block_leaves_the_lead_free(
    connection: sqlite3.Connection,
) -> None:
    for place in itertools.count(1):
        group = GroupCommit(connection, Clock(), lambda: None, in_memory=True)
        job: Job[int] = Job(lambda tx: 1, False, 0.0)
        has_place = interrupted(lambda group=group, job=job: group.submit(job, blocking=False), place, KeyboardInterrupt)
        assert group._leader is None
        assert group.run(lambda tx: 2, durable=False) == 2
        assert not connection.in_transaction
        if not has_place:
            break
    assert job.future.result(0) == 1
    assert place > 20


@pytest.mark.parametrize("kind", [KeyboardInterrupt, TimeLimitError])
def test_an_interrupt_at_any_place_leaves_the_jobs_of_other_threads_going(
    connection: sqlite3.Connection, kind: type[BaseException]
) -> None:
    for place in itertools.count(1):
        connection.execute("DELETE FROM t")
        turn = Turn(connection)
        has_place = interrupted(lambda turn=turn: turn.insert("own"), place, kind)
        turn.check()
        if not has_place:
            break
    assert place > 100


def test_an_interrupt_at_any_place_tells_the_truth_about_a_job_that_arrived_during_the_transaction(
    connection: sqlite3.Connection,
) -> None:
    def insert(value: str) -> str:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    for place in itertools.count(1):
        connection.execute("DELETE FROM t")
        group = GroupCommit(connection, Clock(), lambda: None)
        late: Job[str] = Job(lambda tx: insert("late"), True, 0.0)

        def own(tx: Transaction, group: GroupCommit = group, late: Job[str] = late) -> None:
            insert("own")
            group.submit(late, blocking=False)

        has_place = interrupted(lambda group=group, own=own: group.run(own, durable=True), place, KeyboardInterrupt)
        group.lead()
        assert group._leader is None
        assert not connection.in_transaction
        has_succeeded = late.future.done() and not late.future.cancelled() and late.future.exception() is None
        assert has_succeeded == bool(connection.execute("SELECT 1 FROM t WHERE x = 'late'").fetchall())
        assert group.run(lambda tx: 2, durable=False) == 2
        if not has_place:
            break
    assert has_succeeded
    assert place > 50


OPERATIONS: dict[str, Callable[[EmbeddedBroker, ReceivedMessage], object]] = {
    "send": lambda broker, message: broker.send("q", messages("c"), "request").result(),
    "send to another session": lambda broker, message: send(broker, "c", session="other"),
    "receive": lambda broker, message: receive(broker, "A", 2, request_id="request"),
    "receive and wait": lambda broker, message: receive(broker, "B", session="other", timeout=0.01),
    "accept": lambda broker, message: accept(broker, "B", request_id="request"),
    "accept and wait": lambda broker, message: accept(broker, "B", timeout=0.01),
    "accept with messages": lambda broker, message: accept_messages(broker, "B", request_id="request"),
    "complete": lambda broker, message: settle(broker, COMPLETE, message),
    "abandon": lambda broker, message: settle(broker, ABANDON, message),
    "settle and receive": lambda broker, message: settle_and_receive(broker, [message], request_id="request"),
    "settle and release": lambda broker, message: broker.release(
        "q", "s", "A", [Settlement(message.receipt.handle, COMPLETE)]
    ).result(),
    "undo an accept with messages": lambda broker, message: undo_accept(broker, messages=[message]),
    "release": lambda broker, message: broker.release("q", "s", "A").result(),
    "give back": lambda broker, message: broker.give_back("q", "s", "A", [message.receipt.handle]).result(),
    "dead-letter the session": lambda broker, message: broker.dead_letter_session("q", "s", "A", "why", None).result(),
    "delete the queue": lambda broker, message: broker.delete_queue("q").result(),
    "create a queue": lambda broker, message: broker.create_queue("new", QueueSettings()).result(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_is_interrupted_at_any_place_has_happened_or_not(operation: str) -> None:
    for place in itertools.count(1):
        # The broker has real time, so that its thread ends the waits.
        with EmbeddedBroker(queues=["q"]) as broker:
            send(broker, "a", "b")
            (message,) = receive(broker, "A")
            if operation in ("accept", "accept with messages"):
                send(broker, "free", session="free")
            has_place = interrupted(partial(OPERATIONS[operation], broker, message), place, KeyboardInterrupt)
            check_consistency(broker)
            Background(lambda: broker.check_ready().result()).result()
        if not has_place:
            break
    assert place > 30


def test_an_interrupted_request_has_settled_and_received_or_neither() -> None:
    outcomes = set()
    for place in itertools.count(1):
        with EmbeddedBroker(queues=["q"]) as broker:
            send(broker, "a", "b")
            (message,) = receive(broker, "A")
            call = partial(settle_and_receive, broker, [message], request_id="request")
            has_place = interrupted(call, place, KeyboardInterrupt)
            (lock,) = broker._core.locks
            unsettled = sorted(one.key for one in lock.tokens.values())
            outcomes.add((peek(broker) == ["b"], "request" in lock.answers, len(unsettled)))
            # The repeated request has the same result in both cases.
            again = settle_and_receive(broker, [message], request_id="request")
            assert (again.codes, again.delivery and bodies(again.delivery.messages)) == ([None], ["b"])
        if not has_place:
            break
    assert outcomes == {(False, False, 1), (True, True, 1)}


def check_consistency(broker: EmbeddedBroker) -> None:
    """Check that the database, the locks and the waiting operations agree, and that no message is lost."""
    core = broker._core
    eventually(lambda: receivers(broker) == 0)
    eventually(lambda: not core.due._dead_letterings)
    eventually(lambda: not any(list(queue.acceptors) for queue in core.queues.values()))

    def job(tx: Transaction) -> None:
        run = core.connection.execute
        queues = dict(run("SELECT name, id FROM queues").fetchall())
        assert queues == {name: queue.id for name, queue in core.queues.items()}
        if "q" not in queues:
            return
        check_counters(run, {lock.key[1] for lock in core.locks})
        unsettled = [message.key for lock in core.locks for message in lock.tokens.values()]
        returned = [key for lock in core.locks for key in lock.returned]
        assert len(set(unsettled + returned)) == len(unsettled + returned)
        for lock in core.locks:
            first = run("SELECT min(key) FROM messages WHERE status = 0").fetchone()[0]
            if lock.key[1] == "s" and first is not None and first <= lock.cursor:
                assert first in unsettled + returned, "a message is behind the cursor of its lock"

    core.perform(job)


def test_a_signal_handler_does_not_wait_for_the_broker_while_its_thread_passes_the_lead_on(
    connection: sqlite3.Connection,
) -> None:
    """The handler interrupts the thread after its own job has run, when the broker's thread has the lead already."""
    answers: list[str] = []

    def handle_signal() -> None:
        if not answers:
            answers.append("")
            assert group.is_inside()
            with pytest.raises(ProviderError, match="a signal handler cannot wait"):
                group.run(lambda tx: None, durable=False)
            answers[0] = "refused"

    group = GroupCommit(connection, Clock(), handle_signal)
    job: Job[None] = Job(lambda tx: None, True, 0.0)

    def queue_another(tx: Transaction) -> None:
        group.requeue(job)

    Background(lambda: group.run(queue_another, durable=False)).result()
    assert answers == ["refused"]
    assert not group.is_inside()
    group.lead()
    assert job.future.result(0) is None


def test_closing_that_was_interrupted_at_any_place_ends_waiting_calls_when_it_is_repeated() -> None:
    for place in itertools.count(1, 2):
        broker = EmbeddedBroker(auto_create=True)
        waiting = [waiting_receive(broker, "B", session="other"), waiting_accept(broker, "C")]
        was_interrupted = interrupted(broker.close, place, TimeLimitError)
        broker.close()
        for call in waiting:
            with suppress(QueueError):
                call.result(20)
        if not was_interrupted:
            return
