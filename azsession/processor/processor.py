"""`SessionProcessor`: starting and stopping, from a program's main thread or any other."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

from .. import forks
from ..client.provider import ServiceBusProvider
from ..errors import ConfigurationError
from ..validation import seconds
from .options import Handler, OnError, OnSession, check_options
from .outcomes import ProcessorStats
from .slots import Slots

#: What stops a processor that runs in the main thread.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds after which a signal is seen that came just as the main thread fell asleep, where Python does not wake it.
LOOK_UP = 1.0
#: Seconds for threads to end whose sessions were taken from them.
LAST_MOMENTS = 1.0


class SessionProcessor:
    """Takes whatever sessions of a queue have messages, many at once, and calls a handler for each message, in order.

    The handler is called from as many threads as sessions are handled at once, but never twice at a time for one session.
    Where it returns, the message is completed; `DeadLetter` and `DeadLetterSession` say otherwise; after any other exception
    the message is given back, its session is released, and taken again after a pause. Needs a server of version 1, or Azure,
    except with `session_ids`.

    Args:
        provider: The way to the queue; it stays its owner's to close, after the processor was stopped.
        queue_name: The queue, or ``topic/subscriptions/name``.
        handler: Called with a message and its session.
        max_concurrent_sessions: Sessions handled at once, 1 to 1000.
        session_ids: Take only these sessions, in turns.
        max_messages_per_session: Messages after which a session is released, so that others get their turn.
        session_idle_timeout: Seconds to stay in a session that ran empty; 0 releases it at once.
        prefetch: Messages to fetch in one request, 1 to 1000.
        on_error: Called with an error, and with the session and the message that it is about, or `None`. By default errors
            are logged.
        max_renewal: Seconds after a session was taken at which its lock is renewed no more; `None` is never.
        on_session_opened: Called with a session before its first message is handled.
        on_session_closed: Called with the session after it was released.
        grace_period: Seconds that handlers get to finish when the processor is told to stop.

    Raises:
        ValidationError: An argument is out of its range.
    """

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue_name: str,
        handler: Handler,
        *,
        max_concurrent_sessions: int = 8,
        session_ids: Iterable[str] | None = None,
        max_messages_per_session: int | None = None,
        session_idle_timeout: float | timedelta = 0,
        prefetch: int = 10,
        on_error: OnError | None = None,
        max_renewal: float | timedelta | None = None,
        on_session_opened: OnSession | None = None,
        on_session_closed: OnSession | None = None,
        grace_period: float | timedelta = 30,
    ) -> None:
        if not isinstance(provider, ServiceBusProvider):
            raise ConfigurationError(f"a SessionProcessor needs a ServiceBusProvider, not {type(provider).__name__}")
        self._provider = provider
        self._options = check_options(
            queue_name=queue_name,
            handler=handler,
            max_concurrent_sessions=max_concurrent_sessions,
            session_ids=session_ids,
            max_messages_per_session=max_messages_per_session,
            session_idle_timeout=session_idle_timeout,
            prefetch=prefetch,
            on_error=on_error,
            max_renewal=max_renewal,
            on_session_opened=on_session_opened,
            on_session_closed=on_session_closed,
            grace_period=grace_period,
        )
        self._lock = threading.Lock()  # Guards _slots and _stats.
        self._slots: Slots | None = None
        self._stats = ProcessorStats()
        forks.register(self)

    def __repr__(self) -> str:
        state = "stopped" if self._slots is None else "stopping" if self._slots.stopping else "running"
        return f"<SessionProcessor of {self._options.queue_name!r}, {state}>"

    def __enter__(self) -> SessionProcessor:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop()
        except BaseException:
            # What went wrong in the block is the news.
            if error is None:
                raise

    @property
    def stats(self) -> ProcessorStats:
        """What was done since the last start."""
        with self._lock:
            return self._stats if self._slots is None else self._slots.stats()

    def run(self) -> None:
        """Process until told to stop. Blocks.

        In the main thread SIGTERM and SIGINT stop it: handlers finish what they have in hand within `grace_period`,
        everything else goes back, all sessions are released, and this returns. A second signal cuts the grace short.
        Elsewhere, or besides, `stop` does.

        Raises:
            QueueError: It cannot go on: there is no such queue, no right to it, or the provider was closed.
            KeyboardInterrupt: A handler raised it, and SystemExit likewise; the processor was stopped first.
        """
        slots, grace = self._new_slots(), 0.0
        try:
            # Before any handler can run: whoever sees one may send a signal.
            with _signals(slots.news) as came:
                slots.start()
                grace = self._options.grace_period
                self._watch(slots, came)
            grace = 0.0
        finally:
            self._finish(slots, grace)
        if slots.error is not None:
            raise slots.error

    def _watch(self, slots: Slots, came: list[int]) -> None:
        """Return when the slots has ended, or shall wait no longer."""
        deadline: float | None = None
        while not slots.done.is_set():
            if came and not slots.stopping:
                slots.begin_stop()
            if slots.stopping and deadline is None:
                deadline = time.monotonic() + self._options.grace_period
            left = LOOK_UP if deadline is None else min(LOOK_UP, deadline - time.monotonic())
            if len(came) > 1 or left <= 0:
                return
            try:
                slots.news.get(timeout=left)
            except queue.Empty:
                continue

    def start(self) -> None:
        """Process in the background until `stop`.

        Raises:
            ConfigurationError: It runs already, or the provider is closed.
        """
        slots = self._new_slots()
        try:
            slots.start()
        except BaseException:
            self._finish(slots, 0.0)
            raise

    def _new_slots(self) -> Slots:
        with self._lock:
            if self._slots is not None:
                raise ConfigurationError("the session processor runs already")
            self._slots = Slots(self._provider, self._options)
            return self._slots

    def stop(self, timeout: float | timedelta | None = None) -> bool:
        """Let handlers finish what they have in hand, send everything else back, and release all sessions. Idempotent.

        From a handler it only begins that, and returns at once.

        Args:
            timeout: Seconds to wait for handlers; by default `grace_period`. After it, sessions are released although their
                handlers still run: their messages go back, and cannot be completed any more.

        Returns:
            Whether all ended in time.

        Raises:
            QueueError: Why the processor ended before, by itself, as `run` does.
        """
        wait = self._options.grace_period if timeout is None else seconds(timeout, "timeout")
        slots = self._slots
        if slots is None:
            return True
        if slots.has_this_thread():
            slots.begin_stop()
            return False
        ended = self._finish(slots, wait)
        if slots.error is not None:
            raise slots.error
        return ended

    def _finish(self, slots: Slots, wait: float) -> bool:
        slots.begin_stop()
        ended = slots.done.wait(wait)
        if not ended:
            slots.let_go()
            slots.done.wait(LAST_MOMENTS)
        if slots.done.is_set():
            slots.join()
        with self._lock:
            if self._slots is slots:
                self._stats, self._slots = slots.stats(), None
        return ended

    def after_fork(self) -> None:
        """In a forked child: it does not run here, and can be started."""
        self._lock = threading.Lock()
        slots, self._slots = self._slots, None
        self._stats = ProcessorStats()
        if slots is not None:
            slots.after_fork()


@contextmanager
def _signals(news: queue.SimpleQueue[None]) -> Iterator[list[int]]:
    """Note signals, in the main thread; then have done with them what was done before."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        came.append(number)
        # Which, unlike a lock or an event, may be used by whoever was interrupted in using it.
        news.put(None)

    if threading.current_thread() is threading.main_thread():
        # Not in another interpreter than the main one.
        with suppress(ValueError):
            for number in SIGNALS:
                before[number] = signal.signal(number, note)
    try:
        yield came
    finally:
        for each, handler in before.items():
            # `None` is one that Python did not set, and cannot set again.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
