"""Waits in the event loop for the broker. Nothing that the broker gave is lost if the client goes away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from ...broker.calls import CallContext

T = TypeVar("T")

#: The context of every call: the event loop never waits for the broker.
CONTEXT = CallContext(blocking=False, encoded=True)


class WithdrawnError(Exception):
    """The operation was withdrawn, and has no result."""


async def result_of(future: Future[T], give_back: Callable[[T], object] | None = None) -> T:
    """Return the result of a broker's operation.

    If the waiting task is cancelled, the operation is withdrawn. If it has taken effect already, `give_back` gets its
    result, in any thread.

    Raises:
        QueueError: The operation failed.
        WithdrawnError: Somebody cancelled the future.
        asyncio.CancelledError: The task was cancelled.
    """
    if not future.done():
        over = asyncio.Event()
        when_done(future, lambda _: over.set())
        try:
            await over.wait()
        except asyncio.CancelledError:
            withdraw(future, give_back)
            raise
    if future.cancelled():
        raise WithdrawnError
    return future.result()


def withdraw(future: Future[T], give_back: Callable[[T], object] | None) -> None:
    """Withdraw an operation. If it has taken effect already, `give_back` gets its result, in any thread."""
    if not future.cancel() and give_back is not None:
        future.add_done_callback(lambda done: _give_back(done, give_back))


def _give_back(future: Future[T], give_back: Callable[[T], object]) -> None:
    if not future.cancelled() and future.exception() is None:
        give_back(future.result())


def when_done(future: Future[T], call: Callable[[Future[T]], object]) -> None:
    """Call a function in the running event loop when a future is done."""
    loop = asyncio.get_running_loop()

    def done(finished: Future[T]) -> None:
        with suppress(RuntimeError):  # The loop is closed already.
            loop.call_soon_threadsafe(call, finished)

    future.add_done_callback(done)
