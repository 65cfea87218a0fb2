"""The threads of a running processor.

Each slot is a thread that takes a session from the source, handles it and takes the next one. Sessions that are offered too
early after a failure are parked; one more thread starts a short-lived thread for each parked session when it is due.
`SessionProcessor` creates new `Slots` for each start.
"""

from __future__ import annotations

import functools
import queue
import threading
import time

from .. import interrupts
from ..client.cancellation import PendingCalls
from ..client.provider import ServiceBusProvider, core_of
from ..client.session import SessionClient
from ..errors import QueueError, SessionLockedError, SessionNotFoundError
from ..events import Event
from ..futures import Condition
from ..logs import SessionLogger, get_logger
from .backoff import LONGEST_OUTAGE_PAUSE, Backoff, pause_after
from .fairness import Fairness
from .options import ProcessorOptions
from .outcomes import ProcessorStats
from .parking import ParkedSessions, close_all, return_messages
from .permanence import Permanence
from .reachability import Reachability
from .session_runner import Outcome, SessionRunner
from .slot_threads import SlotThreads
from .sources import ListedSessions, NextAvailableSessions, Source, TakenSession
from .stats import StatsCounters

logger: SessionLogger = get_logger(__name__)


class Slots:
    """Runs until it is stopped, or until an error that another attempt cannot resolve.

    Attributes:
        error: The error that ended it, if it was not stopped.
        wakeups: Receives an item when the stop begins and when all threads have ended.
        done: Set when all threads have ended.
    """

    def __init__(self, provider: ServiceBusProvider, options: ProcessorOptions) -> None:
        self._options = options
        self._counters = StatsCounters()
        self._backoff = Backoff()
        self._fairness = Fairness()
        self._permanence = Permanence()
        self._broker = Reachability()
        self._runner = SessionRunner(options, self._backoff, self._counters)
        self._waits = core_of(provider).new_waits()
        self._source: Source
        if options.session_ids is None:
            self._slot_count = options.max_concurrent_sessions
            self._source = NextAvailableSessions(
                provider,
                options.queue_name,
                options.max_renewal,
                self._waits,
                prefetch=options.batch(),
                until_empty=options.until_empty,
            )
        else:
            self._slot_count = min(options.max_concurrent_sessions, len(options.session_ids))
            self._source = ListedSessions(
                provider,
                options.queue_name,
                options.max_renewal,
                options.session_ids,
                self._slot_count,
                self._backoff,
                until_empty=options.until_empty,
            )
        self._threads = SlotThreads(self._end, self._threads_ended)
        self._changed = Condition()  # Guards all fields below, except `wakeups` and `done`.
        #: Number of sessions that are being handled.
        self._busy = 0
        self._parked = ParkedSessions()
        self._parked_thread: threading.Thread | None = None
        self._in_background = False
        self.error: BaseException | None = None
        self.wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.done: Event = Event()

    @property
    def stopping(self) -> bool:
        """Whether the stop has begun, after which no further message is passed to the handler."""
        return self._runner.stopping.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether the broker answers, and the stop has not begun."""
        return self._broker.is_reached and not self.stopping

    def stats(self) -> ProcessorStats:
        """Return a snapshot of the counters."""
        return self._counters.read(len(self._parked))

    # Start and stop

    def start(self, *, in_background: bool) -> None:
        """Start the slots.

        Args:
            in_background: Nobody waits for `done`, so an error that ends the slots must be logged.
        """
        try:
            self._in_background = in_background
            name = self._options.queue_name
            logger.info("the session processor of %r starts with %d slots", name, self._slot_count, queue=name)
            for _ in range(self._slot_count):
                self._threads.start(self._run_slot)
        except RuntimeError as error:  # The system has no more threads, or the interpreter is shutting down.
            if self._threads.started == 1:
                raise
            logger.warning(
                "the session processor runs with %d of %d slots: %s",
                self._threads.started - 1,
                self._slot_count,
                error,
                queue=self._options.queue_name,
            )
        finally:
            interrupts.persist(self._threads.release)

    def begin_stop(self) -> None:
        """Pass no further message to the handler, and end all waits. Do not wait for the threads."""
        self._runner.stop()
        self._waits.stop()
        with self._changed:
            self._changed.notify_all()
        self.wakeups.put(None)

    def _end(self, error: BaseException, *, is_reported: bool = False) -> None:
        """Stop because of an error, and report it now. `run` and `stop` raise it later.

        Args:
            error: The error.
            is_reported: It was reported as the failure of a message.
        """
        with self._changed:
            is_first = self.error is None and not self.stopping
            if self.error is None:
                self.error = error
        self.begin_stop()
        if is_first and not is_reported:
            self._runner.report_end(error, is_raised=not self._in_background)

    def release_all(self) -> None:
        """Release all sessions, including those whose handlers still run. Their messages return to the queue."""
        self.begin_stop()
        sessions = self._runner.open_sessions()
        if sessions:
            logger.warning(
                "the session processor of %r releases %d sessions whose handlers still run",
                self._options.queue_name,
                len(sessions),
                queue=self._options.queue_name,
            )
        close_all(sessions)

    def join(self) -> None:
        """Wait for the threads, all of which have finished their work."""
        self._threads.join()
        for settler in self._runner.end():
            settler.join()
        name = self._options.queue_name
        logger.info("the session processor of %r has stopped", name, queue=name)

    def after_fork(self) -> None:
        """Stop in a forked child. At most one of the threads exists there: the one that forked, which then ends."""
        self._changed = Condition()
        self._threads.after_fork()
        self._waits = PendingCalls()
        self._counters.after_fork()
        self._backoff.after_fork()
        self._fairness.after_fork()
        self._permanence.after_fork()
        self._broker.after_fork()
        self._source.after_fork()
        self._runner.after_fork()

    def owns_current_thread(self) -> bool:
        """Tell whether the calling thread is one of these threads."""
        return self._threads.owns_current_thread()

    def _threads_ended(self) -> None:
        self._runner.end()
        self.done.set()
        self.wakeups.put(None)

    # The work of a slot

    def _run_slot(self) -> None:
        failures = 0
        while self._wait_for_room():
            empty_since = self._source.empty_since() if self._options.until_empty else None
            if empty_since is not None:
                if not self._backoff.was_pending(empty_since):
                    self.begin_stop()
                    return
                # A session whose message failed seemed empty, because the broker held it back.
                self._source.doubt()
            try:
                taken = self._take()
            except QueueError as error:
                failures += 1
                self._pause_after_error(error, failures)
                continue
            if taken is None:
                failures = 0
                continue
            if not self._is_due(taken):
                continue
            taken = self._fairness.choose(taken, self._take_another, self._put_back)
            if not self._enter():
                self._put_back(taken.session)
            else:
                failures = 0 if self._handle(taken, failures) else failures + 1

    def _put_back(self, session: SessionClient) -> None:
        """Release a session that was taken and not handled."""
        session.close_session()
        self._source.give_back(session.session_id, handled=True, locked_for=None)

    def _take(self) -> TakenSession | None:
        self._counters.begin_wait()
        try:
            taken = self._source.take(self._runner.stopping.wait)
        finally:
            self._counters.end_wait()
        if self._options.session_ids is None:
            self._end_outage()
        return taken

    def _take_another(self) -> TakenSession | None:
        """Take another session that is due, without waiting."""
        try:
            while not self.stopping:
                taken = self._source.take_now()
                if taken is None or self._is_due(taken):
                    return taken
        except QueueError as error:
            logger.info("could not ask for another session: %s", error, queue=self._options.queue_name)
        return None

    def _is_due(self, taken: TakenSession) -> bool:
        """Tell whether a session may be handled now. Park it if it may not."""
        due = self._backoff.due(taken.session.session_id)
        if due is None or due <= time.monotonic():
            return True
        self._park(taken.session, due)
        return False

    def _end_outage(self) -> None:
        self._permanence.succeeded()
        if self._broker.answered():
            name = self._options.queue_name
            logger.info("the session processor of %r reaches the broker again", name, queue=name)

    def _pause_after_error(self, error: QueueError, failures: int) -> None:
        """Report the first error of an outage and pause. Stop if another attempt cannot resolve the error."""
        if self.stopping:
            return
        if self._permanence.is_permanent(error):
            self._end(error)
            return
        if self._broker.failed():
            self._runner.report(error, None, None)
        pause = pause_after(failures, LONGEST_OUTAGE_PAUSE)
        self._runner.stopping.wait(max(pause, min(error.retry_after or 0.0, LONGEST_OUTAGE_PAUSE)))

    def _handle(self, taken: TakenSession, failures: int = 0) -> bool:
        """Handle a session after `_enter`. Return whether the broker could be reached."""
        try:
            outcome = self._runner.handle(taken)
        finally:
            self._leave()
        session = taken.session
        error = None if outcome.failure is None else outcome.failure.error
        locked_for = (error.retry_after or 1.0) if isinstance(error, SessionLockedError) else None
        if self._options.session_ids is None:
            self._fairness.record(session.session_id, had_turn=outcome.had_turn)
        # After an error, nobody knows whether the session is empty.
        handled = outcome.handled or (error is not None and locked_for is None)
        self._source.give_back(session.session_id, handled=handled, locked_for=locked_for)
        return self._after_outcome(outcome, session, failures)

    def _after_outcome(self, outcome: Outcome, session: SessionClient, failures: int) -> bool:
        if outcome.failure is None:
            self._end_outage()
            return True
        error = outcome.failure.error
        if outcome.fatal is not None:
            self._end(error, is_reported=True)
        elif outcome.failure.message is None and not isinstance(error, SessionLockedError):
            if isinstance(error, SessionNotFoundError):
                self._runner.report(error, session, None)
            elif isinstance(error, QueueError):
                self._pause_after_error(error, failures + 1)
                return False
        return True

    # Parked sessions

    def _park(self, session: SessionClient, due: float) -> None:
        """Hold a session until it is due, without a slot. If too many are parked, this slot waits with it."""
        return_messages(session)
        with self._changed:
            stopping, is_full = self.stopping, self._parked.is_full
            if not stopping and not is_full:
                self._parked.add(session, due)
                if self._parked_thread is None:
                    self._parked_thread = self._threads.start(self._run_parked)
                self._changed.notify_all()
                return
        if not stopping:
            self._runner.stopping.wait(due - time.monotonic())
        if self._wait_for_room() and self._enter():
            self._handle(TakenSession(session))
        else:
            self._put_back(session)

    def _run_parked(self) -> None:
        """Start a thread for each parked session that is due, once there is room for it."""
        while True:
            with self._changed:
                if not self._wait_for_due():
                    sessions = self._parked.clear()
                    break
                taken = TakenSession(self._parked.pop())
                self._busy += 1
            try:
                self._threads.start(functools.partial(self._handle, taken))
            except RuntimeError:
                self._handle(taken)
        close_all(sessions)

    def _wait_for_due(self) -> bool:
        """Wait until a parked session is due and there is room, or until the stop. Return whether one is due."""
        while not self.stopping:
            due = self._parked.next_due()
            left = None if due is None else due - time.monotonic()
            if left is not None and left <= 0:
                if self._busy < self._options.max_concurrent_sessions:
                    return True
                left = None
            self._changed.wait(left)
        return False

    # Room: how many sessions are handled at once

    def _wait_for_room(self) -> bool:
        """Wait until another session may be handled. Return `False` if the slots stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._busy < self._options.max_concurrent_sessions or self.stopping)
        return not self.stopping

    def _enter(self) -> bool:
        """Count a session as being handled, if there is room for it."""
        with self._changed:
            if self.stopping or self._busy >= self._options.max_concurrent_sessions:
                return False
            self._busy += 1
            return True

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()
