"""Scheduling messages on Azure: requests per session on partitioned entities, sizes, and repeated requests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession import ConnectionFailedError, Message, MessageTooLargeError, ValidationError
from azsession.broker.azure import AzureBroker

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import broker_on

AT = datetime.now(timezone.utc) + timedelta(hours=1)


def messages(*names: str) -> list[Message]:
    return [Message(str(n), session_id=name, scheduled_enqueue_time=AT) for n, name in enumerate(names)]


def scheduled(namespace: Namespace, queue: str) -> list[tuple[str | None, int]]:
    return [(name, number) for name, number, _ in namespace.accepted(queue)]


@stand_in_only("partitions")
def test_each_session_of_a_partitioned_queue_has_its_own_requests(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("split", partitioned=True)
    names = ["a", "b", "a", *["c"] * 150]
    numbers = broker.schedule("split", messages(*names)).result()
    # One request was refused. Then there were one for each of the sessions a and b, and two for c.
    assert namespace.log["schedule-message"] == 5
    assert sorted(scheduled(namespace, "split")) == sorted(zip(names, numbers, strict=True))


@stand_in_only("partitions")
def test_a_repeated_request_gets_the_same_numbers(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("split", partitioned=True)
    given = messages("a", "b", "a")
    numbers = broker.schedule("split", given, "request").result()
    assert broker.schedule("split", given, "request").result() == numbers
    assert len(scheduled(namespace, "split")) == 3


@stand_in_only("partitions")
def test_another_refusal_is_not_tried_per_session(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("split", partitioned=True)
    namespace.refuse("schedule-message", "amqp:not-allowed", description="This is not the time.")
    with pytest.raises(ValidationError, match="not the time"):
        broker.schedule("split", messages("a", "b")).result()
    assert scheduled(namespace, "split") == []


@stand_in_only("a limit of one queue")
def test_a_message_that_is_too_large_is_named_before_any_is_scheduled(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("small", max_message_size=1000)
    given = [*messages("a", "b"), Message(b"x" * 2000, session_id="a", scheduled_enqueue_time=AT)]
    with pytest.raises(MessageTooLargeError, match=r"message 3 has [0-9]+ bytes; the limit is 1000"):
        broker.schedule("small", given).result()
    assert scheduled(namespace, "small") == []


@stand_in_only("a limit of one queue")
def test_a_request_is_at_most_as_large_as_a_message(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("small", max_message_size=3000)
    given = [Message(b"x" * 1200, session_id="a", scheduled_enqueue_time=AT) for _ in range(6)]
    assert len(set(broker.schedule("small", given).result())) == 6
    assert namespace.log["schedule-message"] == 3


def test_an_attempt_waits_for_the_one_before(broker: AzureBroker, namespace: Namespace) -> None:
    namespace.create_queue("split")
    broker.schedule("split", messages("a")).result()
    namespace.delay(60.0)
    futures = [broker.schedule("split", messages("a", "b"), "request") for _ in range(2)]
    eventually(lambda: namespace.log["schedule-message"] == 2)
    namespace.delay(0)
    first, second = (future.result() for future in futures)
    assert first == second
    assert len(scheduled(namespace, "split")) == 3


def test_an_attempt_after_a_lost_answer_does_not_schedule_again(namespace: Namespace) -> None:
    namespace.create_queue("split")
    with broker_on(namespace, request_timeout=1.0) as broker:
        namespace.swallow("schedule-message")
        for _ in range(2):
            with pytest.raises(ConnectionFailedError) as caught:
                broker.schedule("split", messages("a"), "request").result()
            assert caught.value.maybe_delivered
    assert len(scheduled(namespace, "split")) == 1
