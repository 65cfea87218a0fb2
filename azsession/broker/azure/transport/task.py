"""Coroutines that run in the loop's thread. `Loop.start` makes a `Task` for each one.

A coroutine waits with `done_within` and `pause`. Meanwhile it holds no thread: the loop continues it when the future is done
or the time is over. All futures that coroutines wait for are resolved in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from ....errors import QueueError

T = TypeVar("T")


class WithdrawnError(BaseException):
    """The caller cancelled the future of the coroutine. The coroutine cleans up, and raises the exception again.

    It derives from `BaseException`, so that handlers of errors do not catch it.
    """


class _Wait:
    """The wait of a coroutine for a future, or for a time in seconds, or for the first of both."""

    __slots__ = ("future", "seconds")

    def __init__(self, future: Future[Any] | None, seconds: float | None) -> None:
        self.future = future
        self.seconds = seconds

    def __await__(self) -> Generator[_Wait, None, None]:
        yield self


async def done_within(future: Future[Any], seconds: float | None) -> bool:
    """Wait for a future. Return whether it is done; `seconds` is the longest wait, `None` for any time."""
    if not future.done():
        await _Wait(future, seconds)
    return future.done()


async def pause(seconds: float) -> None:
    """Wait for a time."""
    await _Wait(None, seconds)


class CancellableTimer(Protocol):
    """A timer of the loop."""

    def cancel(self) -> None:
        """Drop the job of the timer."""


class TaskLoop(Protocol):
    """The loop, as its tasks see it. `tasks` are those that run."""

    tasks: set[Task[Any]]

    def call(self, job: Callable[[], object]) -> None:
        """Run a job in the loop's thread. Any thread may call this."""

    def soon(self, job: Callable[[], object]) -> None:
        """Run a job after the present one. For the loop's thread."""

    def later(self, seconds: float, job: Callable[[], object]) -> CancellableTimer:
        """Run a job in so many seconds. For the loop's thread."""


class Task(Generic[T]):
    """Runs one coroutine, and resolves the future of its result.

    If the future is cancelled, the coroutine gets a `WithdrawnError` at the point where it waits. From the point on where a
    coroutine must not be withdrawn, its future is running: see `Future.set_running_or_notify_cancel`.

    Args:
        loop: The loop.
        coroutine: The coroutine.
        future: Gets the result or the error.
    """

    __slots__ = ("_coroutine", "_future", "_loop", "_timer", "_wait")

    def __init__(self, loop: TaskLoop, coroutine: Coroutine[Any, Any, T], future: Future[T]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._future = future
        self._wait: _Wait | None = None
        self._timer: CancellableTimer | None = None
        future.add_done_callback(self._on_done)

    def begin(self) -> None:
        """Run the coroutine until it waits. The loop calls this in its thread."""
        if self._future.cancelled():
            self._coroutine.close()
            return
        self._loop.tasks.add(self)
        self._step(None)

    def end(self, error: QueueError) -> None:
        """End the coroutine with an error: the loop ends. For the loop's thread."""
        self._step(error)
        if self in self._loop.tasks:
            # The coroutine waits again.
            self._coroutine.close()
            self._finish(error=error)

    def _on_done(self, future: Future[T]) -> None:
        if future.cancelled():
            # If the loop is closed, it ends all tasks.
            with suppress(QueueError):
                self._loop.call(self._withdraw)

    def _withdraw(self) -> None:
        if self in self._loop.tasks:
            # Those who wait with `concurrent.futures.wait` learn of the cancellation by this call.
            self._future.set_running_or_notify_cancel()
            self._step(WithdrawnError())

    def _step(self, error: BaseException | None) -> None:
        """Continue the coroutine until it waits again or ends."""
        self._wait = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            wait: _Wait = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as end:
            self._finish(result=end.value)
        except WithdrawnError:
            self._loop.tasks.discard(self)
        except BaseException as failure:
            self._finish(error=failure)
        else:
            self._suspend(wait)

    def _suspend(self, wait: _Wait) -> None:
        self._wait = wait
        if wait.seconds is not None:
            self._timer = self._loop.later(wait.seconds, lambda: self._continue(wait))
        if wait.future is not None:
            # The future may be resolved in the middle of other work. The coroutine continues after that work.
            wait.future.add_done_callback(lambda _: self._loop.soon(lambda: self._continue(wait)))

    def _continue(self, wait: _Wait) -> None:
        if self._wait is wait:
            self._step(None)

    def _finish(self, *, result: Any = None, error: BaseException | None = None) -> None:
        self._loop.tasks.discard(self)
        future = self._future
        if not future.running() and (future.done() or not future.set_running_or_notify_cancel()):
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
