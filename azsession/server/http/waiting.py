"""Waits in an event loop for the result of the broker, and watches meanwhile whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ...errors import ProviderError
from ...protocol.error_codes import SERVER_BUSY
from .asgi import ClientGoneError

T = TypeVar("T")


async def result_of(
    future: Future[T], watch: Callable[[Callable[[], None] | None], None] | None, *, patience: float | None = None
) -> T:
    """Return the result of a future that any thread can resolve.

    Args:
        future: The future.
        watch: Calls a function if the client goes away; called with `None` to end that. The operation is withdrawn then.
            `None` waits for the result although the client goes away.
        patience: Seconds to wait at most; `None` for any time.

    Raises:
        QueueError: The operation failed.
        ClientGoneError: The client went away. The future is done or will be soon; it may have a result.
        ProviderError: The time is over.
        CancelledError: This task was cancelled. The operation is withdrawn if that is still possible.
    """
    if future.done():
        return future.result()
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def on_gone() -> None:
        future.cancel()
        _end(over, ClientGoneError())

    future.add_done_callback(partial(_wake_up, loop, over))
    timer = None
    if patience is not None:
        busy = ProviderError("the broker did not answer in time", code=SERVER_BUSY, is_transient=True)
        timer = loop.call_later(patience, _end, over, busy)
    if watch is not None:
        watch(on_gone)
    try:
        await over
    except asyncio.CancelledError:
        future.cancel()
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if watch is not None:
            watch(None)
    return future.result()


def _wake_up(loop: asyncio.AbstractEventLoop, over: asyncio.Future[None], _: Future[Any]) -> None:
    """End a wait from any thread. A broker can keep a future, and with it this callback, longer than its request."""
    with suppress(RuntimeError):  # The loop is closed already.
        loop.call_soon_threadsafe(_end, over, None)


def _end(over: asyncio.Future[None], error: Exception | None) -> None:
    if over.done():
        return
    if error is None:
        over.set_result(None)
    else:
        over.set_exception(error)
