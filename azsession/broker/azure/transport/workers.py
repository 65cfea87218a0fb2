"""Threads for work that blocks: opening a stream, fetching a token, encoding and decoding many messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from ....errors import ProviderError, QueueError
from ....futures import Future
from ....protocol.error_codes import SERVER_BUSY
from .loop import Loop

T = TypeVar("T")


@attrs.frozen
class _Job:
    work: Callable[[], Any]
    future: Future[Any]
    unused: Callable[[Any], object] | None


class Workers:
    """Runs blocking jobs, each in a thread of its own, a limited number at a time. For the loop's thread.

    The threads are daemons: a job that hangs, for example in a credential, does not keep the process from its end.

    Args:
        loop: The loop whose coroutines wait for the jobs.
        name: The name of the threads.
        limit: The most threads at a time. Further jobs wait for their turn.
    """

    def __init__(self, loop: Loop, name: str, limit: int) -> None:
        self._loop = loop
        self._name = name
        self._limit = limit
        self._running = 0
        self._waiting: deque[_Job] = deque()

    def run(self, work: Callable[[], T], unused: Callable[[T], object] | None = None) -> Future[T]:
        """Run a job in a thread. The future is resolved in the loop's thread.

        Args:
            work: What the thread runs.
            unused: Called in the thread with the result if the loop was closed meanwhile.

        Raises:
            ProviderError: No thread can be started.
        """
        future: Future[T] = Future()
        job = _Job(work, future, unused)
        if self._running < self._limit:
            self._start(job)
        else:
            self._waiting.append(job)
        return future

    def _start(self, job: _Job) -> None:
        try:
            threading.Thread(target=self._run, args=(job,), name=self._name, daemon=True).start()
        except RuntimeError as error:
            raise ProviderError(f"no thread can be started: {error}", code=SERVER_BUSY, status=503) from error
        self._running += 1

    def _run(self, job: _Job) -> None:
        try:
            result, failure = job.work(), None
        except BaseException as error:
            result, failure = None, error

        def resolve() -> None:
            self._on_end()
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)

        try:
            self._loop.call(resolve)
        except QueueError:
            # The loop was closed, which ended the coroutines that waited.
            if failure is None and job.unused is not None:
                job.unused(result)

    def _on_end(self) -> None:
        self._running -= 1
        if self._waiting:
            job = self._waiting.popleft()
            try:
                self._start(job)
            except ProviderError as error:
                job.future.set_exception(error)
