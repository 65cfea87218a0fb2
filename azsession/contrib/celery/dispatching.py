"""The dispatcher: turns the sessions that have messages, and no holder, into tasks. Run by ``azsession celery-dispatch``, or
by Celery's beat in the task ``azsession.dispatch``."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import attrs
from celery import shared_task
from kombu.exceptions import OperationalError

from ...errors import ConfigurationError, QueueError
from ...processor.backoff import LONGEST_OUTAGE_PAUSE, pause_after
from ...processor.session_runner import PERMANENT_ERRORS
from ...validation import seconds
from .provider import current_provider
from .tasks import first_active

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds in which no second task is sent for a session whose first message stays the same.
REMEMBER = 60.0
#: And at the most: it is doubled each time.
REMEMBER_AT_MOST = 3600.0
#: Seconds between two looks.
INTERVAL = 1.0


@attrs.frozen
class _Sent:
    """A task that was sent: the session's first message then, and for how long that stands for the session."""

    head: int
    lasts: float
    until: float


class Dispatcher:
    """Sends a task for each session that has messages and that nobody holds, for the queues of an app's session tasks.

    While a session's first message stays the same, its task is taken to be queued, or to wait until it tries again: no
    second one is sent within `remember` seconds, doubled each time. A task too many ends at once, or goes on in the session.

    Args:
        app: The Celery app.
        queue_names: The queues; by default all that the app has a session task for.
        remember: Seconds.

    Raises:
        ConfigurationError: There is no session task for a queue, or there are two.
    """

    def __init__(self, app: Any, queue_names: Iterable[str] = (), *, remember: float | timedelta = REMEMBER) -> None:
        self._remember = seconds(remember, "remember")
        self._app = app
        self._tasks = _tasks_of(app, tuple(queue_names))
        self._lock = threading.Lock()  # Guards _is_looking.
        self._is_looking = False
        self._sent: dict[str, dict[str, _Sent]] = {name: {} for name in self._tasks}

    @property
    def queue_names(self) -> list[str]:
        """The queues."""
        return list(self._tasks)

    def dispatch(self) -> int:
        """Look once; return how many tasks were sent. Another thread's look that is not over yet is enough: 0.

        Raises:
            QueueError: As `ServiceBusProvider.list_sessions` and `peek_messages` do.
            OperationalError: Kombu's: Celery's broker cannot be reached, or took no task.
        """
        with self._lock:
            if self._is_looking:
                return 0
            self._is_looking = True
        try:
            return sum(self._look_at(queue_name, task) for queue_name, task in self._tasks.items())
        finally:
            with self._lock:
                self._is_looking = False

    def _look_at(self, queue_name: str, task: Any) -> int:
        provider, before, count = current_provider(self._app), self._sent[queue_name], 0
        sessions = provider.list_sessions(queue_name)
        there = {info.session_id for info in sessions}
        # What is not there any more is forgotten, and so bounds this by the number of sessions.
        sent = self._sent[queue_name] = {session_id: each for session_id, each in before.items() if session_id in there}
        for info in sessions:
            if info.locked_until is not None or info.message_count == 0:
                continue
            head = first_active(provider, queue_name, info.session_id)
            if head is None:
                continue
            last, now = sent.get(info.session_id), time.monotonic()
            lasts = self._remember
            if last is not None and last.head == head:
                if now < last.until:
                    continue
                lasts = min(last.lasts * 2, REMEMBER_AT_MOST)
            _send(task, info.session_id)
            sent[info.session_id] = _Sent(head, lasts, now + lasts)
            count += 1
        return count

    def run(self, sleep: Callable[[float], object], interval: float = INTERVAL) -> int:
        """Look again and again, until `sleep` returns something true; return how many tasks were sent.

        An outage, of either broker, is logged, and the looks go on after it.

        Raises:
            QueueError: What cannot pass by itself: no such queue, no right.
        """
        count, failures = 0, 0
        while True:
            try:
                count += self.dispatch()
                if failures:
                    logger.warning("the dispatcher goes on")
                failures, pause = 0, interval
            except (QueueError, OperationalError, OSError) as error:
                if isinstance(error, PERMANENT_ERRORS):
                    raise
                if not failures:
                    logger.warning("the dispatcher cannot look, and tries again: %s", error)
                failures += 1
                pause = max(interval, pause_after(failures, LONGEST_OUTAGE_PAUSE))
            if sleep(pause):
                return count


def _send(task: Any, session_id: str) -> None:
    try:
        task.apply_async((session_id,))
    except (OperationalError, OSError):
        raise
    except Exception as error:
        # Kombu's transports let out errors of their own making while their connections break and come back.
        raise OperationalError(f"a task could not be sent: {error!r}") from error


def _tasks_of(app: Any, queue_names: tuple[str, ...]) -> dict[str, Any]:
    app.loader.import_default_modules()
    app.finalize()
    by_queue: dict[str, Any] = {}
    for task in app.tasks.values():
        queue_name = getattr(task, "session_queue", None)
        if queue_name is None or (queue_names and queue_name not in queue_names):
            continue
        if queue_name in by_queue:
            raise ConfigurationError(
                f"the queue {queue_name!r} has two session tasks, {by_queue[queue_name].name} and {task.name}: "
                "which is to be sent?"
            )
        by_queue[queue_name] = task
    for queue_name in queue_names:
        if queue_name not in by_queue:
            raise ConfigurationError(f"the Celery app {app.main!r} has no session task for the queue {queue_name!r}")
    if not by_queue:
        raise ConfigurationError(f"the Celery app {app.main!r} has no session task: @session_task(queue_name) makes one")
    return by_queue


_dispatchers: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], Dispatcher]] = weakref.WeakKeyDictionary()


def _dispatch(task: Any, *queue_names: str) -> int:
    """Look once, in this process, which remembers what it has sent before."""
    app = task.app
    of_app = _dispatchers.setdefault(app, {})
    dispatcher = of_app.get(queue_names)
    if dispatcher is None:
        dispatcher = of_app.setdefault(queue_names, Dispatcher(app, queue_names))
    return dispatcher.dispatch()


#: For Celery's beat: the queues are its arguments.
dispatch = shared_task(name="azsession.dispatch", bind=True, ignore_result=True)(_dispatch)
