"""Helpers of the embedded broker's tests: a clock that tests set, short ways to call the broker, and waiting operations."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar

from azsession import Message, ReceivedMessage
from azsession.broker.calls import (
    AcceptRequest,
    CallContext,
    Delivery,
    Disposition,
    ReceiveRequest,
    Settled,
    Settlement,
    wait_for,
)
from azsession.broker.clock import Clock
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.jobs import Transaction
from azsession.broker.embedded.store import STEP_ROWS
from azsession.queues import QueueSettings
from tests.conftest import eventually

T = TypeVar("T")

COMPLETE, ABANDON, DEFER, DEAD_LETTER, RELEASE, TAKE = (
    Disposition.COMPLETE,
    Disposition.ABANDON,
    Disposition.DEFER,
    Disposition.DEAD_LETTER,
    Disposition.RELEASE,
    Disposition.TAKE,
)

#: The context of a caller that does not block, such as the gateway.
NO_WAIT = CallContext(blocking=False)

#: More messages than one step handles.
MANY = 5 * STEP_ROWS
#: The largest number of rows that one transaction changes: one step of due work and one step of an operation. A step changes
#: each of its messages, their delivery counts, and the counters of their session and queue.
BOUND = 2 * 5 * STEP_ROWS + 100


class HandClock(Clock):
    """A clock that stands still until a test changes it."""

    def __init__(self, monotonic: float = 1000.0, now: float = 1_700_000_000.0) -> None:
        self._monotonic = monotonic
        self._offset = now - monotonic
        self._correction = 0.0

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> float:
        return self.steady() + self._correction

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._monotonic += seconds

    def set_wall_clock(self, seconds: float) -> None:
        """Set the machine's wall clock forward, or back if `seconds` is negative."""
        self._correction += seconds


# Calls


def broker_with(clock: Clock, **fields: Any) -> EmbeddedBroker:
    """Return a broker in memory whose queue ``q`` has these settings."""
    broker = EmbeddedBroker(clock=clock)
    broker.create_queue("q", QueueSettings(lock_duration=30, **fields)).result()
    return broker


def messages(*bodies: str, session: str = "s", **fields: Any) -> list[Message]:
    return [Message(body, session_id=session, **fields) for body in bodies]


def send(broker: EmbeddedBroker, *bodies: str, session: str = "s", queue: str = "q", **fields: Any) -> None:
    broker.send(queue, messages(*bodies, session=session, **fields)).result()


def send_many(broker: EmbeddedBroker, count: int, **fields: Any) -> None:
    """Send messages whose bodies are ``0``, ``1`` and so on, in batches."""
    for start in range(0, count, 1000):
        send(broker, *(str(number) for number in range(start, min(start + 1000, count))), **fields)


def receive(
    broker: EmbeddedBroker,
    lock: str = "A",
    count: int = 1,
    *,
    session: str = "s",
    queue: str = "q",
    timeout: float = 0,
    request_id: str = "",
    taken: int | None = None,
) -> Sequence[ReceivedMessage]:
    request = ReceiveRequest(queue, session, lock, max_count=count, timeout=timeout, request_id=request_id, taken=taken)
    return wait_for(broker.receive(request)).messages


def receive_deferred(broker: EmbeddedBroker, *messages: ReceivedMessage, lock: str = "A") -> Sequence[ReceivedMessage]:
    """Receive messages of the session ``s`` that were deferred."""
    return broker.receive_deferred("q", "s", lock, [one.sequence_number or 0 for one in messages]).result()


def accept(
    broker: EmbeddedBroker, lock: str = "A", session: str | None = None, *, timeout: float = 0, request_id: str = ""
) -> str | None:
    """Return the id of the accepted session."""
    delivery = wait_for(broker.accept(AcceptRequest("q", session, lock, timeout=timeout, request_id=request_id)))
    return None if delivery is None else delivery.session_id


def accept_messages(
    broker: EmbeddedBroker,
    lock: str = "A",
    session: str | None = None,
    *,
    count: int = 10,
    taken: int | None = None,
    request_id: str = "",
) -> Delivery | None:
    """Accept a session with messages that are there."""
    request = AcceptRequest("q", session, lock, timeout=0, request_id=request_id, max_count=count, taken=taken)
    return wait_for(broker.accept(request))


def undo_accept(
    broker: EmbeddedBroker, lock: str = "A", session: str = "s", messages: Sequence[ReceivedMessage] = ()
) -> None:
    """Undo an accept whose answer did not arrive."""
    request, delivery = AcceptRequest("q", None, lock, timeout=0), Delivery(session, messages, 0.0, 0.0)
    broker.undo_accept(request, delivery).result()


def settle_and_receive(
    broker: EmbeddedBroker,
    settled: Sequence[ReceivedMessage],
    lock: str = "A",
    count: int = 1,
    *,
    disposition: Disposition = COMPLETE,
    session: str = "s",
    taken: int | None = None,
    request_id: str = "",
) -> Settled:
    """Settle messages in one way, and receive those that are there. The holder says that it has the lock."""
    settlements = [Settlement(one.receipt.handle, disposition) for one in settled]
    request = ReceiveRequest(
        "q", session, lock, max_count=count, timeout=0, request_id=request_id, taken=taken, holds_lock=True
    )
    return wait_for(broker.settle_and_receive(settlements, request))


