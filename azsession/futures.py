"""`Condition` and `Future`: those of the standard library, made safe against exceptions of signal handlers.

A signal handler can raise an exception at the start of a function, after a call, and at a jump backwards. It must not leave a
lock taken, which other threads would wait for.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import attrgetter
from typing import Any, TypeVar

from . import interrupts
from .events import Event
from .logs import SessionLogger, get_logger

T = TypeVar("T")

logger: SessionLogger = get_logger(__name__)


class Condition(threading.Condition):
    """A `threading.Condition` whose lock an interrupt of a ``with`` statement cannot leave taken.

    `threading.Condition` has these methods in Python. A signal can come after they took the lock, or before they release it.
    """

    # A `with` statement now calls the methods of the lock, in C. Between these and the block, Python handles no signal.
    __enter__: Any = property(attrgetter("_lock.__enter__"))
    __exit__: Any = property(attrgetter("_lock.__exit__"))


def wait_all(futures: Iterable[Future[Any]], timeout: float) -> bool:
    """Wait for all futures for up to `timeout` seconds. Return whether they are done."""
    until = time.monotonic() + timeout
    return all(future.wait(max(0.0, until - time.monotonic())) for future in futures)


class Future(concurrent.futures.Future[T]):
    """A future that threads can still use after an interrupt. An exception of a signal handler in a callback is raised."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()
        self._done_callbacks: list[Callable[[Any], object]] = []

    def result(self, timeout: float | None = None) -> T:
        """Return the result. Blocks until it is there.

        Raises:
            TimeoutError: `timeout` seconds passed.
            BaseException: The exception that was set.
        """
        self.wait(timeout)
        return super().result(None if timeout is None else 0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the result for up to `timeout` seconds. Return whether it is there."""
        if not self.done():
            # The wait of a condition could end without its lock.
            event = Event()
            self.add_done_callback(lambda _: event.set())
            event.wait(timeout)
        return self.done()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` when the future is done. Each callback must be safe to call again: an interrupted one is repeated."""
        with self._condition:
            if not self.done():
                self._done_callbacks.append(fn)
                return
        self._notify(fn)

    def cancel(self) -> bool:
        """Cancel the future. Return `False` if it has a result or is running. After an interrupt, a second call continues."""
        is_cancelled = super().cancel()
        if is_cancelled:
            self.finish()
        return is_cancelled

    def finish(self) -> None:
        """Run the callbacks of a future with a result that an interrupt left out. Several threads may call it."""
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        for fn in self._done_callbacks.copy():
            self._notify(fn)
            with suppress(ValueError):  # Another thread has removed it.
                self._done_callbacks.remove(fn)

    def _notify(self, fn: Callable[[Any], object]) -> None:
        older = interrupts.handled()
        try:
            fn(self)
        except Exception as error:
            interrupts.let_pass(error, older)
            logger.exception("a callback of %r failed", self)
