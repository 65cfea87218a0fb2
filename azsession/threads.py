"""Starts threads so that an exception of a signal handler does no damage, and `Workers`: threads that end when idle."""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .events import Event

T = TypeVar("T")

#: Seconds after which an idle worker ends.
WORKER_IDLE = 2.0


def start(thread: threading.Thread) -> None:
    """Start a thread. Blocks until it has started. After an interrupt, it starts nevertheless.

    `threading.Thread.start` is not safe against exceptions of signal handlers: the new thread can hang at its start, and the
    exception can become a `KeyError`. Handlers run in the main thread only, so another thread makes the call.

    Raises:
        RuntimeError: The process cannot start another thread.
    """
    if threading.get_ident() != threading.main_thread().ident:
        thread.start()
        return
    errors: list[BaseException] = []
    done = Event()

    def work() -> None:
        try:
            thread.start()
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    _thread.start_new_thread(work, ())
    done.wait()
    if errors:
        raise errors[0]


class Workers(Generic[T]):
    """Threads that work on items. They start when they are needed, and end when they are idle. Safe to use from many threads.

    Args:
        name: The name of the threads.
        limit: The largest number of threads.
        work: Called with each item. It must not raise.
    """

    def __init__(self, name: str, limit: int, work: Callable[[T], object]) -> None:
        self._name = name
        self._limit = limit
        self._work = work
        self._reset()

    def _reset(self) -> None:
        # Guards all fields below. A signal handler may use the workers while its thread holds the lock.
        self._lock = threading.RLock()
        #: The items that wait. An empty tuple ends the worker that takes it.
        self._items: queue.SimpleQueue[tuple[T] | tuple[()]] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        #: The number of items that wait or are being worked on.
        self._outstanding = 0
        self._stopped = False

    def put(self, item: T) -> bool:
        """Have a worker take an item. Return whether one will: not after `dismiss`, or if no thread can be started."""
        with self._lock:
            if self._stopped or not self._has_worker():
                return False
            self._outstanding += 1
            self._items.put((item,))
            return True

    def _has_worker(self) -> bool:
        """Start a worker for one more item if needed. Return whether there is any. The caller holds `_lock`."""
        if len(self._threads) < min(self._outstanding + 1, self._limit):
            worker = threading.Thread(target=self._serve, name=self._name, daemon=True)
            try:
                start(worker)
            except RuntimeError:
                return bool(self._threads)
            self._threads.add(worker)
        return True

    def _serve(self) -> None:
        # The caller of `start` can have been interrupted before it added the thread.
        self._threads.add(threading.current_thread())
        while True:
            try:
                item = self._items.get(timeout=WORKER_IDLE)
            except queue.Empty:
                with self._lock:
                    if not self._items.empty():
                        continue
                    self._threads.discard(threading.current_thread())
                    return
            if not item:
                return
            try:
                self._work(item[0])
            finally:
                del item
                with self._lock:
                    self._outstanding -= 1

    def dismiss(self) -> list[threading.Thread]:
        """Tell the threads to end after the items that wait, and refuse further items. Return the threads. Idempotent."""
        with self._lock:
            self._stopped = True
            for _ in self._threads:
                self._items.put(())
            return list(self._threads)

    def after_fork(self) -> None:
        """In a forked child: start without threads and items. The parent goes on with its own."""
        self._reset()
