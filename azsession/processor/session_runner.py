"""Handles one session: receives its messages, calls the handler for each in order, and settles them.

`Slots` uses it for the sessions that it takes, and a Celery session task for its one session.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import attrs

from ..client import fetched_ahead, receiving
from ..client.session import SessionClient, holder_of
from ..errors import QueueError
from ..events import Event
from ..logs import About, SessionLogger, get_logger
from ..messages import ReceivedMessage
from ..telemetry import Operation
from ..threads import Workers
from ..validation import MAX_REASON_LENGTH, fitted
from .backoff import Backoff
from .completions import BackgroundCompletions, Completions, ImmediateCompletions
from .options import OnSession, ProcessorOptions
from .outcomes import DeadLetter, DeadLetterSession
from .sources import TakenSession
from .stats import StatsCounters

logger: SessionLogger = get_logger(__name__)

#: Number of threads that settle in the background, at most. Each has one request under way.
MAX_SETTLERS = 32


@attrs.frozen(eq=False, repr=False)
class Failure:
    """The error that ended the handling of a session early, and the message that it concerns, if there is one."""

    error: BaseException
    message: ReceivedMessage | None = None


@attrs.frozen(eq=False, repr=False)
class Outcome:
    """The result of handling a session.

    Attributes:
        handled: At least one message was passed to the handler.
        had_turn: The session was released because it reached `max_messages_per_session`.
        failure: Why the handling ended early. A failure of a message has been reported already.
        fatal: `KeyboardInterrupt` or `SystemExit`, if the handler raised it.
    """

    handled: bool
    had_turn: bool
    failure: Failure | None
    fatal: BaseException | None = None


@attrs.define(eq=False, repr=False)
class _Progress:
    """How far the handling of one session has come."""

    completions: Completions
    handled: bool = False
    #: Messages that were passed to the handler.
    used: int = 0
    #: Messages that were fetched and not used yet.
    fetched: int = 0
    #: The latest receive returned fewer messages than it asked for, so the session is empty.
    ran_empty: bool = False
    is_done: bool = False
    had_turn: bool = False


class _ExitError(Exception):
    """Carries a `KeyboardInterrupt` or `SystemExit` of the handler out of the message loop."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


