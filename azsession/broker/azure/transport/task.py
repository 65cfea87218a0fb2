"""Coroutines that run in the loop's thread. `Loop.start` makes a `Task` for each one.

A coroutine waits with `done_within` and `pause`. Meanwhile it holds no thread: the loop continues it when the future is done
or the time is over. All futures that coroutines wait for are resolved in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar, cast

from ....errors import QueueError
from ....futures import Future

T = TypeVar("T")


class WithdrawnError(BaseException):
    """The caller cancelled the future of the coroutine. The coroutine cleans up, and raises the exception again.

    It derives from `BaseException`, so that handlers of errors do not catch it.
    """


class Awaitable(Protocol):
    """A future that a coroutine can wait for."""

    def done(self) -> bool:
        """Return whether there is a result or an error."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Call `fn` when there is one."""


class LocalFuture(Generic[T]):
    """A future that only the loop's thread uses, so that it needs no lock."""

    __slots__ = ("_callbacks", "_error", "_is_done", "_result")

    def __init__(self) -> None:
        self._is_done = False
        self._result: T | None = None
        self._error: Exception | None = None
        self._callbacks: tuple[Callable[[Any], object], ...] = ()

    def done(self) -> bool:
        """Return whether there is a result or an error."""
        return self._is_done

    def result(self) -> T:
        """Return the result, or raise the error. The future must be done."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def exception(self) -> Exception | None:
        """Return the error, or `None`. The future must be done."""
        return self._error

    def set_result(self, result: T) -> None:
        """Set the result, once."""
        self._result = result
        self._finish()

    def set_exception(self, error: Exception) -> None:
        """Set the error, once."""
        self._error = error
        self._finish()

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Call `fn` when the future is done. It must not be done yet."""
        self._callbacks = (*self._callbacks, fn)

    def _finish(self) -> None:
        self._is_done = True
        # A future that is kept must not keep those that waited for it.
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback(self)


class _Wait:
    """The wait of a coroutine for a future, or for a time in seconds, or for the first of both.

    Its result says whether the future is done.
    """

    __slots__ = ("future", "seconds", "task")

    def __init__(self, future: Awaitable | None, seconds: float | None) -> None:
        self.future: Awaitable | None = future
        self.seconds: float | None = seconds
        self.task: Task[Any] | None = None

    def __await__(self) -> Generator[_Wait, None, bool]:
        future = self.future
        if future is not None and future.done():
            return True
        yield self
        return future is not None and future.done()

    def on_done(self, _: object) -> None:
        # The future may be resolved in the middle of other work. The coroutine continues after that work.
        if self.task is not None and self.task.loop is not None:
            self.task.loop.soon(self.resume)

    def resume(self) -> None:
        if self.task is not None:
            self.task.resume(self)


def done_within(future: Awaitable, seconds: float | None) -> _Wait:
    """Wait for a future: ``await done_within(...)``. The result says whether it is done.

    Args:
        future: The future.
        seconds: The longest wait; `None` for any time.
    """
    return _Wait(future, seconds)


def pause(seconds: float) -> _Wait:
    """Wait for a time: ``await pause(...)``."""
    return _Wait(None, seconds)


class CancellableTimer(Protocol):
    """A timer of the loop."""

    def cancel(self) -> None:
        """Drop the job of the timer."""


class Suspended(Protocol):
    """A call that waits for something."""

    def end(self, error: QueueError) -> None:
        """End the call with an error: the loop ends."""


class TaskLoop(Protocol):
    """The loop, as its tasks see it. `suspended` are the calls that wait."""

    suspended: set[Suspended]

    def call(self, job: Callable[[], object]) -> None:
        """Run a job in the loop's thread. Any thread may call this."""

    def soon(self, job: Callable[[], object]) -> None:
        """Run a job after the present one. For the loop's thread."""

    def later(self, seconds: float, job: Callable[[], object]) -> CancellableTimer:
        """Run a job in so many seconds. For the loop's thread."""


