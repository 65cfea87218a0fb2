"""The collector of queues with a broker that does not count by itself, like Azure's."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from azsession import ProviderError, QueueNotFoundError, QueueStatistics, UnsupportedOperationError
from azsession.broker.base import Broker
from azsession.server import queue_metrics
from azsession.server.queue_metrics import QueueCollector


class Remote:
    """A broker that neither lists its queues nor knows its dead letters."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    def list_queues(self, *, context: Any) -> Future[Any]:
        return failed(UnsupportedOperationError("no"))

    def queue_statistics(self, entity: str, *, context: Any) -> Future[QueueStatistics]:
        self.asked.append(entity)
        if self.error is not None:
            return failed(self.error)
        if entity == "topic":
            return failed(QueueNotFoundError("a topic"))
        future: Future[QueueStatistics] = Future()
        if entity != "slow":
            future.set_result(QueueStatistics(name=entity, session_count=3, locked_session_count=1))
        return future

    def dead_letter_counts(self) -> None:
        return None


def failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def entities() -> list[str]:
    return ["orders", "topic", "topic/subscriptions/s"]


@pytest.fixture
def registry(remote: Remote, entities: list[str]) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(QueueCollector(cast("Broker", remote), lambda: entities, lambda: {"other": 4}, 10))
    return found


def values(registry: CollectorRegistry) -> dict[str, float]:
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {" ".join((one.name.removeprefix("azsession_"), *one.labels.values())): one.value for one in samples}


def test_the_entities_that_clients_used_are_reported(registry: CollectorRegistry) -> None:
    found = values(registry)
    assert found["queue_sessions orders"] == found["queue_sessions topic/subscriptions/s"] == 3
    assert found["queue_sessions_locked orders"] == 1
    # Azure does not tell these numbers, and topics have none.
    assert not [name for name in found if "waiting" in name or "queue_messages" in name or "age" in name.split(" ")[0][-12:]]
    assert not [name for name in found if name.endswith(" topic")]
    assert (found["broker_up"], found["queues"]) == (1, 2)
    assert found["messages_dead_lettered_total other"] == 4


def test_azure_is_not_asked_at_each_scrape(
    registry: CollectorRegistry, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert values(registry) == values(registry)
    assert remote.asked == ["orders", "topic", "topic/subscriptions/s"]
    monkeypatch.setattr(queue_metrics, "KEPT_SECONDS", 0.0)
    values(registry)
    assert len(remote.asked) == 6


def test_a_failure_means_down(registry: CollectorRegistry, remote: Remote) -> None:
    remote.error = ProviderError("away")
    assert values(registry) == {"broker_up": 0}


def test_a_broker_that_does_not_answer_is_down(
    registry: CollectorRegistry, entities: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_metrics, "PATIENCE", 0.05)
    entities.append("slow")
    assert values(registry) == {"broker_up": 0}
