"""The thread in which the embedded broker makes its log records. `EventLog` passes them to it.

A log handler can block, for example on a full pipe. The thread that leads must not wait for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ... import threads
from ...logs import SessionLogger, get_logger

logger: SessionLogger = get_logger(__name__)

#: Records that wait for the thread at most. Further ones are left out, and counted.
MAX_WAITING = 10_000
#: Idle seconds after which the thread ends.
IDLE_SECONDS = 2.0
#: Seconds for which `close` waits for the last records.
CLOSING_SECONDS = 5.0


class LogThread:
    """Makes log records in their order. The thread starts with the first record, and ends when it has been idle."""

    def __init__(self) -> None:
        #: The functions that make the records. `None` wakes the thread.
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.RLock()  # Guards the following fields. Not held while a record is made.
        self._thread: threading.Thread | None = None
        self._left_out = 0
        #: Becomes `True` once.
        self._closed = False

    def submit(self, record: Callable[[], object]) -> None:
        """Have a record made. This does not wait for it. Only the leading thread calls this."""
        with self._lock:
            if self._waiting.qsize() >= MAX_WAITING:
                self._left_out += 1
                return
            self._waiting.put(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="azsession-broker-log", daemon=True)
            thread = self._thread
        if thread.ident is None:
            # If the process cannot start a thread now, the record waits for the next one.
            with suppress(RuntimeError):
                threads.start(thread)

    def close(self) -> None:
        """Wait until the records are made, for up to `CLOSING_SECONDS`. Idempotent."""
        self._closed = True
        self._waiting.put(None)
        thread = self._thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        is_idle = False
        while not (is_idle and self._ends()):
            try:
                record = self._waiting.get(timeout=0.0 if self._closed else IDLE_SECONDS)
            except Empty:
                is_idle = True
                continue
            is_idle = False
            if record is not None:
                _make(record)
            self._report_left_out()

    def _ends(self) -> bool:
        with self._lock:
            if self._waiting.empty():
                self._thread = None
            return self._thread is None

    def _report_left_out(self) -> None:
        with self._lock:
            count, self._left_out = self._left_out, 0
        if count:
            logger.warning("%d log records of the broker were left out, because a log handler is too slow", count)


def _make(record: Callable[[], object]) -> None:
    try:
        record()
    except BaseException:
        # The thread goes on also after a `SystemExit` of a log handler. Python shows the error as if it had ended the thread.
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
