"""`SessionProcessor`: its constructor, and how it starts and stops."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import attrs

from .. import forks
from ..client.provider import ServiceBusProvider
from ..client.session import SessionClient
from ..client.uncopied import refuse_copies
from ..errors import ConfigurationError
from ..messages import ReceivedMessage
from ..validation import seconds
from .handler_times import HandlerDurations, HandlerTimes
from .options import ProcessorOptions
from .outcomes import ProcessorStats
from .slots import Slots

#: Signals that stop `SessionProcessor.run` in the main thread. Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
#: Seconds between two looks for a signal. On some systems, a signal does not wake a main thread that just began to wait.
SIGNAL_POLL = 1.0
#: Seconds that threads get to end after their sessions were released.
LAST_WAIT = 1.0


class _Lifecycle:
    """The slots of a processor while it runs, and the stats of the previous run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards slots and _stats.
        self.slots: Slots | None = None
        self._stats = ProcessorStats()
        forks.register(self)

    def begin(self, slots: Slots) -> None:
        """Note the slots of a run. Raise `ConfigurationError` if the processor is running."""
        with self._lock:
            if self.slots is not None:
                raise ConfigurationError("the session processor is already running")
            self.slots = slots

    def end(self, slots: Slots) -> None:
        """Forget the slots and keep their stats."""
        with self._lock:
            if self.slots is slots:
                self._stats, self.slots = slots.stats(), None

    def stats(self) -> ProcessorStats:
        with self._lock:
            return self._stats if self.slots is None else self.slots.stats()

    def after_fork(self) -> None:
        """Stop in a forked child, where the processor can be started again. The parent's sessions stay the parent's."""
        self._lock = threading.Lock()
        slots, self.slots = self.slots, None
        self._stats = ProcessorStats()
        if slots is not None:
            slots.after_fork()


