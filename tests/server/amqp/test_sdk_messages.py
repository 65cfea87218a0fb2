"""The official SDK and messages on the AMQP endpoint: the cases beside `tests/sdk`, for example those with HTTP."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus import exceptions as errors
from azure.servicebus.amqp import AmqpAnnotatedMessage

from azsession import Message, ServiceBusProvider

from ...support.sdk import message, receive, send, session


@pytest.mark.parametrize(
    "body",
    [{"value_body": {"a": [1, None]}}, {"sequence_body": [1, "b", None]}, {"data_body": [b"one", b"two"]}],
    ids=["value", "sequence", "two data sections"],
)
def test_bodies_of_all_kinds_come_back_over_amqp_and_mapped_over_http(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str, body: dict[str, object]
) -> None:
    sent = AmqpAnnotatedMessage(
        **body,
        properties={"group_id": "s", "message_id": uuid.UUID(int=5)},
        annotations={"x-own": 7},
        application_properties={"n": 1},
        # The SDK writes these sections in this order, behind the body.
        footer={"x-foot": 1},
        delivery_annotations={"x-next": 1},
    )
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(sent)
    with session(client, queue, wait_for_close=True) as receiver:
        raw = receive(receiver, 1)[0].raw_amqp_message
        assert raw.body_type == sent.body_type
        assert raw.properties.message_id == uuid.UUID(int=5)
        assert (raw.annotations[b"x-own"], raw.footer) == (7, {b"x-foot": 1})
        assert raw.delivery_annotations[b"x-next"] == 1
        found = list(raw.body) if isinstance(raw.body, (list, map)) or hasattr(raw.body, "__next__") else raw.body
    with provider.create_session_client(queue, "s") as over_http:
        received = over_http.receive_message(timeout=5)
        assert received is not None
        assert received.message_id == str(uuid.UUID(int=5))
        assert received.attributes == {"n": 1}
        # The SDK released the message: that counts no delivery.
        assert received.delivery_count == 1
        expected = {"value_body": b'{"a":[1,null]}', "sequence_body": b'[1,"b",null]', "data_body": b"onetwo"}
        assert received.body == expected[next(iter(body))]
    assert found


def test_a_message_without_an_id_has_the_same_one_over_both_protocols(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(AmqpAnnotatedMessage(data_body=b"x", properties={"group_id": "s", "subject": "placed"}))
    (peeked,) = provider.peek_messages(queue, "s")
    with session(client, queue) as receiver:
        (over_amqp,) = receiver.peek_messages(1)
        (received,) = receive(receiver, 1)
    assert peeked.message_id
    assert received.message_id == over_amqp.message_id == peeked.message_id
    assert received.subject == "placed"


def test_delivery_annotations_come_back(client: ServiceBusClient, queue: str) -> None:
    # The SDK encodes them behind the footer, although AMQP 1.0 §3.2 puts them before the message's annotations.
    sent = AmqpAnnotatedMessage(
        data_body=b"one", properties={"group_id": "s"}, delivery_annotations={"own": 3}, footer={"end": 4}
    )
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(sent)
    with session(client, queue) as receiver:
        (received,) = receive(receiver, 1)
        raw = received.raw_amqp_message
        assert raw.delivery_annotations == {b"own": 3, b"x-opt-lock-token": received.lock_token}
        assert (b"".join(received.body), raw.footer) == (b"one", {b"end": 4})


def test_a_message_without_a_body_comes_back_without_one_and_is_empty_over_http(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    send(client, queue, ServiceBusMessage(None, session_id="s"))
    with session(client, queue) as receiver:
        (received,) = receive(receiver, 1)
        assert received.body is None
        receiver.abandon_message(received)
    (peeked,) = provider.peek_messages(queue, "s")
    assert peeked.body == b""


def test_a_message_sent_over_http_comes_over_amqp(client: ServiceBusClient, provider: ServiceBusProvider, queue: str) -> None:
    when = datetime(2030, 1, 2, tzinfo=timezone.utc)
    given = Message("x", session_id="s", message_id="m", subject="a", attributes={"n": 5, "when": when}, time_to_live=60)
    provider.send_message(queue, given)
    with session(client, queue) as receiver:
        (received,) = receive(receiver, 1)
        assert (str(received), received.message_id, received.subject) == ("x", "m", "a")
        assert received.application_properties[b"n"] == 5
        assert received.time_to_live == timedelta(seconds=60)
        receiver.complete_message(received)
    assert provider.peek_messages(queue, "s") == []


def test_all_messages_of_a_batch_are_stored_in_order(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    with client.get_queue_sender(queue) as sender:
        batch = sender.create_message_batch()
        for number in range(20):
            batch.add_message(message(str(number), f"s{number % 2}"))
        sender.send_messages(batch)
    assert [one.text() for one in provider.peek_messages(queue, "s1", 100)] == [str(number) for number in range(1, 20, 2)]


def test_messages_are_settled_in_every_way(client: ServiceBusClient, provider: ServiceBusProvider, queue: str) -> None:
    send(client, queue, *(message(name, message_id=name) for name in ("complete", "dead-letter", "defer", "abandon")))
    with session(client, queue) as receiver:
        completed, buried, deferred, abandoned = receive(receiver, 4)
        receiver.complete_message(completed)
        receiver.dead_letter_message(buried, reason="bad", error_description="very bad")
        receiver.defer_message(deferred)
        receiver.abandon_message(abandoned)
        (again,) = receive(receiver, 1)
        assert (again.message_id, again.delivery_count) == ("abandon", 1)
        receiver.complete_message(again)
        (late,) = receiver.receive_deferred_messages(deferred.sequence_number)
        assert (str(late), late.session_id, late.delivery_count) == ("defer", "s", 0)
        assert late.state == ServiceBusMessageState.DEFERRED
        receiver.complete_message(late)
        with pytest.raises(errors.MessageNotFoundError):
            receiver.receive_deferred_messages(deferred.sequence_number)
    assert provider.peek_messages(queue, "s") == []
    (dead,) = provider.dead_letters(queue)
    assert (dead.text(), dead.dead_letter_reason, dead.dead_letter_description) == ("dead-letter", "bad", "very bad")


def test_dead_letters_are_received_without_a_session(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    send(client, queue, message("1"), message("2"))
    with session(client, queue) as receiver:
        for received in receive(receiver, 2):
            receiver.dead_letter_message(received, reason="bad")
    with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        first, second = receive(receiver, 2)
        assert (str(first), first.dead_letter_reason, first.session_id, first.dead_letter_source) == ("1", "bad", "s", queue)
        with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as other:
            assert other.receive_messages(5, max_wait_time=0.2) == []
        receiver.renew_message_lock(first)
        receiver.complete_message(first)
        receiver.abandon_message(second)
        (again,) = receive(receiver, 1)
        assert [str(one) for one in receiver.peek_messages(10, sequence_number=1)] == ["2"]
        token = again.lock_token
        assert token is not None
        receiver.complete_message(again)
        with pytest.raises(errors.MessageLockLostError):
            receiver._settle_message_via_mgmt_link("completed", [token])
    assert provider.dead_letters(queue) == []


def test_receive_and_delete_settles_nothing_and_leaves_nothing(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    send(client, queue, message("1"), message("2"))
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    with session(client, queue, receive_mode=mode, wait_for_close=True) as receiver:
        assert [str(one) for one in receive(receiver, 2)] == ["1", "2"]
    assert provider.peek_messages(queue, "s") == []


def test_messages_are_scheduled_and_cancelled(client: ServiceBusClient, queue: str) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    with client.get_queue_sender(queue) as sender:
        numbers = sender.schedule_messages([message("1"), message("2")], later)
        sender.cancel_scheduled_messages(numbers[0])
        with pytest.raises(errors.ServiceBusError):
            sender.cancel_scheduled_messages(numbers[0])
        soon = datetime.now(timezone.utc) + timedelta(seconds=0.2)
        sender.send_messages(ServiceBusMessage("3", session_id="s", scheduled_enqueue_time_utc=soon))
    with session(client, queue) as receiver:
        assert [str(one) for one in receive(receiver, 1)] == ["3"]
        assert {str(one): one.state for one in receiver.peek_messages(10, sequence_number=1)} == {"2": 2, "3": 0}


def test_many_messages_are_received_with_prefetch(client: ServiceBusClient, queue: str) -> None:
    with client.get_queue_sender(queue) as sender:
        sender.send_messages([message(str(number)) for number in range(1500)])
    seen = []
    with session(client, queue, prefetch_count=200, max_wait_time=5) as receiver:
        for received in receiver:
            seen.append(int(str(received)))
            receiver.complete_message(received)
            if len(seen) == 1500:
                break
    assert seen == list(range(1500))