class SessionRunner:
    """Handles sessions. Thread-safe; each session is handled by one thread.

    Args:
        options: The options.
        backoff: The sessions whose latest message failed.
        counters: The counters of the run.
        delays: The broker holds a session back after a failure. False: the caller decides when it handles the session again.

    Attributes:
        stopping: Once it is set, no further message is passed to the handler.
    """

    def __init__(self, options: ProcessorOptions, backoff: Backoff, counters: StatsCounters, *, delays: bool = True) -> None:
        self._delays = delays
        self._options = options
        self._backoff = backoff
        self._counters = counters
        self._lock = threading.Lock()  # Guards _open and _receiving.
        self._open: set[SessionClient] = set()
        self._receiving: set[SessionClient] = set()
        self._workers: Workers[BackgroundCompletions] = Workers(
            "azsession-processor-settler", min(options.max_concurrent_sessions, MAX_SETTLERS), BackgroundCompletions.send
        )
        self.stopping: Event = Event()

    def open_sessions(self) -> list[SessionClient]:
        """Return the sessions that are being handled."""
        with self._lock:
            return list(self._open)

    def stop(self) -> None:
        """Pass no further message to the handler, and end the receives that wait."""
        self.stopping.set()
        with self._lock:
            receiving = list(self._receiving)
        for session in receiving:
            holder_of(session).stop_waiting()

    def end(self) -> list[threading.Thread]:
        """Tell the threads that settle in the background to end, after the last session. Return them."""
        return self._workers.dismiss()

    def after_fork(self) -> None:
        """Stop in a forked child: the parent continues to handle the sessions."""
        self._lock = threading.Lock()
        self._workers.after_fork()
        self.stopping = Event()
        self.stopping.set()

    def handle(self, taken: TakenSession) -> Outcome:
        """Handle a session and release it: until it is empty, had its turn, a message failed, or the processor stops."""
        session = taken.session
        with self._lock:
            self._open.add(session)
        progress = _Progress(self._completions(session), fetched=holder_of(session).lock.ahead_count)
        progress.ran_empty = 0 < progress.fetched < taken.asked
        try:
            failure, fatal = None, None
            try:
                # The wait is that for the first message, which may have come with the session.
                wait = self._options.session_idle_timeout if progress.fetched else taken.wait
                failure = self._handle_messages(session, wait, progress)
            except _ExitError as leaving:
                failure, fatal = leaving.failure, leaving.failure.error
            except QueueError as error:
                if not (progress.completions.failures or self._was_stopped(session)):
                    failure = Failure(error)
            finally:
                self._finish(session, progress.completions)
            failures = [Failure(each.error, each.message) for each in progress.completions.failures]
            failures += [] if failure is None else [failure]
            self._report_messages(failures, session)
            if progress.handled:
                self._counters.add("sessions_done")
            return Outcome(progress.handled, progress.had_turn, failures[0] if failures else None, fatal)
        finally:
            with self._lock:
                self._open.discard(session)
            if progress.handled:
                self._counters.add("sessions_open", -1)
                _call_session_hook(self._options.on_session_closed, session)

    def _completions(self, session: SessionClient) -> Completions:
        def confirmed(count: int) -> None:
            self._counters.add("messages_done", count)
            self._backoff.succeeded(session.session_id)

        def failed() -> None:
            with self._lock:
                is_receiving = session in self._receiving
            if is_receiving:
                holder_of(session).stop_waiting()

        limit = self._options.settle_in_background
        if not limit:
            return ImmediateCompletions(session, confirmed)
        completions = BackgroundCompletions(session, limit, self._workers, confirmed, failed)
        holder_of(session).lock.background = completions
        return completions

    def _finish(self, session: SessionClient, completions: Completions) -> None:
        """Wait for the completions in the background, give back those that failed, and release the session."""
        try:
            if not completions.finish():
                # The messages behind the first one return to the queue with the release.
                self._counters.add("messages_failed", len(completions.failures) - 1)
                self._give_back(session, completions.failures[0].message, delayed=True)
        finally:
            session.close_session()
            holder_of(session).lock.background = None

    def _report_messages(self, failures: Sequence[Failure], session: SessionClient) -> None:
        for each in failures:
            if each.message is not None:
                self.report(each.error, session, each.message)

    def _was_stopped(self, session: SessionClient) -> bool:
        """Tell whether a receive failed only because the processor stops."""
        return self.stopping.is_set() and not session.is_lock_lost

    def _handle_messages(self, session: SessionClient, wait: float, progress: _Progress) -> Failure | None:
        options = self._options
        while not self.stopping.is_set():
            message = self._next(session, progress)
            if message is None:
                if session.is_lock_lost or (progress.ran_empty and options.session_idle_timeout == 0):
                    return None
                message = self._fetch(session, wait, progress)
                wait = options.session_idle_timeout
                if message is None or self.stopping.is_set():
                    return None
            progress.used += 1
            progress.fetched -= 1
            if not progress.handled:
                progress.handled = True
                self._counters.add("sessions_open")
                _call_session_hook(options.on_session_opened, session)
            if session.is_lock_lost or progress.completions.failures:
                return None
            failure = self._handle_message(session, message, progress)
            if failure is not None or progress.is_done:
                return failure
        return None

    def _next(self, session: SessionClient, progress: _Progress) -> ReceivedMessage | None:
        """Return the next message that was fetched ahead, or `None` if no such message is left or the lock is lost."""
        if progress.fetched and not session.is_lock_lost:
            ahead = receiving.next_ahead(holder_of(session))
            if ahead is not None:
                return ahead
            # They were given back, because the handler abandoned a message, or one of them has expired.
            progress.fetched, progress.ran_empty = 0, False
        return None

    def _fetch(self, session: SessionClient, wait: float, progress: _Progress) -> ReceivedMessage | None:
        """Receive messages. Return the first one. The others are fetched ahead."""
        # After a failure fetch one message only. If it fails again, the messages behind it would be fetched in vain.
        count = self._options.batch(progress.used)
        if count <= 0:
            progress.had_turn = True
            return None
        count = 1 if self._backoff.due(session.session_id) is not None else count
        count = fetched_ahead.batch_size(holder_of(session), count)
        with self._lock:
            if self.stopping.is_set() or progress.completions.failures:
                return None
            self._receiving.add(session)
        try:
            message = receiving.fetch(holder_of(session), wait, count)
        finally:
            with self._lock:
                self._receiving.discard(session)
        progress.fetched = 0 if message is None else 1 + holder_of(session).lock.ahead_count
        progress.ran_empty = progress.fetched < count
        return message

    def _handle_message(self, session: SessionClient, message: ReceivedMessage, progress: _Progress) -> Failure | None:
        """Call the handler and settle the message. Return the failure, if there is one."""
        with holder_of(session).telemetry.process(session.queue_name, session.session_id, message) as operation:
            return self._call_handler(session, message, progress, operation)

    def _call_handler(
        self, session: SessionClient, message: ReceivedMessage, progress: _Progress, operation: Operation
    ) -> Failure | None:
        completions = progress.completions
        try:
            try:
                self._options.handler(message, session)
            except DeadLetter as request:
                operation.returned()
                if completions.finish():
                    session.dead_letter_message(message, *_texts(request, session, message))
                    self._dead_lettered(session, 1)
            except DeadLetterSession as request:
                operation.returned()
                progress.is_done = True
                if completions.finish():
                    self._dead_lettered(session, session.dead_letter_session(*_texts(request, session, message)))
            else:
                operation.returned()
                if holder_of(session).has_settled(message):
                    self._counters.add("messages_done")
                    self._backoff.succeeded(session.session_id)
                elif self._is_last(progress):
                    progress.is_done = True
                    completions.complete_last(message)
                else:
                    completions.complete(message)
        except BaseException as error:
            operation.returned(error)
            failure = Failure(error, message)
            leaves = isinstance(error, (KeyboardInterrupt, SystemExit))
            completions.finish()
            self._give_back(session, message, delayed=not leaves)
            if leaves:
                raise _ExitError(failure) from None
            return failure
        progress.is_done = progress.is_done or bool(completions.failures)
        return None

    def _is_last(self, progress: _Progress) -> bool:
        """Tell whether the session is released after the message that was handled. Note whether it had its turn."""
        if self.stopping.is_set():
            return True
        if progress.fetched > 0:
            # Also if they were given back: then the session is not empty.
            return False
        if progress.ran_empty and self._options.session_idle_timeout == 0:
            return True
        progress.had_turn = self._options.batch(progress.used) <= 0
        return progress.had_turn

    def _dead_lettered(self, session: SessionClient, count: int) -> None:
        self._counters.add("messages_dead_lettered", count)
        self._backoff.succeeded(session.session_id)

    def _give_back(self, session: SessionClient, message: ReceivedMessage, *, delayed: bool) -> None:
        """Abandon a failed message if that is possible. Messages fetched ahead are given back with it."""
        self._counters.add("messages_failed")
        pause = self._backoff.failed(session.session_id)
        try:
            if not session.is_lock_lost and not session.closed and not holder_of(session).has_settled(message):
                # The broker holds the session back for all processes. A plain server cannot: then only this process does.
                delayed = delayed and self._delays and holder_of(session).transport.speaks_v1
                session.abandon_message(message, delay=pause if delayed else None)
        except QueueError as error:
            text = "could not abandon a failed message; it returns when its session is released: %s"
            logger.info(text, error, **_about(session, message))
        self._backoff.restart(session.session_id, pause)

    def report_end(self, error: BaseException, *, is_raised: bool) -> None:
        """Pass the error that ends the processor to the `on_error` hook.

        Args:
            error: The error.
            is_raised: `SessionProcessor.run` raises it now. Otherwise it is logged, too.
        """
        if not is_raised:
            name = self._options.queue_name
            logger.error("the session processor of %r ends: %s", name, error, queue=name)
        if self._options.on_error is not None:
            self.report(error, None, None)

    def report(self, error: BaseException, session: SessionClient | None, message: ReceivedMessage | None) -> None:
        """Pass an error to the `on_error` hook, or log it if there is no hook."""
        name = self._options.queue_name
        if self._options.on_error is not None:
            try:
                self._options.on_error(error, session, message)
            except (Exception, SystemExit):
                _log_failed_hook()
        elif message is not None and session is not None:
            number, session_id = message.sequence_number, session.session_id
            logger.error("message %s of session %r failed", number, session_id, exc_info=error, **_about(session, message))
        elif session is not None:
            logger.warning("session %r of %r: %s", session.session_id, name, error, **_about(session))
        else:
            logger.warning("session processor of %r: %s", name, error, queue=name)


