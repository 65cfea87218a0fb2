"""The threads of a running processor: they are started, counted and joined here. `Slots` decides what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SlotThreads:
    """Threads that end by themselves. Thread-safe.

    Args:
        failed: Called with the exception of a thread's work, in this thread.
        ended: Called when no thread is left, in the last one.

    Attributes:
        started: How many threads were started.
    """

    def __init__(self, failed: Callable[[BaseException], object], ended: Callable[[], object]) -> None:
        self._failed = failed
        self._ended = ended
        self._lock = threading.Lock()  # Guards all fields below.
        self._threads: list[threading.Thread] = []
        #: Number of live threads. The caller counts as one until `release`: another thread may stop the slots meanwhile.
        self._alive = 1
        self.started: int = 0

    def start(self, work: Callable[[], object]) -> threading.Thread:
        """Start a thread.

        Raises:
            RuntimeError: The system has no more threads, or the interpreter is shutting down.
        """
        with self._lock:
            self.started += 1
            # Threads of parked sessions end early, so forget those that have ended.
            self._threads = list(filter(lambda each: each.ident is None or each.is_alive(), self._threads))
            name = f"azsession-processor-{self.started}"
            thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
            self._alive += 1
            self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._alive -= 1
                self._threads.remove(thread)
            raise
        return thread

    def release(self) -> None:
        """Note that the caller, or a thread, has ended."""
        with self._lock:
            self._alive -= 1
            is_last = self._alive == 0
        if is_last:
            self._ended()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._failed(error)
        finally:
            self.release()

    def join(self) -> None:
        """Wait for the threads, all of which have finished their work."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def owns_current_thread(self) -> bool:
        """Tell whether the calling thread is one of these threads."""
        return threading.current_thread() in self._threads

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
