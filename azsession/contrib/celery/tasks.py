"""`session_task`: a task that drains one session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import shared_task
from celery.exceptions import TaskPredicate

from ...client.provider import ServiceBusProvider
from ...client.session import SessionClient
from ...errors import SessionLockedError, ValidationError
from ...messages import ReceivedMessage
from ...processor.backoff import LONGEST_PAUSE, Backoff, pause_after
from ...processor.options import ProcessorOptions
from ...processor.session_runner import PERMANENT_ERRORS, Outcome, SessionRunner
from ...processor.sources import TakenSession
from ...processor.stats import StatsCounters
from .provider import WorkerEnds, current_provider, worker_ends

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds after which the next task for a session comes, where this one could do nothing in it.
NEXT_PAUSE = 1.0
#: Messages of one look for one that can be received.
LOOK = 20


def session_task(
    queue_name: str,
    *,
    app: Any = None,
    bind: bool = False,
    max_messages: int | None = 100,
    idle_timeout: float | timedelta = 0,
    prefetch: int = 10,
    max_renewal: float | timedelta | None = None,
    **task_options: Any,
) -> Callable[[Callable[..., object]], Any]:
    """Make a function that handles a message a Celery task that drains a session: its one argument is the session's id.

    The task takes the session's lock, calls the function with each message and the session, in order, completes each message
    when the function returned, and releases the session. Where another holder has the session it ends at once. It returns
    how many messages it has done.

    Args:
        queue_name: The queue of the sessions.
        app: The Celery app; without it the task is shared, as those of `celery.shared_task`.
        bind: Call the function with the task before the message.
        max_messages: Messages after which the session is released, and a new task goes on; `None` stays until it is empty.
        idle_timeout: Seconds to stay in a session that ran empty.
        prefetch: Messages fetched in one request.
        max_renewal: Seconds after which the session's lock is renewed no more; `None` is never.
        task_options: Celery's, such as `name`, `queue` or `time_limit`. `max_retries` is `None` by default: the queue's
            `max_delivery_count` ends a message that always fails.

    Raises:
        ValidationError: An option is out of its range.
    """

    def decorate(body: Callable[..., object]) -> Any:
        def handler(message: ReceivedMessage, session: SessionClient) -> object:
            return body(task, message, session) if bind else body(message, session)

        checked = ProcessorOptions(
            queue_name=queue_name,
            handler=handler if callable(body) else body,
            max_concurrent_sessions=1,
            max_messages_per_session=max_messages,
            session_idle_timeout=idle_timeout,
            prefetch=prefetch,
            max_renewal=max_renewal,
            grace_period=0.0,
        )

        def run(self: Any, session_id: str) -> int:
            return _drain(self, checked, session_id)

        # Not `functools.wraps`: Celery goes by the signature. Nor has what is no function a name.
        run.__module__, run.__doc__ = body.__module__, body.__doc__
        name = getattr(body, "__name__", "")
        if name.isidentifier():
            run.__name__ = run.__qualname__ = name
        options = {"max_retries": None, **task_options, "bind": True, "session_queue": queue_name, "body": staticmethod(body)}
        task = shared_task(**options)(run) if app is None else app.task(**options)(run)
        return task

    if callable(queue_name):
        raise ValidationError("session_task needs the name of a queue: @session_task(queue_name)")
    return decorate


def _drain(task: Any, options: ProcessorOptions, session_id: str) -> int:
    """Handle a session's messages; see to it that a task comes for those that are left."""
    provider, counters = current_provider(task.app), StatsCounters()
    while True:
        turn = _Turn(options, counters)
        try:
            outcome = turn.take(provider, session_id, failed_before=task.request.retries > 0)
            left = turn.leaves(provider, session_id, outcome)
        except PERMANENT_ERRORS:
            raise
        except Exception as problem:  # The server, or a time limit outside of the function.
            if task.request.is_eager:
                raise  # Which tries again at once, for ever.
            raise _retry(task, problem, counters) from problem
        failure = outcome.failure
        if left is not None:
            if not (task.request.called_directly or task.request.is_eager):
                _hand_on(task, session_id, left)
            elif not worker_ends():
                time.sleep(left)
                continue
        elif outcome.fatal is not None:
            raise outcome.fatal
        elif failure is not None and not isinstance(failure.error, SessionLockedError):
            # Retry, Ignore and Reject are how the function says what Celery shall do.
            is_ours = failure.message is None and (task.request.is_eager or isinstance(failure.error, PERMANENT_ERRORS))
            if is_ours or isinstance(failure.error, TaskPredicate):
                raise failure.error
            raise _retry(task, failure.error, counters) from failure.error
        return counters.read(0).messages_done


class _Turn:
    """One time that a session is held."""

    def __init__(self, options: ProcessorOptions, counters: StatsCounters) -> None:
        self._options = options
        self._counters = counters

    def take(self, provider: ServiceBusProvider, session_id: str, *, failed_before: bool) -> Outcome:
        """Handle the session's messages."""
        backoff = Backoff()
        if failed_before:
            backoff.failed(session_id)  # So that nothing is fetched behind a message that may fail again.
        runner = SessionRunner(self._options, backoff, self._counters)
        runner.stopping = WorkerEnds()
        self._session = provider.create_session_client(
            self._options.queue_name, session_id, max_renewal=self._options.max_renewal
        )
        return runner.handle(TakenSession(self._session))

    def leaves(self, provider: ServiceBusProvider, session_id: str, outcome: Outcome) -> float | None:
        """Return in how many seconds the next task shall come for the session; `None` if none needs to, or a retry does."""
        name = self._options.queue_name
        error = None if outcome.failure is None else outcome.failure.error
        if isinstance(error, SessionLockedError):
            logger.info("session %r of %r is held elsewhere", session_id, name)
            return None
        if outcome.fatal is not None or isinstance(error, TaskPredicate):
            return None
        if self._session.is_lock_lost:
            # Its message comes again: that is neither done nor failed.
            logger.warning("the lock of session %r of %r is lost", session_id, name)
            return NEXT_PAUSE
        if error is not None:
            return None
        # What came after the last receive and before the release: whoever looked meanwhile saw the session as held.
        if first_active(provider, name, session_id) is None:
            return None
        return 0.0 if outcome.handled else NEXT_PAUSE


def _retry(task: Any, error: BaseException, counters: StatsCounters) -> BaseException:
    """Have Celery run the task again, later with each failure in a row; return what to raise."""
    stats = counters.read(0)
    if stats.messages_done or stats.messages_dead_lettered:
        task.request.retries = 0  # Another message's failures.
    countdown = pause_after(task.request.retries + 1, LONGEST_PAUSE)
    return task.retry(exc=error, countdown=countdown, throw=False)  # type: ignore[no-any-return]


def _hand_on(task: Any, session_id: str, pause: float) -> None:
    """Send another task for a session, the way this one came."""
    came = task.request.delivery_info or {}
    way = {name: came[name] for name in ("exchange", "routing_key", "priority") if came.get(name) is not None}
    task.apply_async((session_id,), countdown=pause or None, **way)


def first_active(provider: ServiceBusProvider, queue_name: str, session_id: str) -> int | None:
    """Return the sequence number of a session's first message that is neither deferred nor scheduled, if there is one."""
    start, count = 0, 1
    while True:
        page = provider.peek_messages(queue_name, session_id, count, start)
        for message in page:
            if message.state == "Active" and message.sequence_number:
                return message.sequence_number
        if not page or not page[-1].sequence_number:
            return None
        start, count = page[-1].sequence_number + 1, LOOK
