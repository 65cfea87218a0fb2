"""One thread that owns connections, and everything that hangs on them: links, sessions' locks, messages in hand.

Other threads hand it jobs; it sleeps until a socket, a timer or a job wakes it. What it owns needs no lock.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from ....errors import ProviderError
from ....protocol.error_codes import SERVER_BUSY

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Timers among which those that were cancelled need not be looked for.
FEW_TIMERS = 1000


class Owned(Protocol):
    """Something with a socket, as the loop sees it."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""

    def on_readable(self) -> None:
        """Read what is there."""

    def flush(self) -> bool:
        """Write what waits to be written; tell whether all of it was taken."""

    def fail(self, why: str) -> None:
        """End it, without waiting for anything."""

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor. The socket is the parent's still."""


class Timer:
    """A job for later, which can be cancelled. The loop's thread only."""

    __slots__ = ("job",)

    def __init__(self, job: Callable[[], object]) -> None:
        self.job: Callable[[], object] | None = job

    def cancel(self) -> None:
        self.job = None


class Loop:
    """Runs jobs and sockets in one thread, which starts with the first job and ends with `close`."""

    def __init__(self) -> None:
        self._starting = threading.Lock()  # Guards the thread's start and end.
        self._begin()

    def _begin(self) -> None:
        self._thread: threading.Thread | None = None
        self._closed = self._ended = False
        self._asleep = False
        self._jobs: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._many_timers = FEW_TIMERS
        self._tie = itertools.count()
        self._owned: dict[Owned, int] = {}
        self._dirty: set[Owned] = set()
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None

    # From any thread

    def call(self, job: Callable[[], object]) -> None:
        """Have `job` run in the loop's thread, after those handed in before.

        Raises:
            ProviderError: The loop is closed.
        """
        if self._closed:
            raise closed_error()
        self._jobs.append(job)
        if self._thread is None:
            self._start()
        if self._ended or self._thread is None:
            # It ended meanwhile: whatever was handed in before it said so, it has run.
            try:
                self._jobs.remove(job)
            except ValueError:
                return
            raise closed_error()
        # The loop says that it falls asleep before it looks for jobs a last time: one of the two sees the other.
        if self._asleep:
            self._rouse()

    def run(self, job: Callable[[], T]) -> T:
        """Have `job`, which does not wait for anything, run in the loop's thread, and return what it returns."""
        return self.submit(job).result()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Have `job` run in the loop's thread; return the future of its result."""
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

    def resolve(self, future: Future[Any], job: Callable[[], object]) -> None:
        """Have `job`, which resolves `future` sooner or later, run in the loop's thread; if it fails, so does the future."""

        def perform() -> None:
            try:
                job()
            except Exception as error:
                if future.done():
                    raise
                future.set_exception(error)

        self.call(perform)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._closed:
                self._selector = selectors.DefaultSelector()
                self._wake = socket.socketpair()
                for end in self._wake:
                    end.setblocking(False)
                self._selector.register(self._wake[0], selectors.EVENT_READ)
                thread = threading.Thread(target=self._run, name="azsession-amqp", daemon=True)
                thread.start()
                self._thread = thread

    def _rouse(self) -> None:
        self._asleep = False
        wake = self._wake
        if wake is not None:
            try:
                wake[1].send(b"\0")
            except OSError:
                return  # Full of wakes already, or closed.

    def close(self) -> None:
        """End the thread, after the jobs handed in so far. Idempotent; waits for it, except in the thread itself."""
        with self._starting:
            thread, was_closed, self._closed = self._thread, self._closed, True
        if thread is None or was_closed:
            return
        self._rouse()
        if thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """In a forked child: there is no thread; let go of the parent's sockets without touching what they are part of."""
        for owned in list(self._owned):
            owned.abandon()
        if self._selector is not None:
            # Unregistering would reach into the parent's: the kernel's object is shared.
            self._selector.close()
        for end in self._wake or ():
            end.close()
        self._starting = threading.Lock()
        self._begin()

    # In the loop's thread

    def later(self, seconds: float, job: Callable[[], object]) -> Timer:
        """Run `job` in so many seconds."""
        timer = Timer(job)
        if len(self._timers) > self._many_timers:
            # Most were cancelled: a receive sets one for minutes ahead, and is done in a moment.
            self._timers = [entry for entry in self._timers if entry[2].job is not None]
            heapq.heapify(self._timers)
            self._many_timers = FEW_TIMERS + 2 * len(self._timers)
        heapq.heappush(self._timers, (time.monotonic() + max(0.0, seconds), next(self._tie), timer))
        return timer

    def add(self, owned: Owned) -> None:
        """Watch a socket."""
        if self._selector is not None:
            self._selector.register(owned.fileno(), selectors.EVENT_READ, owned)
            self._owned[owned] = selectors.EVENT_READ

    def remove(self, owned: Owned) -> None:
        """Watch a socket no more; before it is closed."""
        if self._owned.pop(owned, None) is not None and self._selector is not None:
            self._selector.unregister(owned.fileno())
        self._dirty.discard(owned)

    def soil(self, owned: Owned) -> None:
        """Note that something waits to be written: it goes out, together with what else there will be, in this round."""
        self._dirty.add(owned)

    def _run(self) -> None:
        selector, wake = self._selector, self._wake
        if selector is None or wake is None:
            return
        try:
            while not self._closed or self._jobs:
                self._round(selector, wake[0])
        finally:
            self._ended = True
            # Handed in between the last look and the line above: their callers wait.
            while self._jobs:
                _safely(self._jobs.popleft())
            for owned in list(self._owned):
                owned.fail("its thread ended")
            selector.close()
            for end in wake:
                end.close()

    def _round(self, selector: selectors.BaseSelector, wake: socket.socket) -> None:
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
    """Return the error of calls on a broker that was closed."""
    return ProviderError("the broker is closed", code=SERVER_BUSY, status=503)


def _safely(job: Callable[[], object]) -> None:
    """Run a job: whatever goes wrong in one must not end the others."""
    try:
        job()
    except Exception:
        logger.exception("a job of the AMQP thread failed")


def _safely_of(owned: Owned, job: Callable[[], T]) -> T | None:
    """Run a job of a socket's, which is of no use any more if that fails: nobody knows what state it is in."""
    try:
        return job()
    except Exception:
        logger.exception("a job of the AMQP thread failed, and its connection with it")
        _safely(lambda: owned.fail("an error of azsession's own"))
        return None


def _drain(wake: socket.socket) -> None:
    try:
        while len(wake.recv(4096)) == 4096:
            pass
    except (BlockingIOError, InterruptedError):
        return
