"""The one thread of a stand-in. It handles sockets, timers, and calls from other threads."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any


class Timer:
    """A call that is due later and can be cancelled."""

    __slots__ = ("args", "call")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        self.call, self.args = None, ()


class Loop:
    """Runs until `stop`, and calls `after_each` at the end of each round."""

    def __init__(self, after_each: Callable[[], None]) -> None:
        self._after_each = after_each
        self.selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._calls: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self.selector.register(self._woken, selectors.EVENT_READ, self._drain)
        self._thread: threading.Thread | None = None
        self._stopping = False
        #: Errors of the stand-in's own code. Each is a bug of the stand-in and fails the test.
        self.errors: list[Exception] = []

    @staticmethod
    def now() -> float:
        return time.time()

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call something in so many seconds. Only the loop's thread may use this."""
        timer = Timer(call, args)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def call(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call something in the loop's thread and return the result. Any thread may use this, also before `start`."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return call(*args)
        future: Future[Any] = Future()
        self._calls.append((future, call, args))
        with suppress(BlockingIOError):
            self._wake.send(b"\0")
        return future.result(30)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="standin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        thread = self._thread
        if thread is not None:
            self.call(setattr, self, "_stopping", True)
            thread.join()
            self._thread = None
        self.selector.close()
        self._wake.close()
        self._woken.close()

    def _drain(self, _mask: int) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._round()
            except Exception as error:  # noqa: PERF203 - the loop continues with the next round
                traceback.print_exc()
                self.errors.append(error)

    def _round(self) -> None:
        timers, calls = self._timers, self._calls
        timeout = None
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        if timers:
            # A message may expire in the year 9999, and no selector waits for so long.
            timeout = min(max(0.0, timers[0][0] - time.monotonic()), 3600.0)
        for key, mask in self.selector.select(timeout):
            key.data(mask)
        while calls:
            future, call, args = calls.popleft()
            try:
                result = call(*args)
                # Send the effects of the call to the clients before it returns.
                self._after_each()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if timer.call is not None:
                timer.call(*timer.args)
        self._after_each()
