"""The threads of a running processor: they are started, counted and joined here. `Slots` decides what they do."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .. import interrupts, threads


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
        #: The threads that work, or were started to do so, and those of them that have begun.
        self._counted: set[threading.Thread] = set()
        self._begun: set[threading.Thread] = set()
        #: Whether `release` is still to come: another thread may stop the slots meanwhile.
        self._has_caller = True
        self.started: int = 0

    def start(self, work: Callable[[], object]) -> threading.Thread:
        """Start a thread. After an interrupt, it works or not, and counts only if it works.

        Raises:
            RuntimeError: The system has no more threads, or the interpreter is shutting down.
        """
        with self._lock:
            self.started += 1
            # Threads of parked sessions end early, so forget those that have ended.
            self._threads = list(filter(lambda each: each.ident is None or each.is_alive(), self._threads))
            name = f"azsession-processor-{self.started}"
            thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
            self._threads.append(thread)
        try:
            self._counted.add(thread)
            threads.start(thread)
        except BaseException:
            interrupts.persist(lambda: self._withdraw(thread))
            raise
        return thread

    def _withdraw(self, thread: threading.Thread) -> None:
        """Count a thread no more that has not begun. It does not work then, even if it starts later."""
        with self._lock:
            if thread not in self._begun:
                self._counted.discard(thread)

    def release(self) -> None:
        """Note that the caller starts no other thread. After an interrupt, a second call continues."""
        with self._lock:
            self._has_caller = False
            is_last = not self._counted
        if is_last:
            self._ended()

    def _run(self, work: Callable[[], object]) -> None:
        thread = threading.current_thread()
        with self._lock:
            if thread not in self._counted:
                return
            self._begun.add(thread)
        try:
            work()
        except BaseException as error:
            self._failed(error)
        finally:
            with self._lock:
                self._counted.discard(thread)
                self._begun.discard(thread)
                is_last = not self._counted and not self._has_caller
            if is_last:
                self._ended()

    def join(self) -> None:
        """Wait for the threads, all of which have finished their work."""
        with self._lock:
            started = list(filter(lambda each: each.ident is not None, self._threads))
        for thread in started:
            if thread is not threading.current_thread():
                thread.join()

    def owns_current_thread(self) -> bool:
        """Tell whether the calling thread is one of these threads."""
        return threading.current_thread() in self._threads

    def after_fork(self) -> None:
        """Replace the lock in a forked child, because another thread of the parent may have held it."""
        self._lock = threading.Lock()
