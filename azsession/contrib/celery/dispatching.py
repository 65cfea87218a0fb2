"""`Dispatcher`: sends a task for each session that has messages and is not locked.

``azsession celery-dispatch`` runs it. Celery's beat can run it with the task ``azsession.dispatch``.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from datetime import timedelta

import attrs
from celery import Celery, Task, shared_task
from kombu.exceptions import OperationalError

from ...errors import ConfigurationError, QueueError
from ...logs import SessionLogger, get_logger
from ...processor.backoff import LONGEST_OUTAGE_PAUSE, pause_after
from ...processor.permanence import Permanence
from ...validation import seconds
from .provider import current_provider
from .tasks import first_active

logger: SessionLogger = get_logger(__name__)

#: Seconds for which a sent task is remembered: no other task is sent while the session's first message is the same.
REMEMBER = 60.0
#: The longest such time in seconds. The time is doubled with each further task.
REMEMBER_AT_MOST = 3600.0
#: Seconds between two dispatches.
INTERVAL = 1.0


@attrs.frozen
class _Sent:
    """A task that was sent.

    Attributes:
        first_message: The sequence number of the session's first message at that time.
        seconds: How long the task is remembered.
        until: The end of that time, on the monotonic clock.
    """

    first_message: int
    seconds: float
    until: float


class Dispatcher:
    """Sends a task for each session that has messages and is not locked, for the queues of an app's session tasks.

    While the first message of a session stays the same, its task is probably still queued or waits for a retry. So no other
    task is sent for `remember` seconds, doubled each time. A superfluous task does no harm: it ends at once.

    Args:
        app: The Celery app.
        queue_names: The queues. By default all queues that the app has a session task for.
        remember: Seconds, or a timedelta.

    Raises:
        ConfigurationError: A queue has no session task, or two.
        ValidationError: `remember` is not a number of seconds.

    Example:

        dispatcher = Dispatcher(app, ["orders"])
        count = dispatcher.dispatch()
    """

    def __init__(self, app: Celery, queue_names: Iterable[str] = (), *, remember: float | timedelta = REMEMBER) -> None:
        self._remember = seconds(remember, "remember")
        self._app = app
        self._tasks = _tasks_of(app, tuple(queue_names))
        self._lock = threading.Lock()  # Guards _is_dispatching.
        self._is_dispatching = False
        self._sent: dict[str, dict[str, _Sent]] = {name: {} for name in self._tasks}

    @property
    def queue_names(self) -> list[str]:
        """The queues."""
        return list(self._tasks)

    def dispatch(self) -> int:
        """Look at all queues once and send tasks. Blocks for the requests. Safe to call from many threads.

        Returns:
            The number of tasks sent. 0 if another thread is dispatching.

        Raises:
            ConfigurationError: The setting of the app is wrong.
            ConnectionFailedError: The server cannot be reached.
            QueueNotFoundError: A queue does not exist.
            AuthenticationFailedError: The server refused the credentials.
            PermissionDeniedError: The credentials have no right to a queue.
            UnsupportedOperationError: The server has only the plain dialect.
            ProviderError: The server refused a request for another reason.
            kombu.exceptions.OperationalError: Celery's broker cannot be reached, or refused a task.
        """
        with self._lock:
            if self._is_dispatching:
                return 0
            self._is_dispatching = True
        try:
            return sum(self._dispatch_queue(queue_name, task) for queue_name, task in self._tasks.items())
        finally:
            with self._lock:
                self._is_dispatching = False

    def _dispatch_queue(self, queue_name: str, task: Task) -> int:
        provider, before, count = current_provider(self._app), self._sent[queue_name], 0
        sessions = provider.list_sessions(queue_name)
        existing = {info.session_id for info in sessions}
        # Forget sessions that have disappeared, so that the dict does not grow without bound.
        sent = self._sent[queue_name] = {session_id: each for session_id, each in before.items() if session_id in existing}
        for info in sessions:
            if info.locked_until is not None or info.message_count == 0:
                continue
            first = first_active(provider, queue_name, info.session_id)
            if first is None:
                continue
            last, now = sent.get(info.session_id), time.monotonic()
            lasts = self._remember
            if last is not None and last.first_message == first:
                if now < last.until:
                    continue
                lasts = min(last.seconds * 2, REMEMBER_AT_MOST)
            _send(task, info.session_id)
            sent[info.session_id] = _Sent(first, lasts, now + lasts)
            count += 1
        return count

    def run(self, sleep: Callable[[float], object], interval: float = INTERVAL) -> int:
        """Dispatch again and again until `sleep` returns a true value. Blocks.

        If one of the two brokers cannot be reached, this is logged, and the dispatcher goes on after longer pauses.

        Args:
            sleep: Called with a number of seconds. It sleeps and returns whether to stop.
            interval: Seconds between two dispatches.

        Returns:
            The number of tasks sent.

        Raises:
            ConfigurationError: The setting of the app is wrong.
            QueueNotFoundError: A queue does not exist.
            AuthenticationFailedError: The server refused the credentials for five minutes.
            PermissionDeniedError: The credentials have no right to a queue.
            UnsupportedOperationError: The server has only the plain dialect.
            ValidationError: The name of a queue is wrong.
        """
        count, failures, permanence = 0, 0, Permanence()
        while True:
            try:
                count += self.dispatch()
                if failures:
                    logger.warning("the dispatcher works again")
                failures, pause = 0, interval
                permanence.succeeded()
            except (QueueError, OperationalError, OSError) as error:
                if permanence.is_permanent(error):
                    raise
                if not failures:
                    logger.warning("the dispatcher cannot list sessions or send tasks, and tries again: %s", error)
                failures += 1
                pause = max(interval, pause_after(failures, LONGEST_OUTAGE_PAUSE))
            if sleep(pause):
                return count


def _send(task: Task, session_id: str) -> None:
    try:
        task.apply_async((session_id,))
    except (OperationalError, OSError):
        raise
    except Exception as error:
        # Kombu's transports raise undocumented errors while a connection breaks, for example AttributeError.
        raise OperationalError(f"a task could not be sent: {error!r}") from error


def _tasks_of(app: Celery, queue_names: tuple[str, ...]) -> dict[str, Task]:
    app.loader.import_default_modules()
    app.finalize()
    by_queue: dict[str, Task] = {}
    for task in app.tasks.values():
        queue_name = getattr(task, "session_queue", None)
        if queue_name is None or (queue_names and queue_name not in queue_names):
            continue
        if queue_name in by_queue:
            raise ConfigurationError(
                f"the queue {queue_name!r} has two session tasks, {by_queue[queue_name].name} and {task.name}: remove one"
            )
        by_queue[queue_name] = task
    for queue_name in queue_names:
        if queue_name not in by_queue:
            raise ConfigurationError(
                f"the Celery app {app.main!r} has no session task for the queue {queue_name!r}: add one with @session_task"
            )
    if not by_queue:
        raise ConfigurationError(f"the Celery app {app.main!r} has no session task: add one with @session_task")
    return by_queue


_dispatchers: weakref.WeakKeyDictionary[Celery, dict[tuple[str, ...], Dispatcher]] = weakref.WeakKeyDictionary()


def _dispatch(task: Task, *queue_names: str) -> int:
    """Dispatch once. Each process remembers the tasks that it has sent."""
    app = task.app
    of_app = _dispatchers.setdefault(app, {})
    dispatcher = of_app.get(queue_names)
    if dispatcher is None:
        dispatcher = of_app.setdefault(queue_names, Dispatcher(app, queue_names))
    return dispatcher.dispatch()


#: The task for Celery's beat. Its arguments are the names of the queues.
dispatch: Task = shared_task(name="azsession.dispatch", bind=True, ignore_result=True)(_dispatch)
