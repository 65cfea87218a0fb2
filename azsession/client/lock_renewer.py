"""The background thread that renews session locks: one for each provider, asleep until the next lock is due.

The thread itself makes no request: it hands locks that are due to a few workers, started as they are needed and gone when
they are not, so that one slow renewal does not make another late.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
import weakref
from typing import Protocol

logger: logging.Logger = logging.getLogger(__name__)

#: Renewals under way at once.
MAX_WORKERS = 32
#: Seconds after which a worker without work ends.
WORKER_IDLE = 2.0
#: Seconds after which another try is made to start the first worker, where the system gave no thread.
NO_THREAD_PAUSE = 0.1


class Renewable(Protocol):
    """A session client, as the renewer sees it."""

    def renewal_due(self) -> float | None:
        """Return when to call `renew_in_background`, on the monotonic clock; `None` is never again."""

    def renew_in_background(self) -> float | None:
        """Renew the lock; return when to come back."""


class Renewer:
    """Renews the locks of the clients given to `watch`, until they say that there is nothing more to do.

    It holds no client alive: one that was forgotten is not renewed any more.
    """

    def __init__(self) -> None:
        self._wanted = threading.Condition()  # Guards all that follows.
        self._due: list[tuple[float, int, weakref.ref[Renewable]]] = []
        self._clear_out_at = 64
        self._tie = itertools.count()
        self._work: queue.SimpleQueue[weakref.ref[Renewable] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._workers: set[threading.Thread] = set()
        self._outstanding = 0
        self._stopped = False

    def watch(self, client: Renewable) -> None:
        """Renew a client's lock from now on."""
        due = client.renewal_due()
        if due is not None:
            self._push(due, weakref.ref(client))

    def _push(self, due: float, client: weakref.ref[Renewable]) -> None:
        alive: list[Renewable | None] = []
        with self._wanted:
            if self._stopped:
                return
            if len(self._due) >= self._clear_out_at:
                # Those that are gone would stay until they had been due. Who is let go by `alive` may be the last to hold a
                # client, so that this happens without the lock.
                alive = [entry[2]() for entry in self._due]
                self._due = [entry for entry, known in zip(self._due, alive, strict=True) if known is not None]
                heapq.heapify(self._due)
                self._clear_out_at = 2 * len(self._due) + 64
            first = not self._due or due < self._due[0][0]
            heapq.heappush(self._due, (due, next(self._tie), client))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="azsession-renewer", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # Too many threads, or the interpreter ends.
                    logger.warning("session locks are not renewed: %s", error)
                    return
                self._thread = thread
            elif first:
                self._wanted.notify()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not self._stopped:
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    if left is not None and left <= 0:
                        break
                    # On Windows a thread can wait for 49 days at the most, less than a lock may last.
                    self._wanted.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                if self._stopped:
                    return
                _, _, client = heapq.heappop(self._due)
            self._look_at(client)

    def _look_at(self, client: weakref.ref[Renewable]) -> None:
        """Hand a client to a worker if it is due; it may have been refreshed by a receive meanwhile."""
        known = client()
        due = None if known is None else known.renewal_due()
        del known
        if due is None:
            return
        if due > time.monotonic():
            self._push(due, client)
            return
        with self._wanted:
            if self._stopped:
                return
            if self._has_worker():
                self._outstanding += 1
                self._work.put(client)
                return
        self._push(time.monotonic() + NO_THREAD_PAUSE, client)

    def _has_worker(self) -> bool:
        """See that there is a worker for one more renewal, with the lock held; there may be no thread to be had."""
        if len(self._workers) < min(self._outstanding + 1, MAX_WORKERS):
            worker = threading.Thread(target=self._serve, name="azsession-renewer-worker", daemon=True)
            try:
                worker.start()
            except RuntimeError:
                return bool(self._workers)
            self._workers.add(worker)
        return True

    def _serve(self) -> None:
        while True:
            try:
                client = self._work.get(timeout=WORKER_IDLE)
            except queue.Empty:
                with self._wanted:
                    if not self._work.empty():
                        continue
                    self._workers.discard(threading.current_thread())
                    return
            if client is None:
                return
            self._renew(client)
            with self._wanted:
                self._outstanding -= 1

    def _renew(self, client: weakref.ref[Renewable]) -> None:
        known = client()
        if known is None:
            return
        try:
            due = known.renew_in_background()
        except (Exception, SystemExit):  # The latter from `on_lock_lost`: it would end the worker, not the program.
            logger.exception("a session lock could not be renewed")
            return
        finally:
            del known
        if due is not None:
            self._push(due, client)

    def stop(self) -> None:
        """End all threads. A renewal under way is waited for; its client's `close` cuts it short."""
        for thread in self.dismiss():
            if thread is not threading.current_thread():
                thread.join()

    def dismiss(self) -> list[threading.Thread]:
        """Tell all threads to end; return them."""
        with self._wanted:
            self._stopped = True
            self._due.clear()
            self._wanted.notify()
            for _ in self._workers:
                self._work.put(None)
            return [*self._workers, *([self._thread] if self._thread is not None else [])]

    def after_fork(self) -> None:
        """In a forked child: there are no threads, and nothing to renew; the parent goes on renewing its own."""
        self.__init__()  # type: ignore[misc]
