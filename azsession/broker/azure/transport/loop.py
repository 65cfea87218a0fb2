"""The one thread that owns the connections of a broker, and all state behind them: links, session locks, messages.

Other threads hand it jobs and coroutines: the operations of the broker. It sleeps until a socket, a timer or a job wakes it.
State that only this thread touches needs no lock.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from .... import threads
from ....errors import ProviderError, QueueError
from ....futures import Future
from ....logs import SessionLogger, get_logger
from ....protocol.error_codes import SERVER_BUSY
from .task import Suspended, Task

logger: SessionLogger = get_logger(__name__)

T = TypeVar("T")

#: How many timers there may be before the loop removes cancelled ones.
FEW_TIMERS = 1000


class Owned(Protocol):
    """An object with a socket that the loop watches, for example a `Connection`."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""

    def on_readable(self) -> None:
        """Read from the socket."""

    def flush(self) -> bool:
        """Write waiting bytes; return whether the socket accepted all of them."""

    def fail(self, why: str) -> None:
        """Close the socket without waiting."""

    def abandon(self) -> None:
        """Close the descriptor in a forked child. The connection is still the parent's."""


class Timer:
    """A job for later. Only the loop's thread makes and cancels timers."""

    __slots__ = ("job",)

    def __init__(self, job: Callable[[], object]) -> None:
        self.job: Callable[[], object] | None = job

    def cancel(self) -> None:
        """Drop the job. Idempotent."""
        self.job = None


