"""The operations of the embedded broker as jobs, their futures, and the transaction in which they run.

`GroupCommit` runs the jobs. Code that makes jobs uses `Transaction` to say how their changes in memory are undone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar, cast

from ...errors import ProviderError
from ...futures import Future
from ...protocol.error_codes import SERVER_BUSY

T = TypeVar("T")


class Unfinished(Enum):
    """The result of a job that has not finished.

    Attributes:
        WAITING: The job waits for something. It runs again when `GroupCommit.requeue` is called.
        CONTINUE: The job has done one step. It runs again after the jobs that are queued now.
    """

    WAITING = "waiting"
    CONTINUE = "continue"


class WithdrawnError(Exception):
    """Raised by a job whose caller withdrew it while it ran. The exception rolls back the job's changes."""


class Transaction:
    """The transaction of some jobs. A job registers how to undo its changes in memory, and actions around the commit.

    Jobs change memory at once, so that the next job of the same transaction sees the changes. If the commit fails, the
    registered functions restore memory. An exception of a signal handler can come at any place. So a job registers a function
    before the change that the function undoes. An interrupted function is called again, so it must be possible to call it
    twice.

    Attributes:
        arrived: When the running job was submitted, on the monotonic clock.
        is_committed: Whether the transaction was committed.
    """

    __slots__ = ("_after", "_before", "_saved", "_undo", "arrived", "is_committed")

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._before: dict[object, Callable[[], object]] = {}
        self._after: deque[Callable[[], object]] = deque()
        self._saved: set[int] = set()
        self.arrived: float = 0.0
        self.is_committed: bool = False

    def on_rollback(self, undo: Callable[[], object]) -> None:
        """Call `undo` if the transaction fails. The functions run in reverse order."""
        self._undo.append(undo)

    def before_commit(self, subject: object, action: Callable[[], object]) -> None:
        """Call `action` before the commit, once for all jobs that ask for the same `subject`. If it raises, they fail."""
        self._before.setdefault(subject, action)

    def after_commit(self, action: Callable[[], object]) -> None:
        """Call `action` after the commit. It must not block or raise."""
        self._after.append(action)

    def first_touch(self, thing: object) -> bool:
        """Return whether this is the first call with `thing` in this transaction."""
        if id(thing) in self._saved:
            return False
        self._saved.add(id(thing))
        self._undo.append(lambda: thing)  # Keeps `thing` alive, so that no other object gets its id.
        return True

    def roll_back(self) -> None:
        """Undo the changes in memory. After an interrupt, a second call continues."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()

    def prepare(self) -> None:
        """Run the actions that precede the commit."""
        for action in self._before.values():
            action()

    def finish(self) -> None:
        """Run the actions that follow the commit. After an interrupt, a second call continues."""
        while self._after:
            self._after[0]()
            self._after.popleft()


class JobFuture(Future[T]):
    """The result of a job. A job claims its future before it takes effect. Afterwards, `cancel` fails."""

    def __init__(self) -> None:
        super().__init__()
        self._state_lock = threading.RLock()  # Guards the following fields. Not held while callbacks run.
        self._is_claimed = False
        self._is_withdrawn = False
        self._was_refused = False

    @property
    def withdrawn(self) -> bool:
        """Whether the caller has withdrawn the operation."""
        return self._is_withdrawn

    def cancel(self) -> bool:
        """Withdraw the operation. Return `False` if it has taken effect."""
        with self._state_lock:
            if self._is_claimed:
                self._was_refused = True
                return False
            self._is_withdrawn = True
        return super().cancel()

    def claim(self) -> bool:
        """Return whether the operation may take effect: its caller has not withdrawn it."""
        with self._state_lock:
            self._is_claimed = not self._is_withdrawn
            return self._is_claimed

    def release(self) -> None:
        """Undo `claim`, because the operation has taken no effect. A call of `cancel` in the meantime has its effect now."""
        with self._state_lock:
            self._is_claimed = False
        if self._was_refused:
            self.cancel()


class Job(Generic[T]):
    """One operation: its work, and the future of its result.

    Args:
        work: Does the operation. It must not block.
        durable: Whether the commit must be on disk. Without it, the commit survives the death of the process, but perhaps not
            a failure of the machine.
        arrived: When the operation arrived, on the monotonic clock.
        may_wait: Whether the job can return `Unfinished.WAITING`. Such a job calls `claim` before it takes effect, and
            handles a withdrawn future. `GroupCommit` does both for all other jobs.

    Attributes:
        future: The result.
        owner: A lock that the thread of a blocking caller waits for. It is released when that thread gets the lead, and when
            the job has run. `None` if no thread waits.
        has_lead: Whether its thread was told that it leads.
        has_run: Whether the job has run once, or its thread has left. Then its thread cannot get the lead.
        is_finished: Whether the job has its final result.
    """

    __slots__ = (
        "arrived",
        "batch",
        "durable",
        "error",
        "future",
        "has_lead",
        "has_run",
        "is_finished",
        "is_queued",
        "may_wait",
        "owner",
        "result",
        "tx",
        "work",
    )

    def __init__(
        self, work: Callable[[Transaction], T | Unfinished], durable: bool, arrived: float, *, may_wait: bool = False
    ) -> None:
        self.work: Callable[[Transaction], T | Unfinished] | None = work
        self.durable: bool = durable
        self.arrived: float = arrived
        self.may_wait: bool = may_wait
        self.future: JobFuture[T] = JobFuture()
        self.result: T | Unfinished | None = None
        self.error: BaseException | None = None
        self.tx: Transaction | None = None
        self.owner: threading.Lock | None = None
        self.has_lead: bool = False
        self.has_run: bool = False
        self.is_queued: bool = False
        self.is_finished: bool = False
        #: The jobs that this job's thread runs while it leads, and must conclude.
        self.batch: deque[Job[object]] = deque()

    def claim(self, tx: Transaction) -> bool:
        """Return whether the job may take effect. Afterwards, its future cannot be cancelled, unless `tx` fails."""
        if not self.future.claim():
            return False
        tx.on_rollback(self.future.release)
        return True

    def resolve(self) -> None:
        """Set the result of the future. A second call continues after an interrupt."""
        if self.future.done():
            if not self.future.cancelled():
                self.future.finish()  # An interrupt came between the result and the callbacks.
            return
        if not self.future.claim():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(cast("T", self.result))
        # The job may stay referenced, for example by the heap of deadlines. It must not keep messages in memory.
        self.work = self.result = None


def handler_error() -> ProviderError:
    """Return the error for a signal handler that interrupted the thread that runs or queues jobs."""
    text = "a signal handler cannot wait for this broker, because it interrupted an operation of the broker"
    return ProviderError(text, code=SERVER_BUSY, is_transient=True)
