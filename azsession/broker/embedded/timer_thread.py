"""The embedded broker's only thread. `Core` uses it to act when a lock expires or a scheduled message is due."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..clock import Clock

logger: logging.Logger = logging.getLogger(__name__)

#: The longest single wait in seconds. A time to live can exceed the longest timeout that `Condition.wait` accepts.
LONGEST_WAIT = 86400.0


class Timer:
    """Calls a function at a requested time. The thread starts with the first request.

    Args:
        act: The function. It returns the time of its next call on the monotonic clock, or `None`.
        clock: The source of time.
    """

    def __init__(self, act: Callable[[], float | None], clock: Clock) -> None:
        self._act = act
        self._clock = clock
        self._wanted = threading.Condition()  # Guards _at, _stopped and _thread.
        self._at: float | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set(self, at: float) -> None:
        """Request a call at `at` on the monotonic clock. If an earlier call is requested already, that one stays."""
        with self._wanted:
            if self._stopped or (self._at is not None and self._at <= at):
                return
            self._at = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="azsession-broker-timer", daemon=True)
                self._thread.start()
            self._wanted.notify()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        with self._wanted:
            self._stopped = True
            self._wanted.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not self._stopped:
                    left = None if self._at is None else self._at - self._clock.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._wanted.wait(None if left is None else min(left, LONGEST_WAIT))
                if self._stopped:
                    return
                self._at = None
            try:
                following = self._act()
            except Exception:
                logger.exception("the broker failed to process expired or due messages; it tries again in 1 s")
                following = self._clock.monotonic() + 1.0
            if following is not None:
                self.set(following)