def settle(
    broker: EmbeddedBroker,
    disposition: Disposition,
    *received: ReceivedMessage,
    session: str = "s",
    reason: str | None = None,
    description: str | None = None,
) -> list[str | None]:
    """Return an error code for each message that is not settled, and `None` for each that is."""
    return broker.settle(
        "q", session, [Settlement(one.receipt.handle, disposition, reason, description) for one in received]
    ).result()


def bodies(found: Sequence[Any]) -> list[str]:
    return [one.body.decode() for one in found]


def peek(broker: EmbeddedBroker, session: str = "s") -> list[str]:
    return bodies(broker.peek("q", session, 0, 1000).result())


def numbers(broker: EmbeddedBroker, session: str = "s") -> list[int]:
    """Return the sequence numbers of a session's messages."""
    return [one.sequence_number or 0 for one in broker.peek("q", session, 0, 1000).result()]


def dead(broker: EmbeddedBroker) -> list[tuple[str, str | None]]:
    """Return the bodies and reasons of the dead letters."""
    return [(one.body.decode(), one.dead_letter_reason) for one in broker.dead_letters("q", 0, 1000).result()]


def at(clock: Clock, seconds: float) -> datetime:
    """Return the time in `seconds` by the wall clock."""
    return datetime.fromtimestamp(clock.now() + seconds, timezone.utc)


# The data file


def copy_data(path: Path) -> Path:
    """Copy the data file and its log as a kill would leave them. Return the path of the copy."""
    target = path.with_name(f"copy-{uuid.uuid4().hex}.db")
    for suffix in ("", "-wal"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            Path(f"{target}{suffix}").write_bytes(source.read_bytes())
    return target


class Disk:
    """Makes the disk of a broker full, and frees space again."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._run = broker._core.connection.execute

    def fill(self) -> None:
        (pages,) = self._run("PRAGMA page_count").fetchone()
        self._run(f"PRAGMA max_page_count={pages}")

    def free(self) -> None:
        self._run("PRAGMA max_page_count=1000000")


def count_rows(broker: EmbeddedBroker, *tables: str) -> int:
    """Return the number of rows of tables, between two operations of the broker."""

    def job(tx: Transaction) -> int:
        run = broker._core.connection.execute
        return sum(run(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)

    return broker._core.commits.run(job, durable=False)


# Jobs


class JobLog:
    """Counts the rows that each transaction of a broker changes."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.rows: list[int] = []
        transact = broker._core.commits._transact
        connection = broker._core.connection

        def counted(*arguments: Any) -> object:
            before = connection.total_changes
            try:
                return transact(*arguments)
            finally:
                # The last transaction closes the connection.
                with suppress(sqlite3.ProgrammingError):
                    self.rows.append(connection.total_changes - before)

        broker._core.commits._transact = counted  # type: ignore[method-assign, assignment]

    @property
    def most(self) -> int:
        return max(self.rows)


class Background(Generic[T]):
    """A call in a thread of its own. `result` waits for its result, or raises its exception."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = 10.0) -> T:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call does not return"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Hold:
    """Keeps the broker busy with one job until `let_go`, so that the operations that follow share a transaction."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker
        self._held, self._free = threading.Event(), threading.Event()
        self._job = Background(lambda: broker._core.commits.run(self._wait, durable=False))
        assert self._held.wait(10)

    def _wait(self, tx: Transaction) -> None:
        self._held.set()
        assert self._free.wait(10)

    def queue(self, call: Callable[[], Any]) -> Background[Any]:
        """Start an operation in a thread of its own, behind those that are queued."""
        before = len(self._broker._core.commits._queue)
        job = Background(call)
        eventually(lambda: len(self._broker._core.commits._queue) > before)
        return job

    def let_go(self) -> None:
        self._free.set()
        self._job.result()


# Waiting operations


def receivers(broker: EmbeddedBroker) -> int:
    """Return how many receives wait."""
    return sum(len(lock.waiters) for lock in broker._core.locks)


def acceptors(broker: EmbeddedBroker) -> int:
    """Return how many accepts wait."""
    return len(list(broker._core.queues["q"].acceptors))


def waiting_receive(broker: EmbeddedBroker, lock: str = "A", **fields: Any) -> Background[list[str]]:
    """Start a receive that waits in a thread of its own."""
    before = receivers(broker)
    call = Background(lambda: bodies(receive(broker, lock, timeout=600, **fields)))
    eventually(lambda: receivers(broker) > before)
    return call


def waiting_accept(broker: EmbeddedBroker, lock: str, request_id: str = "") -> Background[str | None]:
    """Start an accept that waits in a thread of its own."""
    before = acceptors(broker)
    call = Background(lambda: accept(broker, lock, timeout=600, request_id=request_id))
    eventually(lambda: acceptors(broker) > before)
    return call


def waiting_future(broker: EmbeddedBroker, kind: str) -> Future[Any]:
    """Start a ``receive`` or an ``accept`` that waits without a thread."""
    before = receivers(broker) + acceptors(broker)
    future: Future[Any]
    if kind == "receive":
        future = broker.receive(ReceiveRequest("q", "s", "A", max_count=1, timeout=600), context=NO_WAIT)
    else:
        future = broker.accept(AcceptRequest("q", None, "A", timeout=600), context=NO_WAIT)
    eventually(lambda: receivers(broker) + acceptors(broker) > before)
    return future
