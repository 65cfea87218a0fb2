"""The numbers of queues for Prometheus: a collector that asks the broker at each scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..broker.base import Broker
from ..broker.calls import CallContext
from ..broker.dead_letter_reasons import COUNTED
from ..errors import QueueError, QueueNotFoundError, UnsupportedOperationError
from ..queues import QueueStatistics

#: Queues with metrics of their own. All others are summed up.
MAX_QUEUES = 1000
#: The label of the sum. No queue has this name.
OTHER_QUEUES = "~other"
#: Queues that the broker counts at once, and seconds for all of them. A broker that answers later has its numbers left out.
BATCH, PATIENCE = 50, 8.0
#: Seconds for which the numbers of a broker that does not count by itself are used again: it lists all sessions for them.
KEPT_SECONDS = 60.0

_STATES = {
    "active": "active_count",
    "scheduled": "scheduled_count",
    "deferred": "deferred_count",
    "dead_lettered": "dead_letter_count",
}
_SESSIONS = {
    "azsession_queue_sessions": ("session_count", "Sessions with active messages. Each needs a consumer."),
    "azsession_queue_sessions_waiting": (
        "waiting_session_count",
        "Sessions with active messages that no consumer holds and no delay holds back.",
    ),
    "azsession_queue_sessions_locked": ("locked_session_count", "Sessions that a consumer holds."),
}


class QueueCollector(Collector):
    """Reports the queues of a broker, and how many messages were dead-lettered. Blocks while it collects.

    Args:
        broker: The broker.
        entities: Returns the entities to report if the broker does not know its queues.
        dead_letters: Returns how many messages clients dead-lettered, by reason, for a broker that does not count them.
        max_queues: Queues with metrics of their own.
    """

    def __init__(
        self,
        broker: Broker,
        entities: Callable[[], Sequence[str]],
        dead_letters: Callable[[], Mapping[str, int]],
        max_queues: int,
    ) -> None:
        self._broker = broker
        self._entities = entities
        self._dead_letters = dead_letters
        self._max_queues = max_queues
        self._kept: tuple[float, list[QueueStatistics]] | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. A broker that does not answer has none, and ``azsession_broker_up`` is 0."""
        up = GaugeMetricFamily("azsession_broker_up", "Whether the broker could count its queues (1) or not (0).")
        try:
            found = self._found()
        except QueueError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield GaugeMetricFamily("azsession_queues", "Queues of the broker.", value=len(found))
        yield from _queue_metrics(self._bounded(found))
        dead = CounterMetricFamily("azsession_messages_dead_lettered", "Messages that were dead-lettered.", labels=["reason"])
        counts = self._broker.dead_letter_counts()
        if counts is None:
            counts = self._dead_letters()
        for reason in COUNTED:
            dead.add_metric([reason], counts.get(reason, 0))
        yield dead

    def _found(self) -> list[QueueStatistics]:
        deadline = time.monotonic() + PATIENCE
        context = CallContext(blocking=False, deadline=deadline)
        try:
            names = [queue.name for queue in self._broker.list_queues(context=context).result(PATIENCE)]
        except UnsupportedOperationError:
            if self._kept is not None and time.monotonic() < self._kept[0] + KEPT_SECONDS:
                return self._kept[1]
            found = self._counted(self._entities(), context, deadline)
            self._kept = (time.monotonic(), found)
            return found
        except FutureTimeoutError as error:
            raise QueueError("the broker did not list its queues in time") from error
        return self._counted(names, context, deadline)

    def _counted(self, names: Sequence[str], context: CallContext, deadline: float) -> list[QueueStatistics]:
        found: list[QueueStatistics] = []
        for start in range(0, len(names), BATCH):
            futures = [self._broker.queue_statistics(name, context=context) for name in names[start : start + BATCH]]
            results = (_result(future, deadline) for future in futures)
            found += [counted for counted in results if counted is not None]
        return found

    def _bounded(self, found: list[QueueStatistics]) -> list[QueueStatistics]:
        if len(found) <= self._max_queues:
            return found
        kept, others = found[: self._max_queues], found[self._max_queues :]
        names = [*_STATES.values(), *(name for name, _ in _SESSIONS.values())]
        sums: dict[str, Any] = {
            name: sum(count for each in others if (count := getattr(each, name)) is not None) for name in names
        }
        oldest = [each.oldest_enqueued_at for each in others if each.oldest_enqueued_at is not None]
        return [*kept, QueueStatistics(name=OTHER_QUEUES, **sums, oldest_enqueued_at=min(oldest, default=None))]


def _result(future: Future[QueueStatistics], deadline: float) -> QueueStatistics | None:
    """Return the numbers of a queue; `None` if it was deleted in between, or is a topic."""
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except QueueNotFoundError:
        return None
    except FutureTimeoutError as error:
        raise QueueError("the broker did not count its queues in time") from error


def _queue_metrics(queues: Iterable[QueueStatistics]) -> Iterator[Metric]:
    messages = GaugeMetricFamily("azsession_queue_messages", "Messages in the queue.", labels=["queue", "state"])
    sessions = {name: GaugeMetricFamily(name, text, labels=["queue"]) for name, (_, text) in _SESSIONS.items()}
    age = GaugeMetricFamily(
        "azsession_queue_oldest_message_age_seconds", "Age of the oldest active message; 0 without one.", labels=["queue"]
    )
    now = time.time()
    for queue in queues:
        for state, name in _STATES.items():
            if getattr(queue, name) is not None:
                messages.add_metric([queue.name, state], getattr(queue, name))
        for metric, (name, _) in _SESSIONS.items():
            if getattr(queue, name) is not None:
                sessions[metric].add_metric([queue.name], getattr(queue, name))
        if queue.active_count is not None:
            oldest = queue.oldest_enqueued_at
            age.add_metric([queue.name], 0.0 if oldest is None else max(0.0, now - oldest.timestamp()))
    yield from (messages, *sessions.values(), age)
