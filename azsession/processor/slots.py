"""The threads of a processor that runs: the slots, which take sessions and handle them, and those for sessions that were
parked. `SessionProcessor` makes new `Slots` at each start, and stops it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from ..client.cancellation import PendingCalls
from ..client.provider import ServiceBusProvider, core_of
from ..client.session import SessionClient
from ..errors import QueueError, SessionLockedError, SessionNotFoundError
from .backoff import LONGEST_OUTAGE_PAUSE, Backoff, pause_after
from .fairness import Fairness
from .options import ProcessorOptions
from .outcomes import ProcessorStats
from .parking import ParkedSessions, close_all
from .session_runner import PERMANENT_ERRORS, SessionRunner
from .sources import ListedSessions, NextAvailableSessions, Source, TakenSession
from .stats import StatsCounters

logger: logging.Logger = logging.getLogger(__name__)


class Slots:
    """Runs until it is stopped, or cannot go on.

    Attributes:
        error: Why it ended by itself.
        news: Something is put into it when the slots begin to stop, and when all threads have ended.
        done: Set when all threads have ended.
    """

    def __init__(self, provider: ServiceBusProvider, options: ProcessorOptions) -> None:
        self._options = options
        self._counters = StatsCounters()
        self._backoff = Backoff()
        self._fairness = Fairness()
        self._runner = SessionRunner(options, self._backoff, self._counters)
        self._waits = core_of(provider).new_waits()
        self._source: Source
        if options.session_ids is None:
            self._slot_count = options.max_concurrent_sessions
            self._source = NextAvailableSessions(provider, options.queue_name, options.max_renewal, self._waits)
        else:
            self._slot_count = min(options.max_concurrent_sessions, len(options.session_ids))
            self._source = ListedSessions(
                provider, options.queue_name, options.max_renewal, options.session_ids, self._slot_count, self._backoff
            )
        self._changed = threading.Condition()  # Guards all that follows.
        self._busy = 0
        self._parking = ParkedSessions()
        self._parker: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        #: Threads, and `start`: it may be stopped by another thread meanwhile.
        self._alive = 1
        self._started = 0
        self._outage = False
        self.error: BaseException | None = None
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.done: threading.Event = threading.Event()

    @property
    def stopping(self) -> bool:
        """No message is begun any more."""
        return self._runner.stopping.is_set()

    def stats(self) -> ProcessorStats:
        """Return what was done so far."""
        return self._counters.read(len(self._parking))

    # The beginning and the end

    def start(self) -> None:
        """Start the slots."""
        try:
            for _ in range(self._slot_count):
                self._start(self._run_slot)
        except RuntimeError as error:  # Too many threads, or the interpreter ends.
            if self._started == 1:
                raise
            logger.warning("the session processor runs with %d of %d slots: %s", self._started - 1, self._slot_count, error)
        finally:
            self._one_ended()

    def begin_stop(self, error: BaseException | None = None) -> None:
        """Begin no message any more, and end all waits; `error` is why, if the slots stop by themselves."""
        with self._changed:
            if self.error is None:
                self.error = error
        self._runner.stop()
        self._waits.stop()
        with self._changed:
            self._changed.notify_all()
        self.news.put(None)

    def let_go(self) -> None:
        """Release all sessions, also those whose handlers still run: their messages go back."""
        self.begin_stop()
        sessions = self._runner.open_sessions()
        if sessions:
            logger.warning(
                "the session processor of %r gives up %d sessions whose handlers still run",
                self._options.queue_name,
                len(sessions),
            )
        close_all(sessions)

    def join(self) -> None:
        """Wait for the threads, which have all but ended."""
        with self._changed:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def after_fork(self) -> None:
        """In a forked child: none of the threads is here, but for the one that forked, which shall end."""
        self._changed = threading.Condition()
        self._waits = PendingCalls()
        self._counters.after_fork()
        self._backoff.after_fork()
        self._fairness.after_fork()
        self._runner.after_fork()

    def has_this_thread(self) -> bool:
        """Tell whether the calling thread is one of the slots."""
        return threading.current_thread() in self._threads

    def _start(self, work: Callable[..., object], *args: Any) -> threading.Thread:
        with self._changed:
            self._started += 1
            # Those for parked sessions come and go.
            self._threads = [thread for thread in self._threads if thread.ident is None or thread.is_alive()]
            name = f"azsession-processor-{self._started}"
            thread = threading.Thread(target=self._run, args=(work, *args), name=name, daemon=True)
            self._alive += 1
            self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            with self._changed:
                self._alive -= 1
                self._threads.remove(thread)
            raise
        return thread

    def _run(self, work: Callable[..., object], *args: Any) -> None:
        try:
            work(*args)
        except BaseException as error:
            self.begin_stop(error)
        finally:
            self._one_ended()

    def _one_ended(self) -> None:
        with self._changed:
            self._alive -= 1
            last = self._alive == 0
        if last:
            self.done.set()
            self.news.put(None)

    # The slots

    def _run_slot(self) -> None:
        failures = 0
        while self._wait_for_room():
            try:
                taken = self._take()
            except QueueError as error:
                failures += 1
                self._after_failure(error, failures)
                continue
            if taken is None:
                failures = 0
                continue
            if not self._is_due(taken):
                continue
            taken = self._fairness.choose(taken, self._take_another)
            session_id = taken.session.session_id
            if not self._enter():
                taken.session.close_session()
                self._source.back(session_id, handled=False, locked_for=None)
            else:
                failures = 0 if self._handle(taken, failures) else failures + 1

    def _take(self) -> TakenSession | None:
        self._counters.waits()
        try:
            taken = self._source.take(self._runner.stopping.wait)
        finally:
            self._counters.waits_no_more()
        if self._options.session_ids is None:
            self._note_back()
        return taken

    def _take_another(self) -> TakenSession | None:
        """Return another session if there is one."""
        try:
            while not self.stopping:
                taken = self._source.take_now()
                if taken is None or self._is_due(taken):
                    return taken
        except QueueError as error:
            logger.info("no other session could be asked for: %s", error)
        return None

    def _is_due(self, taken: TakenSession) -> bool:
        """Tell whether a session may be handled now; it is parked if not."""
        due = self._backoff.due(taken.session.session_id)
        if due is None or due <= time.monotonic():
            return True
        self._park(taken.session, due)
        return False

    def _note_back(self) -> None:
        if self._outage:
            self._outage = False
            logger.info("the session processor of %r goes on", self._options.queue_name)

    def _after_failure(self, error: QueueError, failures: int) -> None:
        """Report what failed, once for each outage, and pause; or stop, where trying again is no help."""
        if self.stopping:
            return
        if isinstance(error, PERMANENT_ERRORS):
            self.begin_stop(error)
            return
        with self._changed:
            is_news, self._outage = not self._outage, True
        if is_news:
            self._runner.report(error, None, None)
        pause = pause_after(failures, LONGEST_OUTAGE_PAUSE)
        self._runner.stopping.wait(max(pause, min(error.retry_after or 0.0, LONGEST_OUTAGE_PAUSE)))

    def _handle(self, taken: TakenSession, failures: int = 0) -> bool:
        """Handle a session, whose place is taken; return whether the server was there for it."""
        session = taken.session
        try:
            outcome = self._runner.handle(taken)
        finally:
            self._leave()
        error = None if outcome.failure is None else outcome.failure.error
        locked_for = None
        if isinstance(error, SessionLockedError):
            locked_for = error.retry_after or 1.0
        if self._options.session_ids is None:
            self._fairness.note(session.session_id, had_share=outcome.had_share)
        self._source.back(session.session_id, handled=outcome.handled, locked_for=locked_for)
        if outcome.failure is None:
            self._note_back()
        elif outcome.fatal:
            self.begin_stop(error)
        elif outcome.failure.message is None and locked_for is None:
            if isinstance(error, SessionNotFoundError):
                self._runner.report(error, session, None)
            elif isinstance(error, QueueError):
                self._after_failure(error, failures + 1)
                return False
        return True

    # Parked sessions

    def _park(self, session: SessionClient, due: float) -> None:
        """Hold a session until it is due, without a slot; in this one where too many are parked."""
        with self._changed:
            stopping, is_full = self.stopping, self._parking.is_full
            if not stopping and not is_full:
                self._parking.put(session, due)
                if self._parker is None:
                    self._parker = self._start(self._run_parker)
                self._changed.notify_all()
                return
        if not stopping:
            self._runner.stopping.wait(due - time.monotonic())
        if self._wait_for_room() and self._enter():
            self._handle(TakenSession(session))
        else:
            session.close_session()

    def _run_parker(self) -> None:
        """Have each parked session handled when it is due and there is room."""
        while True:
            with self._changed:
                while not self.stopping:
                    due = self._parking.next_due()
                    left = None if due is None else due - time.monotonic()
                    if left is not None and left <= 0:
                        if self._busy < self._options.max_concurrent_sessions:
                            break
                        left = None
                    self._changed.wait(left)
                if self.stopping:
                    sessions = self._parking.clear()
                    break
                session = self._parking.pop()
                self._busy += 1
            try:
                self._start(self._handle, TakenSession(session))
            except RuntimeError:
                self._handle(TakenSession(session))
        close_all(sessions)

    # Room: how many sessions are handled at once

    def _wait_for_room(self) -> bool:
        """Wait until one session more may be handled; return whether to go on."""
        with self._changed:
            while self._busy >= self._options.max_concurrent_sessions and not self.stopping:
                self._changed.wait()
        return not self.stopping

    def _enter(self) -> bool:
        """Take a place among those who handle a session, if there is one."""
        with self._changed:
            if self.stopping or self._busy >= self._options.max_concurrent_sessions:
                return False
            self._busy += 1
            return True

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()
