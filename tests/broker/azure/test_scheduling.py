"""Scheduling messages on Azure: requests per session on partitioned entities, and repeated requests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from azsession import Message, ValidationError
from azsession.broker.azure import AzureBroker

if TYPE_CHECKING:
    from tests.standin import StandIn

AT = datetime.now(timezone.utc) + timedelta(hours=1)


def messages(*names: str) -> list[Message]:
    return [Message(str(n), session_id=name, scheduled_enqueue_time=AT) for n, name in enumerate(names)]


def scheduled(namespace: StandIn, queue: str) -> list[tuple[str | None, int]]:
    return [(name, number) for name, number, _ in namespace.accepted(queue)]


def test_each_session_of_a_partitioned_queue_has_its_own_requests(broker: AzureBroker, namespace: StandIn) -> None:
    namespace.create_queue("split", partitioned=True)
    names = ["a", "b", "a", *["c"] * 150]
    numbers = broker.schedule("split", messages(*names)).result()
    # One request was refused. Then there were one for each of the sessions a and b, and two for c.
    assert namespace.log["schedule-message"] == 5
    assert sorted(scheduled(namespace, "split")) == sorted(zip(names, numbers, strict=True))


def test_a_repeated_request_gets_the_same_numbers(broker: AzureBroker, namespace: StandIn) -> None:
    namespace.create_queue("split", partitioned=True)
    given = messages("a", "b", "a")
    numbers = broker.schedule("split", given, "request").result()
    assert broker.schedule("split", given, "request").result() == numbers
    assert len(scheduled(namespace, "split")) == 3


def test_another_refusal_is_not_tried_per_session(broker: AzureBroker, namespace: StandIn) -> None:
    namespace.create_queue("split", partitioned=True)
    namespace.refuse("schedule-message", "amqp:not-allowed", description="This is not the time.")
    with pytest.raises(ValidationError, match="not the time"):
        broker.schedule("split", messages("a", "b")).result()
    assert scheduled(namespace, "split") == []
