"""One session in a processor's hands: its messages are received, handled in order, and settled.

Used by the threads of `Slots`, which bring sessions here and take the outcome.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import attrs

from ..client.session import SessionClient, holder_of
from ..errors import (
    ConfigurationError,
    PermissionDeniedError,
    QueueError,
    QueueNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)
from ..messages import ReceivedMessage
from .backoff import Backoff
from .options import ProcessorOptions
from .outcomes import DeadLetter, DeadLetterSession
from .sources import TakenSession
from .stats import StatsCounters

logger: logging.Logger = logging.getLogger(__name__)

#: What trying again does not help against.
PERMANENT_ERRORS = (
    ConfigurationError,
    PermissionDeniedError,
    QueueNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)


def call_hook(hook: Callable[..., object] | None, *args: Any) -> None:
    """Call a hook; what it raises is logged."""
    if hook is not None:
        try:
            hook(*args)
        except (Exception, SystemExit):
            logger.exception("a hook of the session processor failed")


@attrs.frozen
class Failure:
    """Why a session's handling ended early: the error, and the message it was about, if it was about one."""

    error: BaseException
    message: ReceivedMessage | None = None


@attrs.frozen
class Outcome:
    """How it went with a session.

    Attributes:
        handled: A message was given to the handler.
        had_share: It was released after `max_messages_per_session`.
        failure: Why it ended early. What is about a message was reported.
        fatal: The handler raised what ends a program.
    """

    handled: bool
    had_share: bool
    failure: Failure | None
    fatal: BaseException | None = None


class SessionRunner:
    """Handles sessions. Safe to use from many threads.

    Attributes:
        stopping: Set when no message shall be begun any more.
    """

    def __init__(self, options: ProcessorOptions, backoff: Backoff, counters: StatsCounters) -> None:
        self._options = options
        self._backoff = backoff
        self._counters = counters
        self._lock = threading.Lock()  # Guards what follows.
        self._open: set[SessionClient] = set()
        self._waiting: set[SessionClient] = set()
        self.stopping: threading.Event = threading.Event()

    def open_sessions(self) -> list[SessionClient]:
        """Return the sessions in hand."""
        with self._lock:
            return list(self._open)

    def stop(self) -> None:
        """Begin no message any more, and end the receives that wait."""
        self.stopping.set()
        with self._lock:
            waiting = list(self._waiting)
        for session in waiting:
            holder_of(session).stop_waiting()

    def after_fork(self) -> None:
        """In a forked child: the sessions are the parent's to handle."""
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.stopping.set()

    def handle(self, taken: TakenSession) -> Outcome:
        """Handle a session's messages until there are none, or it has had its share, or one failed; release it."""
        session = taken.session
        with self._lock:
            self._open.add(session)
        run = _Run()
        try:
            failure, fatal = None, None
            try:
                failure = self._handle_all(session, taken.wait, run)
            except _LeaveError as leave:
                failure, fatal = leave.failure, leave.failure.error
            except QueueError as error:
                if not self._is_over(session):
                    failure = Failure(error)
            finally:
                holder_of(session).forget_ahead()
                session.close_session()
            if failure is not None and failure.message is not None:
                self.report(failure.error, session, failure.message)
            if run.handled:
                self._counters.add("sessions_done")
            return Outcome(run.handled, run.had_share, failure, fatal)
        finally:
            with self._lock:
                self._open.discard(session)
            if run.handled:
                self._counters.add("sessions_open", -1)
                call_hook(self._options.on_session_closed, session)

    def _is_over(self, session: SessionClient) -> bool:
        """Tell whether a receive failed because the processor stops."""
        return self.stopping.is_set() and not session.is_lock_lost

    def _handle_all(self, session: SessionClient, wait: float, run: _Run) -> Failure | None:
        options = self._options
        while not self.stopping.is_set():
            message = holder_of(session).next_ahead()
            if message is None:
                if session.is_lock_lost or (run.was_short and options.session_idle_timeout == 0):
                    # A receive gives what is there: fewer than asked for is all.
                    return None
                message = self._fetch(session, wait, run)
                wait = options.session_idle_timeout
                if message is None:
                    return None
                if self.stopping.is_set():
                    return None
            if not run.handled:
                run.handled = True
                self._counters.add("sessions_open")
                call_hook(options.on_session_opened, session)
            if session.is_lock_lost:
                return None
            failure = self._deliver(session, message, run)
            if failure is not None or run.is_done:
                return failure
        return None

    def _fetch(self, session: SessionClient, wait: float, run: _Run) -> ReceivedMessage | None:
        """Receive; return the first message, and keep the others for later."""
        # A message that failed lets those behind it be delivered in vain: fetch none of these.
        count = 1 if self._backoff.due(session.session_id) is not None else self._options.prefetch
        if self._options.max_messages_per_session is not None:
            count = min(count, self._options.max_messages_per_session - run.fetched)
            if count <= 0:
                run.had_share = True
                return None
        with self._lock:
            if self.stopping.is_set():
                return None
            self._waiting.add(session)
        try:
            messages = session.receive_messages(count, wait)
        finally:
            with self._lock:
                self._waiting.discard(session)
        run.fetched += len(messages)
        run.was_short = len(messages) < count
        if not messages:
            return None
        holder_of(session).keep_ahead(messages[1:])
        return messages[0]

    def _deliver(self, session: SessionClient, message: ReceivedMessage, run: _Run) -> Failure | None:
        """Have a message handled, and settle it; return what failed."""
        try:
            try:
                self._options.handler(message, session)
            except DeadLetter as verdict:
                session.dead_letter_message(message, verdict.reason, verdict.description)
                self._counters.add("messages_dead_lettered")
            except DeadLetterSession as verdict:
                run.is_done = True
                count = session.dead_letter_session(verdict.reason, verdict.description)
                self._counters.add("messages_dead_lettered", count)
            else:
                if not holder_of(session).has_settled(message):
                    session.complete_message(message)
                self._counters.add("messages_done")
        except BaseException as error:
            failure = Failure(error, message)
            self._give_back(session, message)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise _LeaveError(failure) from None
            return failure
        self._backoff.succeeded(session.session_id)
        return None

    def _give_back(self, session: SessionClient, message: ReceivedMessage) -> None:
        """Abandon a message that failed, if that can be; what was fetched behind it goes back with the lock."""
        self._counters.add("messages_failed")
        self._backoff.failed(session.session_id)
        holder_of(session).forget_ahead()
        try:
            if not session.is_lock_lost and not session.closed and not holder_of(session).has_settled(message):
                session.abandon_message(message)
        except QueueError as error:
            logger.info("a message that failed goes back with its session's lock: %s", error)

    def report(self, error: BaseException, session: SessionClient | None, message: ReceivedMessage | None) -> None:
        """Tell of an error: to the hook, or to the log where there is none."""
        if self._options.on_error is not None:
            call_hook(self._options.on_error, error, session, message)
        elif message is not None and session is not None:
            number, session_id = message.sequence_number, session.session_id
            logger.error("message %s of session %r failed", number, session_id, exc_info=error)
        elif session is not None:
            logger.warning("session %r of %r: %s", session.session_id, self._options.queue_name, error)
        else:
            logger.warning("the session processor of %r: %s", self._options.queue_name, error)


@attrs.define
class _Run:
    """How far one session is."""

    handled: bool = False
    fetched: int = 0
    was_short: bool = False
    is_done: bool = False
    had_share: bool = False


class _LeaveError(Exception):
    """The handler raised what ends a program."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure
