"""The official SDK uses entities with special settings on the stand-in, so the stand-in follows Azure's rules for them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from tests.standin.require import require_standin

require_standin()

from azure.servicebus import ServiceBusClient  # noqa: E402
from azure.servicebus import exceptions as errors  # noqa: E402

from tests.support.sdk import message, receive, send, session  # noqa: E402

if TYPE_CHECKING:
    from tests.standin import StandIn


def test_a_partitioned_queue_refuses_a_batch_of_several_sessions(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("mixed", partitioned=True)
    with pytest.raises(errors.ServiceBusError, match="distinct SessionId or PartitionKey"):
        send(client, "mixed", message("1", "a"), message("2", "b"))
    assert namespace.accepted("mixed") == []
    send(client, "mixed", message("1", "a"), message("2", "a"))
    assert [session_id for session_id, _, _ in namespace.accepted("mixed")] == ["a", "a"]


def test_a_partitioned_queue_refuses_a_batch_of_several_partition_keys(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("keys", partitioned=True, requires_session=False)
    with pytest.raises(errors.ServiceBusError, match="distinct SessionId or PartitionKey"):
        send(client, "keys", message("1", None, partition_key="a"), message("2", None, partition_key="b"))
    send(client, "keys", message("1", None, partition_key="a"), message("2", None, partition_key="a"))
    send(client, "keys", message("3", None), message("4", None))
    assert namespace.counts("keys").active == 4


def test_messages_of_one_session_are_in_one_partition(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("split", partitioned=True)
    names = [f"s{number}" for number in range(8)] * 2
    for name in names:
        send(client, "split", message("x", name))
    partitions: dict[str | None, set[int]] = {}
    for name, number, _ in namespace.accepted("split"):
        partitions.setdefault(name, set()).add(number >> 48)
    assert {len(found) for found in partitions.values()} == {1}
    assert len(set.union(*partitions.values())) > 1


def test_a_peek_on_a_partitioned_queue_returns_one_message(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("peeked", partitioned=True)
    send(client, "peeked", *(message(text, "s") for text in "123"))
    with session(client, "peeked", "s") as receiver:
        peeked = [receiver.peek_messages(10) for _ in range(4)]
        assert [[str(each) for each in found] for found in peeked] == [["1"], ["2"], ["3"], []]


def test_senders_are_told_the_largest_batch(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("standard")
    namespace.create_queue("premium", max_message_size=100 * 1024 * 1024)
    namespace.create_queue("small", max_batch_size=5000)
    for name, limit in (("standard", 256 * 1024), ("premium", 1024 * 1024), ("small", 5000)):
        with client.get_queue_sender(name) as sender:
            assert sender.create_message_batch().max_size_in_bytes == limit


def test_a_batch_above_the_limit_detaches_the_link(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("untold", max_batch_size=5000, announces_batch_size=False)
    with client.get_queue_sender("untold") as sender:
        batch = sender.create_message_batch()
        assert batch.max_size_in_bytes == 256 * 1024
        for _ in range(2):
            batch.add_message(message("x" * 3000))
        link = sender._handler._link
        # This version of the SDK does not raise the error of a detach to a waiting send, but keeps it at the link.
        with pytest.raises(errors.ServiceBusError):
            sender.send_messages(batch)
        assert link._error.condition == b"amqp:not-allowed"
        assert b"force detached by the broker" in link._error.description
        assert namespace.accepted("untold") == []
        # The limit is not one of single messages.
        sender.send_messages(message("x" * 6000))
    assert namespace.counts("untold").active == 1


def test_a_duplicate_is_accepted_and_dropped(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("once", duplicate_detection=600.0)
    send(client, "once", message("first", "a", message_id="m"), message("other", "a", message_id="n"))
    # A message id counts for the whole queue, whatever the session.
    send(client, "once", message("again", "b", message_id="m"))
    assert [(name, message_id) for name, _, message_id in namespace.accepted("once")] == [("a", "m"), ("a", "n")]
    with session(client, "once", "a") as receiver:
        for each in receive(receiver, 2):
            receiver.complete_message(each)
    # A settled message still counts.
    send(client, "once", message("again", "a", message_id="m"))
    assert namespace.counts("once").active == 0


def test_a_scheduled_message_counts_as_a_duplicate(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_queue("planned", duplicate_detection=600.0)
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with client.get_queue_sender("planned") as sender:
        sender.schedule_messages(message("later", message_id="m"), later)
        sender.send_messages(message("now", message_id="m"))
    counts = namespace.counts("planned")
    assert (counts.active, counts.scheduled) == (0, 1)


def test_a_topic_drops_duplicates_for_all_subscriptions(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_topic("news", duplicate_detection=600.0)
    namespace.create_subscription("news", "a")
    namespace.create_subscription("news", "b")
    with client.get_topic_sender("news") as sender:
        for _ in range(2):
            sender.send_messages(message("x", message_id="m"))
    assert [namespace.counts(f"news/subscriptions/{name}").active for name in "ab"] == [1, 1]


def test_a_subscription_that_is_created_again_is_empty(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_topic("reborn", max_message_size=1000)
    for _ in range(2):
        namespace.create_subscription("reborn", "s", max_message_size=1000)
        with client.get_topic_sender("reborn") as sender:
            sender.send_messages(message("x"))
    assert namespace.counts("reborn/subscriptions/s").active == 1
    # The earlier one takes nothing any more, and so refuses nothing.
    namespace.create_subscription("reborn", "s", requires_session=False, max_message_size=1000)
    with client.get_topic_sender("reborn") as sender:
        sender.send_messages(message("x", None))


def test_a_topic_without_subscriptions_drops_messages(client: ServiceBusClient, namespace: StandIn) -> None:
    namespace.create_topic("unheard")
    with client.get_topic_sender("unheard") as sender:
        sender.send_messages([message("1"), message("2", None)])
        assert len(sender.schedule_messages(message("later"), datetime.now(timezone.utc) + timedelta(hours=1))) == 1
    namespace.create_subscription("unheard", "late")
    assert namespace.counts("unheard/subscriptions/late").active == 0