def _texts(
    request: DeadLetter | DeadLetterSession, session: SessionClient, message: ReceivedMessage
) -> tuple[str, str | None]:
    """Return the reason and the description of a dead letter. A text that cannot be stored is changed, which is logged."""
    reason = fitted(request.reason, MAX_REASON_LENGTH)
    description = None if request.description is None else fitted(request.description, MAX_REASON_LENGTH)
    if (reason, description) != (request.reason, request.description):
        logger.warning(
            "the dead-letter reason or description of message %s of session %r is cut to %d characters, or has characters "
            "replaced that UTF-8 cannot encode",
            message.sequence_number,
            session.session_id,
            MAX_REASON_LENGTH,
            **_about(session, message),
        )
    return reason, description


def _about(session: SessionClient, message: ReceivedMessage | None = None) -> About:
    """Return the fields of a log record about a session, or one message of it."""
    number = None if message is None else message.sequence_number
    return {"queue": session.queue_name, "session_id": session.session_id, "sequence_number": number}


def _call_session_hook(hook: OnSession | None, session: SessionClient) -> None:
    if hook is not None:
        try:
            hook(session)
        except (Exception, SystemExit):
            _log_failed_hook()


def _log_failed_hook() -> None:
    logger.exception("a hook of the session processor failed")
