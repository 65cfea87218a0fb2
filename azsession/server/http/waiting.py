"""Waits in an event loop for the result of the broker, and watches meanwhile whether the client is still there."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from .asgi import Connection, Receive
from .body import ClientGoneError

T = TypeVar("T")

#: Seconds of a wait after which the events of ASGI are watched. Most waits are shorter, and watching costs a task.
WATCH_AFTER = 0.02


class Wait:
    """The wait of one request for one future.

    Args:
        future: The future. It can be resolved by any thread.
        receive: Returns the next event of the request.
        connection: The connection of the request.
    """

    def __init__(self, future: Future[Any], receive: Receive, connection: Connection) -> None:
        self._future = future
        self._connection = connection
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._watcher: asyncio.Task[None] | None = None
        self._is_gone = False

    async def run(self, *, watch: bool, patience: float | None) -> None:
        """Return when the future is done.

        Args:
            watch: Whether the operation is withdrawn when the client goes away.
            patience: Seconds to wait at most; `None` for any time.

        Raises:
            ClientGoneError: The client went away. The future is done or will be soon; it may have a result.
            TimeoutError: The time is over.
            CancelledError: This task was cancelled. The operation is withdrawn if that is still possible.
        """
        if self._future.done():
            return
        self._future.add_done_callback(partial(_wake_up, self._loop, self._over))
        timers = []
        if watch and not self._connection.watch(self._on_gone):
            timers.append(self._loop.call_later(WATCH_AFTER, self._start_watcher))
        if patience is not None:
            timers.append(self._loop.call_later(patience, _end, self._over, TimeoutError()))
        try:
            await self._over
        except asyncio.CancelledError:
            self._future.cancel()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            self._connection.watch(None)
        if self._is_gone:
            raise ClientGoneError

    def _start_watcher(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_gone()

    def _on_gone(self) -> None:
        self._is_gone = True
        self._future.cancel()
        _end(self._over, None)


def _wake_up(loop: asyncio.AbstractEventLoop, over: asyncio.Future[None], _: Future[Any]) -> None:
    """End a wait from any thread. A broker can keep a future, and with it this callback, longer than its request."""
    with contextlib.suppress(RuntimeError):  # The loop is closed already.
        loop.call_soon_threadsafe(_end, over, None)


def _end(over: asyncio.Future[None], error: BaseException | None) -> None:
    if over.done():
        return
    if error is None:
        over.set_result(None)
    else:
        over.set_exception(error)


async def has_left(receive: Receive) -> bool:
    """Return whether the server has noticed by now that the client went away. For a request whose body is read."""
    watcher = asyncio.ensure_future(_disconnect(receive))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if not watcher.done():
        watcher.cancel()
        return False
    return watcher.exception() is None


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
