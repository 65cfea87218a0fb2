"""The embedded broker's one thread: it sleeps until something is due, an expired lock or a scheduled message."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ..clock import Clock

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds of one wait at the most: a message may have thousands of years to live, which no wait can be told.
LONGEST_WAIT = 86400.0


class Timer:
    """Calls `act` when its time has come; `act` returns when to be called next, or `None`. The thread starts when needed."""

    def __init__(self, act: Callable[[], float | None], clock: Clock) -> None:
        self._act = act
        self._clock = clock
        self._wanted = threading.Condition()  # Guards _at, _stopped and _thread.
        self._at: float | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set(self, at: float) -> None:
        """Be called at `at`, on the monotonic clock, or earlier."""
        with self._wanted:
            if self._stopped or (self._at is not None and self._at <= at):
                return
            self._at = at
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="azsession-broker-timer", daemon=True)
                self._thread.start()
            self._wanted.notify()

    def stop(self) -> None:
        """End the thread."""
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
                logger.exception("the broker could not do what was due; it tries again in a second")
                following = self._clock.monotonic() + 1.0
            if following is not None:
                self.set(following)
