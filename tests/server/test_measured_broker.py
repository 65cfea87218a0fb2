"""What passes a measured broker is counted; failures and withdrawn operations are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from azsession import Message, QueueNotFoundError
from azsession.broker.base import Broker
from azsession.broker.calls import CallContext, Disposition, ReceiveRequest, Settlement
from azsession.broker.embedded import EmbeddedBroker
from azsession.server.measured_broker import MAX_ENTITIES, BrokerCounters, measured


@pytest.fixture
def counters() -> BrokerCounters:
    return BrokerCounters(CollectorRegistry())


@pytest.fixture
def broker(counters: BrokerCounters) -> Iterator[Broker]:
    with EmbeddedBroker(queues=["q"]) as broker:
        yield measured(broker, counters)


def count(counter: object) -> float:
    return counter._value.get()  # type: ignore[attr-defined, no-any-return]


def test_failed_operations_are_not_counted(broker: Broker, counters: BrokerCounters) -> None:
    with pytest.raises(QueueNotFoundError):
        broker.send("nowhere", [Message("x", session_id="s")]).result()
    assert broker.settle("q", "s", [Settlement("unknown", Disposition.COMPLETE)]).result() != [None]
    request = ReceiveRequest("q", "s", "A", max_count=1, timeout=60)
    assert broker.receive(request, context=CallContext(blocking=False)).cancel()
    assert count(counters.sent) == count(counters.delivered) == count(counters.settled[Disposition.COMPLETE]) == 0
    assert counters.entities() == ["q"]


def test_everything_else_is_the_brokers(broker: Broker) -> None:
    assert [queue.name for queue in broker.list_queues().result()] == ["q"]
    assert broker.dead_letter_counts() == {}


def test_the_entities_that_are_remembered_are_bounded(counters: BrokerCounters) -> None:
    for number in range(MAX_ENTITIES + 5):
        counters.used(f"q{number}")
    assert len(counters.entities()) == MAX_ENTITIES