class Loop:
    """Runs jobs, coroutines and sockets in one thread, which starts with the first job and ends with `close`.

    Thread-safe where a method says so; all other methods are for the loop's thread.

    Attributes:
        suspended: The calls that wait.
    """

    def __init__(self) -> None:
        #: Guards the start of the thread and the change of `_closed`. A signal handler may close the loop while its thread
        #: holds the lock.
        self._starting = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        #: Whether `close` was called, and whether the thread runs no more jobs.
        self._closed = self._ended = self._is_running = False
        #: Whether the thread is, or is about to be, blocked in the selector.
        self._asleep = False
        self._jobs: deque[Callable[[], object]] = deque()
        self.suspended: set[Suspended] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._many_timers = FEW_TIMERS
        self._tie = itertools.count()
        #: The watched objects with the events that the selector watches for.
        self._owned: dict[Owned, int] = {}
        #: Objects with bytes to write.
        self._dirty: set[Owned] = set()
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None

    # From any thread

    def call(self, job: Callable[[], object]) -> None:
        """Run `job` in the loop's thread, after the jobs of earlier calls. Does not wait. Any thread may call this.

        Raises:
            ProviderError: The loop is closed.
        """
        if self._closed:
            raise closed_error()
        self._jobs.append(job)
        if self._thread is None:
            self._start()
        if self._ended or self._thread is None:
            # The thread ended in between. It has run the job if it took the job out of the queue before it ended.
            try:
                self._jobs.remove(job)
            except ValueError:
                return
            raise closed_error()
        # The loop sets `_asleep` before it looks for jobs a last time, so that no job is overlooked.
        if self._asleep:
            self._rouse()

    def run(self, job: Callable[[], T]) -> T:
        """Run `job`, which must not block, in the loop's thread, and return its result. Blocks until then.

        Any other thread may call this.

        Raises:
            ProviderError: The loop is closed.
        """
        return self.submit(job).result()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run `job` in the loop's thread; return the future of its result. Any thread may call this.

        Raises:
            ProviderError: The loop is closed.
        """
        future: Future[T] = Future()

        def perform() -> None:
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call(perform)
        return future

    def start(self, coroutine: Coroutine[Any, Any, T], task: Task[T] | None = None) -> Task[T]:
        """Run a coroutine in the loop's thread, and return the future of its result. Any thread may call this.

        If the loop is closed, the future gets the error.

        Args:
            coroutine: The coroutine. It waits with `done_within` and `pause` only.
            task: The future; a new one if it is `None`.
        """
        return self.start_call(lambda: coroutine, task)

    def start_call(self, call: Callable[[], Coroutine[Any, Any, T]], task: Task[T] | None = None) -> Task[T]:
        """Run the coroutine that `call` makes, like `start`. The loop's thread makes the coroutine.

        If the caller is interrupted, there is therefore no coroutine that never ran.
        """
        started: Task[T] = Task() if task is None else task
        started.prepare(self, call)
        try:
            self.call(started.begin)
        except ProviderError as error:
            started.refuse(error)
        return started

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                if self._selector is None:
                    wake, selector = socket.socketpair(), selectors.DefaultSelector()
                    for end in wake:
                        end.setblocking(False)
                    selector.register(wake[0], selectors.EVENT_READ)
                    self._wake, self._selector = wake, selector
                thread = threading.Thread(target=self._run, name="azsession-amqp", daemon=True)
                threads.start(thread)
                self._thread = thread

    def _rouse(self) -> None:
        # The thread itself unsets `_asleep`: an interrupt in between must not make later callers believe that it is awake.
        wake = self._wake
        if wake is not None:
            try:
                wake[1].send(b"\0")
            except OSError:
                return  # The socket is full of wake-ups already, or closed.

    def close(self) -> None:
        """End the thread after the jobs so far. Idempotent. Blocks until the end, except in the thread itself."""
        with self._starting:
            thread, self._closed = self._thread, True
        if thread is None:
            return
        self._rouse()
        if thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """Start over in a forked child, which has no loop thread: close the parent's descriptors, not its connections."""
        for owned in list(self._owned):
            owned.abandon()
        if self._selector is not None:
            # Do not unregister: parent and child share the kernel's selector object.
            self._selector.close()
        for end in self._wake or ():
            end.close()
        self._starting = threading.RLock()
        self._begin()

    # In the loop's thread

    def soon(self, job: Callable[[], object]) -> None:
        """Run `job` after the present job, also while the loop is being closed."""
        self._jobs.append(job)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine for which nobody waits. An error that it does not expect is logged."""
        self.start(coroutine).add_done_callback(_log_failure)

    def later(self, seconds: float, job: Callable[[], object]) -> Timer:
        """Run `job` in so many seconds; return its timer."""
        timer = Timer(job)
        if len(self._timers) > self._many_timers:
            # Most are cancelled: a receive sets a timer for minutes, and usually ends at once.
            self._timers = [entry for entry in self._timers if entry[2].job is not None]
            heapq.heapify(self._timers)
            self._many_timers = FEW_TIMERS + 2 * len(self._timers)
        heapq.heappush(self._timers, (time.monotonic() + max(0.0, seconds), next(self._tie), timer))
        return timer

    def add(self, owned: Owned) -> None:
        """Watch an object's socket."""
        if self._selector is not None:
            self._selector.register(owned.fileno(), selectors.EVENT_READ, owned)
            self._owned[owned] = selectors.EVENT_READ

    def remove(self, owned: Owned) -> None:
        """Stop watching an object's socket. Call this before the socket is closed."""
        if self._owned.pop(owned, None) is not None and self._selector is not None:
            self._selector.unregister(owned.fileno())
        self._dirty.discard(owned)

    def flush_later(self, owned: Owned) -> None:
        """Flush an object at the end of this round, so that frames go out together."""
        self._dirty.add(owned)

    def _run(self) -> None:
        selector, wake = self._selector, self._wake
        with self._starting:
            if selector is None or wake is None or self._is_running:  # An interrupted start was repeated.
                return
            self._is_running, self._thread = True, threading.current_thread()
        try:
            while not self._closed or self._jobs:
                self._round(selector, wake[0])
        finally:
            self._ended = True
            # Run jobs that arrived before `_ended` was set: their callers wait for them.
            self._run_jobs()
            for owned in list(self._owned):
                owned.fail("the AMQP thread ended")
            self._run_jobs()
            for task in list(self.suspended):
                _safely(partial(task.end, closed_error()))
            selector.close()
            for end in wake:
                end.close()

    def _run_jobs(self) -> None:
        while self._jobs:
            _safely(self._jobs.popleft())

    def _round(self, selector: selectors.BaseSelector, wake: socket.socket) -> None:
        while self._timers and self._timers[0][2].job is None:
            heapq.heappop(self._timers)
        self._asleep = True
        if self._jobs or self._closed:
            timeout: float | None = 0.0
        else:
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        events = selector.select(timeout)
        self._asleep = False
        for key, mask in events:
            if key.data is None:
                _drain(wake)
            elif mask & selectors.EVENT_WRITE:
                self._dirty.add(key.data)
        for key, mask in events:
            if key.data is not None and mask & selectors.EVENT_READ and key.data in self._owned:
                _safely_of(key.data, key.data.on_readable)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.job is not None:
                _safely(timer.job)
        # The second pass runs what the jobs of the first one have set off, for example a coroutine that waited for a message.
        for _ in range(2):
            for _ in range(len(self._jobs)):
                _safely(self._jobs.popleft())
        self._flush(selector)

    def _flush(self, selector: selectors.BaseSelector) -> None:
        while self._dirty:
            owned = self._dirty.pop()
            done = _safely_of(owned, owned.flush)
            if owned in self._owned:
                wanted = selectors.EVENT_READ | (0 if done else selectors.EVENT_WRITE)
                if self._owned[owned] != wanted:
                    self._owned[owned] = wanted
                    selector.modify(owned.fileno(), wanted, owned)


def closed_error() -> ProviderError:
    """Return the error for calls on a closed broker."""
    return ProviderError("the broker is closed", code=SERVER_BUSY, status=503)


def _safely(job: Callable[[], object]) -> None:
    """Run a job; log its error, so that one job cannot end the thread."""
    try:
        job()
    except Exception:
        logger.exception("a job of the AMQP thread failed")


def _safely_of(owned: Owned, job: Callable[[], T]) -> T | None:
    """Run a job of a watched object. After an error its state is unknown, so it is closed."""
    try:
        return job()
    except Exception:
        logger.exception("a job of an AMQP connection failed: the connection is closed")
        _safely(lambda: owned.fail("an internal error of azsession; the log has the traceback"))
        return None


def _log_failure(future: Future[None]) -> None:
    if future.cancelled():
        return
    error = future.exception()
    if error is not None and not isinstance(error, QueueError):
        logger.error("a coroutine of the AMQP thread failed", exc_info=error)


def _drain(wake: socket.socket) -> None:
    try:
        while len(wake.recv(4096)) == 4096:
            pass
    except (BlockingIOError, InterruptedError):
        return
