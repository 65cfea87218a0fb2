"""`Renewer`: the background threads that renew session locks. Each `ServerConnection` has one.

One thread sleeps until the next lock is due. It sends no request: it hands the lock to a worker thread, so that a slow
renewal does not delay another one. Workers are started when they are needed, and end when they are idle.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from typing import Protocol

from .. import interrupts, threads
from ..events import Event
from ..logs import SessionLogger, get_logger

logger: SessionLogger = get_logger(__name__)

#: The largest number of renewals at the same time.
MAX_WORKERS = 32
#: Seconds after which to try again if the system could not start a thread.
NO_THREAD_PAUSE = 0.1
#: Seconds after which to renew a lock again if its holder failed in a way that it does not handle itself.
FAILURE_PAUSE = 0.5


class Renewable(Protocol):
    """A session's holder, as the renewer sees it."""

    def renewal_due(self) -> float | None:
        """Return when to call `renew_in_background`, on the monotonic clock. `None`: never again."""

    def renew_in_background(self) -> float | None:
        """Renew the lock. Return when to come back. `None`: never again."""


class Renewer:
    """Renews the locks of the holders given to `watch`, until `renewal_due` returns `None`. Safe to use from many threads.

    It keeps no holder alive, so that a lock expires when its client was garbage-collected without being closed.
    """

    def __init__(self) -> None:
        self._workers: threads.Workers[weakref.ref[Renewable]] = threads.Workers(
            "azsession-renewer-worker", MAX_WORKERS, self._renew
        )
        self._reset()

    def _reset(self) -> None:
        # Guards all fields below. A signal handler may use the renewer while its thread holds the lock.
        self._lock = threading.RLock()
        #: Set when the first due time changes.
        self._changed = Event()
        self._due: list[tuple[float, int, weakref.ref[Renewable]]] = []
        #: When each holder in `_due` is due. Other entries of the holder are void.
        self._next: dict[weakref.ref[Renewable], float] = {}
        self._clean_at = 64
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def watch(self, holder: Renewable) -> None:
        """Renew the lock of a holder from now on. Call this again if the lock is due earlier than before."""
        due = holder.renewal_due()
        if due is not None:
            self._push(due, weakref.ref(holder))

    def _push(self, due: float, holder: weakref.ref[Renewable]) -> None:
        alive: list[Renewable | None] = []
        with self._lock:
            if self._stopped:
                return
            if len(self._due) >= self._clean_at:
                # Remove entries of holders that do not exist any more. `alive` can have the last reference to a holder: it is
                # released after the lock, because that can run other code.
                alive = [entry[2]() for entry in self._due]
                # Not with a condition in a comprehension, see `interrupts`.
                self._due = list(itertools.compress(self._due, (known is not None for known in alive)))
                heapq.heapify(self._due)
                self._next = {entry[2]: self._next.get(entry[2], entry[0]) for entry in self._due}
                self._clean_at = 2 * len(self._due) + 64
            if self._next.get(holder, due) < due:
                return  # When it is due, the renewer asks the holder again.
            self._next[holder] = due
            first = not self._due or due < self._due[0][0]
            heapq.heappush(self._due, (due, next(self._order), holder))
        if first:
            self._changed.set()
        self._start()

    def ensure_thread(self) -> None:
        """Start the thread if the system could not start it before."""
        if self._thread is None and self._due:
            self._start()

    def _start(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="azsession-renewer", daemon=True)
        try:
            threads.start(thread)
        except RuntimeError as error:  # There are too many threads, or the interpreter is exiting.
            logger.warning("session locks are not renewed until the system can start another thread: %s", error)

    def _run(self) -> None:
        with self._lock:
            if self._thread is not None:  # Two threads, or one that was interrupted, started this one.
                return
            self._thread = threading.current_thread()
        while True:
            self._changed.clear()
            with self._lock:
                if self._stopped:
                    return
                left = self._due[0][0] - time.monotonic() if self._due else None
                holder = self._pop() if left is not None and left <= 0 else None
            if left is None or left > 0:
                # On Windows a thread can wait for at most 49 days.
                self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            if holder is None:
                continue
            try:
                self._hand_to_worker(holder)
            except Exception:
                logger.exception("a session lock could not be handed to a thread that renews it")
                self._push(time.monotonic() + FAILURE_PAUSE, holder)

    def _pop(self) -> weakref.ref[Renewable] | None:
        """Remove the first entry, and return its holder if the entry is not void. The caller holds `_lock`."""
        due, _, holder = heapq.heappop(self._due)
        if self._next.get(holder) != due:
            return None
        del self._next[holder]
        return holder

    def _hand_to_worker(self, holder: weakref.ref[Renewable]) -> None:
        """Hand a holder to a worker if it is still due. A receive can have extended its lock."""
        known = holder()
        due = None if known is None else known.renewal_due()
        del known
        if due is None:
            return
        if due > time.monotonic():
            self._push(due, holder)
            return
        if not self._workers.put(holder):
            self._push(time.monotonic() + NO_THREAD_PAUSE, holder)

    def _renew(self, holder: weakref.ref[Renewable]) -> None:
        known = holder()
        if known is None:
            return
        try:
            due = known.renew_in_background()
        except BaseException:
            # For example, SystemExit of `on_lock_lost`, or an error of a hook. Neither may end the worker or the renewal.
            logger.exception("a session lock could not be renewed yet")
            due = time.monotonic() + FAILURE_PAUSE if known.renewal_due() is not None else None
        finally:
            del known
        if due is not None:
            self._push(due, holder)

    def stop(self) -> None:
        """Stop all threads, and wait for them. Closing a client cancels its renewal. Can be repeated after an interrupt.

        A signal handler that interrupted a call does not wait: the threads can need a lock that the call holds.
        """
        running = self.dismiss()
        if interrupts.has_interrupted_us():
            return
        for thread in running:
            if thread is not threading.current_thread():
                thread.join()

    def dismiss(self) -> list[threading.Thread]:
        """Tell all threads to stop. Return them."""
        with self._lock:
            self._stopped = True
            self._due.clear()
            self._next.clear()
            self._changed.set()
            return [*self._workers.dismiss(), *([self._thread] if self._thread is not None else [])]

    def after_fork(self) -> None:
        """In a forked child: start without threads and holders. The parent goes on renewing its locks."""
        self._workers.after_fork()
        self._reset()
