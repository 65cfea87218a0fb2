"""The embedded broker's only thread. It runs jobs whose callers do not wait for them, and acts when something is due.

`Core` starts it when it is first needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ... import threads
from ...errors import ProviderError
from ...logs import SessionLogger, get_logger
from ...protocol.error_codes import SERVER_BUSY
from ..clock import Clock

logger: SessionLogger = get_logger(__name__)

#: The longest single wait in seconds. A time to live can exceed the longest timeout that `SimpleQueue.get` accepts.
LONGEST_WAIT = 86400.0


class BrokerThread:
    """A thread that leads when the lead is passed to it, and that calls a function at a requested time.

    Args:
        lead: Runs queued jobs; called after each `wake`.
        act: Called when a requested time has come. It must not block.
        clock: The source of time.
    """

    def __init__(self, lead: Callable[[], None], act: Callable[[], None], clock: Clock) -> None:
        self._lead = lead
        self._act = act
        self._clock = clock
        #: An item wakes the thread. It is put before a change, so that an interrupt between both loses no change.
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._lock = threading.RLock()  # Guards the following two fields.
        self._at: float | None = None
        self._leads = False
        #: Becomes `True` once.
        self._stopped = False
        #: The thread that runs. The first one that starts sets it.
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs.

        Raises:
            ProviderError: The process cannot start another thread.
        """
        if self._thread is not None or self._stopped:
            return
        try:
            # Without the lock, like `stop`. Of two threads that start here, or after an interrupt, the first one runs.
            threads.start(threading.Thread(target=self._run, name="azsession-broker", daemon=True))
        except RuntimeError as error:
            raise ProviderError(f"the broker {error}", code=SERVER_BUSY, is_transient=True) from error

    def wake(self) -> None:
        """Pass the lead to the thread."""
        with self._lock:
            self._signals.put(None)
            self._leads = True

    def act_at(self, at: float) -> None:
        """Request a call of `act` at `at` on the monotonic clock. If an earlier call is requested already, that one stays.

        If the earlier call is overdue, the thread is woken: a clock that a test sets forward does not end the thread's wait.
        """
        with self._lock:
            if self._stopped or (self._at is not None and self._at <= at and not self._is_due()):
                return
            self._signals.put(None)
            self._at = at if self._at is None else min(at, self._at)
        self.start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        # Without the lock: a signal handler may interrupt this, and stop the thread itself.
        self._stopped = True
        self._signals.put(None)
        thread = self._thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.current_thread()
        while True:
            with self._lock:
                due, leads, stopped = self._is_due(), self._leads, self._stopped
                self._leads = False
                if due:
                    self._at = None
                left = self._seconds_left()
            try:
                if due:
                    self._act()
                if leads:
                    self._lead()
            except Exception:
                logger.exception("the broker's thread failed to run an operation")
            if not (due or leads):
                if stopped:
                    return
                with suppress(Empty):
                    self._signals.get(timeout=left)

    def _is_due(self) -> bool:
        return not self._stopped and self._at is not None and self._at <= self._clock.monotonic()

    def _seconds_left(self) -> float | None:
        return None if self._at is None else min(LONGEST_WAIT, max(0.0, self._at - self._clock.monotonic()))