@refuse_copies("make one for each process")
class SessionProcessor:
    """Handles the messages of many sessions at once: in order within a session, one message at a time.

    It takes sessions that have messages, renews their locks and calls a handler for each message:

    * If the handler returns, the message is completed, unless the handler has settled it.
    * If the handler raises `DeadLetter` or `DeadLetterSession`, the message, or the rest of the session, is dead-lettered.
    * If the handler raises another exception, the message is abandoned, the session is released and `on_error` is called.
      The processor takes the session again after a pause. No later message of the session overtakes the failed one.

    The handler runs in one thread for each session that is handled at the moment.

        >>> import queue
        >>> from azsession import Message, ServiceBusProvider, SessionProcessor
        >>> handled = queue.Queue()
        >>> def handle(message, session):
        ...     handled.put((session.session_id, message.text()))
        >>> with ServiceBusProvider.embedded() as provider:
        ...     _ = provider.send_message("orders", Message("paid", session_id="order-42"))
        ...     with SessionProcessor(provider, "orders", handle, max_concurrent_sessions=4):
        ...         handled.get(timeout=30)
        ('order-42', 'paid')

    A server with the plain dialect (the reference's routes only) needs `session_ids`, because it cannot offer sessions.

    Args:
        provider: The connection to the queue. The caller closes it after the processor has stopped.
        queue_name: The queue, or ``topic/subscriptions/name``.
        handler: Called with a message and the client that holds its session. Its return value is ignored.
        max_concurrent_sessions: Number of sessions handled at once, 1 to 1000.
        session_ids: The only sessions to take, in turns. By default all sessions of the queue.
        max_messages_per_session: Number of messages after which a session is released, so that other sessions get their
            turn, 1 to 2**40. By default a session is handled until it is empty.
        session_idle_timeout: Seconds to wait for further messages in an empty session. 0 releases it at once.
        prefetch: Number of messages fetched in one request, 1 to 1000.
        on_error: Called with an error, and with the session and the message that it concerns, or `None`. By default errors
            are logged.
        max_renewal: Seconds for which a session's lock is renewed after the session was taken. `None` means no limit.
        on_session_opened: Called with a session before its first message is handled.
        on_session_closed: Called with a session after its release.
        grace_period: Seconds that running handlers get to finish when the processor stops.
        until_empty: Stop when no session has a message for this processor. Failed messages are tried again before that, until
            they succeed or are dead-lettered. Sessions that other clients hold are not waited for.
        settle_in_background: Number of handled messages of a session whose completions may be unconfirmed while its next
            message is handled, up to 1000. After a crash, these messages are delivered again. A completion that fails stops
            the session. With 0 or `None`, or on a server with the plain dialect, each message is completed before the next
            one is handled.

    Raises:
        ConfigurationError: `provider` is not a `ServiceBusProvider`.
        ValidationError: Another argument has the wrong type or is out of range.
    """

    def __init__(
        self,
        provider: ServiceBusProvider,
        queue_name: str,
        handler: Callable[[ReceivedMessage, SessionClient], object],
        *,
        max_concurrent_sessions: int = 8,
        session_ids: Iterable[str] | None = None,
        max_messages_per_session: int | None = None,
        session_idle_timeout: float | timedelta = 0,
        prefetch: int = 10,
        on_error: Callable[[BaseException, SessionClient | None, ReceivedMessage | None], object] | None = None,
        max_renewal: float | timedelta | None = None,
        on_session_opened: Callable[[SessionClient], object] | None = None,
        on_session_closed: Callable[[SessionClient], object] | None = None,
        grace_period: float | timedelta = 30,
        until_empty: bool = False,
        settle_in_background: int | None = 0,
    ) -> None:
        if not isinstance(provider, ServiceBusProvider):
            raise ConfigurationError(f"provider must be a ServiceBusProvider, not {type(provider).__name__}")
        self._provider = provider
        self._times = HandlerTimes()
        options = ProcessorOptions(
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
            until_empty=until_empty,
            settle_in_background=settle_in_background,
        )
        self._options = attrs.evolve(options, handler=self._times.measured(options.handler))
        self._lifecycle = _Lifecycle()

    def __repr__(self) -> str:
        slots = self._lifecycle.slots
        state = "stopped" if slots is None else "stopping" if slots.stopping else "running"
        return f"<SessionProcessor of {self._options.queue_name!r}, {state}>"

    def __enter__(self) -> SessionProcessor:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop()
        except BaseException:
            # An error of the with block is more important than an error of the processor.
            if error is None:
                raise

    @property
    def stats(self) -> ProcessorStats:
        """A snapshot of the counters since the latest start. Does not block."""
        return self._lifecycle.stats()

    @property
    def is_ready(self) -> bool:
        """Whether it is running and its latest request to the server was answered. For probes. Does not block."""
        slots = self._lifecycle.slots
        return slots is not None and slots.is_ready

    def run(self) -> None:
        """Process messages until the processor is stopped, or with `until_empty` until there are none. Blocks.

        In the main thread, SIGTERM, SIGINT and SIGHUP stop it: running handlers get `grace_period` to finish, messages that
        were not handled return to the queue, all sessions are released, and this method returns. A second signal ends the
        grace period. The previous signal handlers are restored at the end. An ignored SIGHUP stays ignored. In any thread,
        `stop` stops it as well.

        Raises:
            ConfigurationError: The processor is already running, or the provider is closed.
            AuthenticationFailedError: The server refused the credentials for five minutes.
            PermissionDeniedError: The key or identity has no right to receive from the queue.
            QueueNotFoundError: The queue does not exist.
            UnsupportedOperationError: The server cannot offer sessions; use `session_ids`.
            ValidationError: The server refused a request as malformed.
            KeyboardInterrupt: The handler raised it. `SystemExit` is raised likewise.
        """
        slots, grace = Slots(self._provider, self._options), 0.0
        try:
            self._lifecycle.begin(slots)
            # Set the signal handlers before a message handler can run, because a message handler may send a signal.
            with _noted_signals(slots.wakeups) as arrived:
                slots.start(in_background=False)
                grace = self._options.grace_period
                self._wait_for_end(slots, arrived)
            grace = 0.0
        finally:
            self._finish_own(slots, grace)
        if slots.error is not None:
            raise slots.error

    def _wait_for_end(self, slots: Slots, signals: list[int]) -> None:
        """Return when all threads have ended, when the grace period is over, or at the second signal."""
        deadline: float | None = None
        while not slots.done.is_set():
            if signals and not slots.stopping:
                slots.begin_stop()
            if slots.stopping and deadline is None:
                deadline = time.monotonic() + self._options.grace_period
            left = SIGNAL_POLL if deadline is None else min(SIGNAL_POLL, deadline - time.monotonic())
            if len(signals) > 1 or left <= 0:
                return
            with suppress(queue.Empty):
                slots.wakeups.get(timeout=left)

    def start(self) -> None:
        """Process messages in the background until `stop` is called. Does not block.

        If the processor ends before that because of an error (`run` lists them), it logs the error, passes it to `on_error`
        with no session and no message, and `stop` raises it.

        Raises:
            ConfigurationError: The processor is already running, or the provider is closed.
            RuntimeError: The system cannot start a thread.
        """
        slots = Slots(self._provider, self._options)
        try:
            self._lifecycle.begin(slots)
            slots.start(in_background=True)
        except BaseException:
            self._finish_own(slots, 0.0)
            raise

    def stop(self, timeout: float | timedelta | None = None) -> bool:
        """Stop the processor: let running handlers finish, return other messages to the queue and release all sessions.

        Blocks until the handlers have finished or `timeout` has passed. Called by a handler, it only begins the stop and
        returns `False` at once. If the processor is not running, it does nothing and returns `True`.

        Args:
            timeout: Seconds to wait for handlers, 0 or more; by default `grace_period`. After it, the sessions of handlers
                that still run are released: their messages return to the queue and can no longer be completed.

        Returns:
            Whether all handlers finished in time.

        Raises:
            ValidationError: `timeout` is negative or not a duration.
            QueueError: The processor had ended by itself because of this error; `run` lists the possible errors.
            KeyboardInterrupt: A handler raised it. `SystemExit` is raised likewise.
        """
        wait = self._options.grace_period if timeout is None else seconds(timeout, "timeout")
        slots = self._lifecycle.slots
        if slots is None:
            return True
        if slots.owns_current_thread():
            slots.begin_stop()
            return False
        ended = self._finish(slots, wait)
        if slots.error is not None:
            raise slots.error
        return ended

    def _finish_own(self, slots: Slots, wait: float) -> None:
        """End a run, unless the processor was running already."""
        if self._lifecycle.slots in (None, slots):
            self._finish(slots, wait)

    def _finish(self, slots: Slots, wait: float) -> bool:
        slots.begin_stop()
        ended = slots.done.wait(wait)
        if not ended:
            slots.release_all()
            slots.done.wait(LAST_WAIT)
        if slots.done.is_set():
            slots.join()
        self._lifecycle.end(slots)
        return ended


@contextmanager
def _noted_signals(wakeups: queue.SimpleQueue[None]) -> Iterator[list[int]]:
    """Yield a list of the signals that arrive, if this is the main thread. Restore the previous handlers at the end."""
    arrived: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        arrived.append(number)
        # A SimpleQueue is reentrant. A lock or an event could be in use by the code that the signal interrupted.
        wakeups.put(None)

    if threading.current_thread() is threading.main_thread():
        # The main thread of a subinterpreter cannot set handlers.
        with suppress(ValueError):
            for number in SIGNALS:
                # SIGHUP stays ignored if the process was started so, for example by nohup.
                if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, note)
    try:
        yield arrived
    finally:
        for each, handler in previous.items():
            # The handler is None if it was not set from Python. It cannot be restored then.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


def measurements_of(processor: SessionProcessor) -> tuple[str, ProcessorStats, HandlerDurations]:
    """Return the queue of a processor, its counters, and how long its handler took."""
    return processor._options.queue_name, processor.stats, processor._times.read()
