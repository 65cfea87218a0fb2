"""How messages become transfers to Azure: the batch's own sections, its size, and partitioned entities."""

from __future__ import annotations

import time

import pytest

from azsession import Message, MessageTooLargeError, ProviderError, ServiceBusProvider, ValidationError, amqp
from azsession.broker.azure import AzureBroker
from azsession.broker.azure.batches import EncodedMessages, divide

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import QUEUE, broker_on, in_thread

MB = 1024 * 1024


def messages(count: int, sessions: int = 1, size: int = 10) -> list[Message]:
    return [Message(b"x" * size, session_id=f"s{at % sessions}", message_id=f"m{at}") for at in range(count)]


def accepted(namespace: Namespace, queue: str) -> list[str]:
    return [entry[2] for entry in namespace.accepted(queue)]


def test_the_batch_itself_carries_the_first_messages_id_and_session() -> None:
    encoded = EncodedMessages.of(QUEUE, messages(3))
    payload, message_format = encoded.payload((1, 2))
    assert message_format == amqp.BATCH_FORMAT
    batch = amqp.decode_message(payload)
    assert (batch.message_id, batch.group_id) == ("m1", "s0")
    assert batch.body == encoded.messages[1] + encoded.messages[2]


def test_a_transfer_has_at_most_the_size_of_a_batch() -> None:
    encoded = EncodedMessages.of(QUEUE, messages(50, sessions=3, size=1000))
    for per_session in (False, True):
        groups = divide(encoded, 10_000, per_session=per_session)
        assert sorted(at for group in groups for chunk in group for at in chunk) == list(range(50))
        assert all(len(encoded.payload(chunk)[0]) <= 10_000 for group in groups for chunk in group)
        for group in groups:
            flat = [at for chunk in group for at in chunk]
            assert flat == sorted(flat)
            assert not per_session or len({encoded.session_ids[at] for at in flat}) == 1


@stand_in_only("partitions")
def test_messages_of_several_sessions_reach_a_partitioned_queue_in_the_order_of_each_session(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    namespace.create_queue("partitioned", partitioned=True, duplicate_detection=600.0)
    for start in (0, 100):
        sent = [Message("x", session_id=f"s{at % 7}", message_id=f"m{start + at}") for at in range(100)]
        provider.send_messages("partitioned", sent)
    for number in range(7):
        ids = [message_id for name, _, message_id in namespace.accepted("partitioned") if name == f"s{number}"]
        assert ids == [f"m{start + at}" for start in (0, 100) for at in range(100) if at % 7 == number]


@stand_in_only("partitions")
def test_a_retried_request_to_a_partitioned_queue_sends_only_what_was_not_accepted(namespace: Namespace) -> None:
    namespace.create_queue("partitioned", partitioned=True)
    with broker_on(namespace) as broker:
        broker.send("partitioned", messages(2, 2)).result()
        three = [Message("x", session_id=f"s{at}", message_id=f"n{at}") for at in range(3)]
        namespace.refuse("send", "com.microsoft:server-busy", n=1)
        with pytest.raises(ProviderError, match="2 of these 3 messages were accepted") as caught:
            broker.send("partitioned", three, "r1").result()
        assert caught.value.accepted == 2
        broker.send("partitioned", three, "r1").result()
        broker.send("partitioned", three, "r1").result()
    assert sorted(accepted(namespace, "partitioned")[2:]) == ["n0", "n1", "n2"]


@stand_in_only("sizes of batches that differ from the sizes of messages")
@pytest.mark.parametrize("announced", [True, False])
def test_batches_stay_below_a_megabyte_where_messages_may_be_larger(
    provider: ServiceBusProvider, namespace: Namespace, announced: bool
) -> None:
    namespace.create_queue("premium", max_message_size=100 * MB, announces_batch_size=announced)
    ids = provider.send_messages("premium", messages(30, size=100_000))
    assert accepted(namespace, "premium") == ids


@stand_in_only("sizes of batches that differ from the sizes of messages")
def test_the_announced_size_of_batches_is_kept(provider: ServiceBusProvider, namespace: Namespace) -> None:
    namespace.create_queue("small", max_batch_size=5000)
    ids = provider.send_messages("small", messages(40, size=500))
    assert accepted(namespace, "small") == ids


def test_a_message_that_is_too_large_is_named_by_its_position_before_anything_is_sent(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    sent = messages(6)
    sent[3] = Message(b"x" * 300_000, session_id="s0")
    with pytest.raises(MessageTooLargeError, match=r"message 4 of 6 has 300[0-9]{3} bytes; the limit is 262144") as caught:
        provider.send_messages(QUEUE, sent)
    assert caught.value.limit == 262144
    assert caught.value.accepted == 0
    assert accepted(namespace, QUEUE) == []


def test_positions_count_in_the_callers_list_beyond_the_first_request(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    sent = messages(1010)
    sent[1004] = Message(b"x" * 300_000, session_id="s0")
    with pytest.raises(MessageTooLargeError, match="message 1005 of 1010 has") as caught:
        provider.send_messages(QUEUE, sent)
    assert caught.value.accepted == 1000


def test_a_detach_with_a_reason_raises_that_error(broker: AzureBroker, namespace: Namespace) -> None:
    broker.send(QUEUE, messages(1)).result()
    namespace.swallow("send")
    sending = in_thread(lambda: broker.send(QUEUE, messages(2)).result())
    eventually(lambda: len(namespace.accepted(QUEUE)) == 3)
    namespace.detach_links(QUEUE, condition="amqp:not-allowed", description="Detach origin: Publisher.")
    with pytest.raises(ValidationError, match="Detach origin: Publisher"):
        sending.result(10)


@stand_in_only("sizes of batches that differ from the sizes of messages")
def test_a_batch_is_not_sent_before_the_link_says_how_large_it_may_be(namespace: Namespace) -> None:
    namespace.create_queue("small", max_batch_size=5000)
    with broker_on(namespace) as broker:
        namespace.delay(0.2)
        started = time.monotonic()
        broker.send("small", messages(40, size=500)).result()
        assert time.monotonic() - started > 0.2
        namespace.delay(0)
    assert len(accepted(namespace, "small")) == 40
