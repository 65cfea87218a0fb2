"""The gateway's worker threads: started when a request finds none free, ended when they were idle for a while.

`GatewayServer` hands connections with a whole request head to them. The thread that became idle last is used first, so that
after a burst the others are idle long enough to end.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from cheroot import wsgi
from cheroot.workers import threadpool

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds after which an idle thread ends.
THREAD_IDLE = 15.0
#: Requests that wait for a thread at most.
MAX_QUEUED = 1024


class _Place:
    """A thread that waits for a connection."""

    __slots__ = ("conn", "filled", "thread")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.conn: Any = None
        self.filled = threading.Lock()
        self.filled.acquire()

    def fill(self, conn: Any) -> None:
        self.conn = conn
        self.filled.release()


class Threads(threadpool.ThreadPool):  # type: ignore[misc]
    """The threads, up to `most`."""

    def __init__(self, server: wsgi.Server, most: int) -> None:
        super().__init__(server, min=1, max=most)
        self._counting = threading.Lock()  # Guards _threads and what follows.
        self._idle: list[_Place] = []
        self._waiting: deque[Any] = deque()
        #: Threads that were started and have not come for their first connection yet.
        self._coming = 0
        self._stopping = False
        self.get: Callable[[], Any] = self._next

    def start(self) -> None:
        """Start none yet."""

    def put(self, obj: Any) -> bool:
        """Have a thread serve this connection, soon; tell whether there is room for it."""
        with self._counting:
            if self._idle:
                self._idle.pop().fill(obj)
                return True
            if len(self._waiting) >= self._coming + MAX_QUEUED:
                return False
            self._waiting.append(obj)
            if len(self._waiting) <= self._coming or len(self._threads) >= self.max or self._stopping:
                return True
            try:
                self._threads.append(self._spawn_worker())
                self._coming += 1
                return True
            except RuntimeError:
                number = len(self._threads)
                if not number:
                    # Nobody would come for it.
                    self._waiting.pop()
        logger.warning("this machine gives no more threads: requests wait for one of the %d", number)
        return number > 0

    def _spawn_worker(self) -> Any:
        worker = _Worker(self.server)
        worker.name = f"CP Server {worker.name}"
        worker.start()
        return worker

    def _next(self) -> Any:
        """Return the next connection for this thread, or what ends it. Blocks."""
        thread = threading.current_thread()
        with self._counting:
            if isinstance(thread, _Worker) and not thread.has_come:
                thread.has_come = True
                self._coming -= 1
            if self._waiting:
                return self._waiting.popleft()
            if self._stopping:
                return threadpool._SHUTDOWNREQUEST
            place = _Place()
            self._idle.append(place)
        if not place.filled.acquire(timeout=THREAD_IDLE):
            with self._counting:
                if place.conn is None:
                    self._idle.remove(place)
                    self._threads.remove(thread)
                    return threadpool._SHUTDOWNREQUEST
        return place.conn

    def stop(self, timeout: float = 5) -> None:
        """Serve what waits, and end all threads."""
        with self._counting:
            self._stopping = True
            for place in self._idle:
                place.fill(threadpool._SHUTDOWNREQUEST)
            self._idle.clear()
            if not self._threads:
                for conn in self._waiting:
                    conn.close()
                self._waiting.clear()
        super().stop(timeout)


class _Worker(threadpool.WorkerThread):  # type: ignore[misc]
    has_come = False

    def run(self) -> None:
        try:
            super().run()
        finally:
            # cheroot keeps figures of every thread that there ever was.
            self.server.stats["Worker Threads"].pop(self.name, None)
