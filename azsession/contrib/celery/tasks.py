"""`session_task`: a task that drains one session."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from celery import Celery, Task, shared_task
from celery.exceptions import TaskPredicate

from ...client.provider import ServiceBusProvider
from ...client.session import SessionClient
from ...errors import SessionLockedError, ValidationError
from ...logs import SessionLogger, get_logger
from ...messages import ReceivedMessage
from ...processor.backoff import LONGEST_PAUSE, Backoff, pause_after
from ...processor.options import ProcessorOptions
from ...processor.permanence import PERMANENT_ERRORS
from ...processor.session_runner import Outcome, SessionRunner
from ...processor.sources import TakenSession
from ...processor.stats import StatsCounters
from .provider import WorkerEnds, current_provider, worker_ends

logger: SessionLogger = get_logger(__name__)

#: Seconds before the next task for a session in which this task handled nothing.
NEXT_PAUSE = 1.0
#: Messages to peek in one request while searching for an active message.
PEEK_COUNT = 20


def session_task(
    queue_name: str,
    *,
    app: Celery | None = None,
    bind: bool = False,
    max_messages: int | None = 100,
    idle_timeout: float | timedelta = 0,
    prefetch: int = 10,
    max_renewal: float | timedelta | None = None,
    settle_in_background: int | None = 0,
    **task_options: object,
) -> Callable[[Callable[..., object]], Task]:
    """Return a decorator that makes a Celery task from a function that handles one message.

    The task's one argument is a session id. It takes the session's lock, calls the function with each message and the
    session, in order, and completes each message when the function returns. Then it releases the session and returns the
    number of messages that it completed. If another client holds the session, it ends at once.

    Args:
        queue_name: The queue of the sessions.
        app: The Celery app. By default the task is shared by all apps, like those of `celery.shared_task`.
        bind: Call the function with the task before the message and the session.
        max_messages: Messages after which the session is released and another task goes on with it. `None` means that the
            task stays until the session is empty.
        idle_timeout: Seconds (or a timedelta) to wait for messages in an empty session.
        prefetch: Messages to receive in one request, 1 to 1000.
        max_renewal: Seconds (or a timedelta) after which the session's lock is not renewed. `None` means that the renewal
            has no limit.
        settle_in_background: Handled messages whose completions may be unconfirmed while the next one is handled, up to 1000.
            After a crash these messages are delivered again. With 0 or `None`, each one is completed before the next.
        task_options: Celery's options, for example `name`, `queue` or `time_limit`. The default of `max_retries` is `None`:
            the queue's ``max_delivery_count`` dead-letters a message that always fails.

    Raises:
        ValidationError: An option is out of its range, or the queue's name is missing.

    Example:

        @session_task("orders", app=app)
        def handle_order(message, session):
            print(session.session_id, message.text())

        handle_order.delay("order-42")
    """

    def decorate(body: Callable[..., object]) -> Task:
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
            settle_in_background=settle_in_background,
            grace_period=0.0,
        )

        def run(self: Task, session_id: str) -> int:
            return _drain(self, checked, session_id)

        # Not functools.wraps: Celery reads the signature of the task. A callable object may have no name.
        run.__module__, run.__doc__ = body.__module__, body.__doc__
        name = getattr(body, "__name__", "")
        if name.isidentifier():
            run.__name__ = run.__qualname__ = name
        options = {"max_retries": None, **task_options, "bind": True, "session_queue": queue_name, "body": staticmethod(body)}
        # A task of one app is not announced to the other apps, unless the caller asks for it.
        task = shared_task(**options)(run) if app is None else app.task(**{"shared": False, **options})(run)
        return task

    if callable(queue_name):
        raise ValidationError("session_task needs the name of a queue, for example @session_task('orders')")
    return decorate


def _drain(task: Task, options: ProcessorOptions, session_id: str) -> int:
    """Handle a session's messages, and send another task for those that are left."""
    provider, counters = current_provider(task.app), StatsCounters()
    while True:
        try:
            turn = _Turn(options, counters, provider, session_id)
            outcome = turn.handle_messages(failed_before=task.request.retries > 0)
            pause = turn.pause_before_next(outcome)
        except PERMANENT_ERRORS:
            raise
        except Exception as problem:  # From the server, or from a time limit outside of the function.
            if task.request.is_eager:
                raise  # An eager retry runs at once, so it would loop.
            raise _retry(task, problem, counters) from problem
        failure = outcome.failure
        if pause is not None:
            if not (task.request.called_directly or task.request.is_eager):
                _hand_on(task, session_id, pause)
            elif not worker_ends():
                time.sleep(pause)
                continue
        elif outcome.fatal is not None:
            raise outcome.fatal
        elif failure is not None and not isinstance(failure.error, SessionLockedError):
            # A failure without a message is not one of the function. An eager retry of it would run at once, and loop.
            is_final = failure.message is None and (task.request.is_eager or isinstance(failure.error, PERMANENT_ERRORS))
            # Retry, Ignore and Reject (TaskPredicate) are the function's instructions to Celery.
            if is_final or isinstance(failure.error, TaskPredicate):
                raise failure.error
            raise _retry(task, failure.error, counters) from failure.error
        return counters.read(0).messages_done