class Task(Future[T]):
    """The future of a coroutine's result, and the coroutine. `Loop.start` starts it.

    If the future is cancelled, the coroutine gets a `WithdrawnError` at the point where it waits. From the point on where a
    coroutine must not be withdrawn, its future is claimed.

    Attributes:
        loop: The loop; `None` before the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop: TaskLoop | None = None
        self._call: Callable[[], Coroutine[Any, Any, T]] | None = None
        self._coroutine: Coroutine[Any, Any, T] | None = None
        self._wait: _Wait | None = None
        self._timer: CancellableTimer | None = None
        self._is_cancelled = False
        #: The result of `claim`; `None` before.
        self._is_claimed: bool | None = None

    # Any thread

    def prepare(self, loop: TaskLoop, call: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Set the loop, and what makes the coroutine. The loop calls this before it calls `begin` in its thread."""
        self.loop, self._call = loop, call

    def cancel(self) -> bool:
        """Withdraw the task, unless it is claimed or done. Return whether it is cancelled."""
        if not super().cancel():
            return False
        self._is_cancelled = True
        if self.loop is not None:
            # If the loop is closed, it ends all tasks.
            with suppress(QueueError):
                self.loop.call(self._withdraw)
        return True

    def refuse(self, error: QueueError) -> None:
        """End a task that was not begun."""
        if self._coroutine is not None:
            self._coroutine.close()
        self._drop_call()
        if self.claim():
            self.set_exception(error)

    # The loop's thread

    def claim(self) -> bool:
        """Commit to giving a result: the future cannot be cancelled from now on. Idempotent.

        Returns:
            `False` if the future was cancelled.
        """
        if self._is_claimed is None:
            self._is_claimed = self.set_running_or_notify_cancel()
        return self._is_claimed

    def begin(self) -> None:
        """Run the coroutine until it waits."""
        if self._is_cancelled:
            self._withdraw()
        elif self._call is not None:
            self._coroutine, self._call = self._call(), None
            self._step(None)

    def resume(self, wait: _Wait) -> None:
        """Continue the coroutine if it is still in this wait."""
        if self._wait is wait:
            self._wait = None
            self._forget(wait)
            self._step(None)

    def end(self, error: QueueError) -> None:
        """End the coroutine with an error: the loop ends."""
        self._wait = None
        self._step(error)
        if self._wait is not None:
            self._wait = None
            self.refuse(error)

    def _forget(self, wait: _Wait) -> None:
        """Let go of a wait that is over. Its future may be kept, and keeps the wait."""
        wait.task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _withdraw(self) -> None:
        if (self._coroutine is None and self._call is None) or self._is_claimed is not None:
            return
        # Those who wait with `concurrent.futures.wait` learn of the cancellation by this call.
        self.claim()
        if self._wait is None:
            self._drop_call()  # The coroutine was not begun.
            return
        wait, self._wait = self._wait, None
        self._forget(wait)
        self._step(WithdrawnError())

    def _drop_call(self) -> None:
        """Forget the coroutine that was not begun. One that exists already must be closed."""
        call, self._call = self._call, None
        if call is not None:
            call().close()

    def _step(self, error: BaseException | None) -> None:
        """Continue the coroutine until it waits again or ends."""
        coroutine = self._coroutine
        if coroutine is None or self.loop is None:
            return
        try:
            wait: _Wait = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as end:
            if self.claim():
                self.set_result(end.value)
        except WithdrawnError:
            pass
        except BaseException as failure:
            if self.claim():
                self.set_exception(failure)
        else:
            self._suspend(wait)
            return
        self._coroutine = None
        self.loop.suspended.discard(self)

    def _suspend(self, wait: _Wait) -> None:
        self._wait, wait.task = wait, self
        if self.loop is not None:
            self.loop.suspended.add(self)
            if wait.seconds is not None:
                self._timer = self.loop.later(wait.seconds, wait.resume)
        if wait.future is not None:
            wait.future.add_done_callback(wait.on_done)