class _Turn:
    """One period in which a task holds its session."""

    def __init__(
        self, options: ProcessorOptions, counters: StatsCounters, provider: ServiceBusProvider, session_id: str
    ) -> None:
        self._options = options
        self._counters = counters
        self._provider = provider
        self._session = provider.create_session_client(options.queue_name, session_id, max_renewal=options.max_renewal)

    def handle_messages(self, *, failed_before: bool) -> Outcome:
        """Take the session's lock, handle its messages and release it."""
        backoff = Backoff()
        if failed_before:
            backoff.failed(self._session.session_id)  # Receive one message at a time: the first one may fail again.
        # Celery decides when the task runs again.
        runner = SessionRunner(self._options, backoff, self._counters, delays=False)
        runner.stopping = WorkerEnds()
        try:
            return runner.handle(TakenSession(self._session))
        finally:
            runner.end()

    def pause_before_next(self, outcome: Outcome) -> float | None:
        """Return the seconds before the next task for the session. `None` means no task, or a retry of this one."""
        name, session_id = self._options.queue_name, self._session.session_id
        error = None if outcome.failure is None else outcome.failure.error
        if isinstance(error, SessionLockedError):
            logger.info("another client holds session %r of %r", session_id, name, queue=name, session_id=session_id)
            return None
        if outcome.fatal is not None or isinstance(error, TaskPredicate):
            return None
        if self._session.is_lock_lost:
            # The current message will be redelivered. It counts as neither completed nor failed.
            logger.warning("the lock of session %r of %r was lost", session_id, name, queue=name, session_id=session_id)
            return NEXT_PAUSE
        if error is not None:
            return None
        # Messages may have come after the last receive. The dispatcher saw the session as locked then, and sent no task.
        if first_active(self._provider, name, session_id) is None:
            return None
        return 0.0 if outcome.handled else NEXT_PAUSE


def _retry(task: Task, error: BaseException, counters: StatsCounters) -> BaseException:
    """Return the exception with which Celery runs the task again. The pause grows with each failure in a row."""
    stats = counters.read(0)
    if stats.messages_done or stats.messages_dead_lettered:
        task.request.retries = 0  # The earlier failures were those of another message.
    countdown = pause_after(task.request.retries + 1, LONGEST_PAUSE)
    return task.retry(exc=error, countdown=countdown, throw=False)  # type: ignore[no-any-return]


def _hand_on(task: Task, session_id: str, pause: float) -> None:
    """Send another task for a session, with the routing of this one."""
    info = task.request.delivery_info or {}
    routing = {name: info[name] for name in ("exchange", "routing_key", "priority") if info.get(name) is not None}
    task.apply_async((session_id,), countdown=pause or None, **routing)


def first_active(provider: ServiceBusProvider, queue_name: str, session_id: str) -> int | None:
    """Return the sequence number of a session's first message that is neither deferred nor scheduled, or `None`."""
    start, count = 0, 1  # Usually the first message is active.
    while True:
        page = provider.peek_messages(queue_name, session_id, count, start)
        for message in page:
            if message.state == "Active" and message.sequence_number:
                return message.sequence_number
        if not page or not page[-1].sequence_number:
            return None
        start, count = page[-1].sequence_number + 1, PEEK_COUNT
