"""The official SDK sends, receives, settles and browses messages, on both servers as on Azure."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusReceiveMode,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus import exceptions as errors

from ..namespaces import Namespace
from ..support.sdk import message, receive, session
from .conftest import put


def test_all_properties_of_a_message_are_delivered(client: ServiceBusClient, shared: ServiceBusSender, sid: str) -> None:
    given = {
        "message_id": "m-1",
        "correlation_id": "c-1",
        "subject": "created",
        "content_type": "application/json",
        "reply_to": "answers",
        "reply_to_session_id": "r",
        "to": "there",
        "time_to_live": timedelta(minutes=5),
    }
    own = {"text": "é", "number": 2**30, "float": 1.5, "flag": True, "id": uuid.uuid4()}
    shared.send_messages(message(b'{"n": 1}\x00\xff', sid, application_properties=dict(own), **given))
    with session(client, "shared", sid) as receiver:
        (received,) = receive(receiver, 1)
        assert b"".join(received.body) == b'{"n": 1}\x00\xff'
        assert {name: getattr(received, name) for name in given} == given
        assert {name.decode(): value for name, value in received.application_properties.items()} == {
            **own,
            "text": "é".encode(),
        }
        assert received.session_id == sid
        assert received.sequence_number == received.enqueued_sequence_number > 0
        assert received.delivery_count == 0
        assert isinstance(received.lock_token, uuid.UUID)
        assert abs(received.enqueued_time_utc - datetime.now(timezone.utc)) < timedelta(seconds=30)


def test_all_messages_of_a_batch_are_accepted_in_order(shared: ServiceBusSender, namespace: Namespace, sid: str) -> None:
    names = [f"{sid}-{number % 3}" for number in range(20)]
    batch = shared.create_message_batch()
    for name in names:
        batch.add_message(message("x", name))
    shared.send_messages(batch)
    sent = [session_id for session_id, _, _ in namespace.accepted("shared")]
    assert [name for name in sent if name and name.startswith(sid)] == names


def test_a_message_larger_than_a_frame_is_delivered(client: ServiceBusClient, shared: ServiceBusSender, sid: str) -> None:
    body = bytes(range(256)) * 800
    shared.send_messages(message(body, sid))
    with session(client, "shared", sid) as receiver:
        assert b"".join(receive(receiver, 1)[0].body) == body


def test_a_message_above_the_size_limit_is_refused(shared: ServiceBusSender) -> None:
    with pytest.raises(errors.MessageSizeExceededError):
        shared.send_messages(message(b"x" * 300_000))


def test_a_message_without_a_session_id_is_refused(shared: ServiceBusSender, namespace: Namespace) -> None:
    with pytest.raises(errors.ServiceBusError, match="SessionId"):
        shared.send_messages(message("lost", None))
    assert not [entry for entry in namespace.accepted("shared") if entry[0] is None]


def test_messages_are_settled_in_every_way(client: ServiceBusClient, namespace: Namespace, queue: str) -> None:
    put(namespace, queue, *((name, "s") for name in ("complete", "dead-letter", "defer", "abandon")))
    with session(client, queue) as receiver:
        completed, buried, deferred, abandoned = receive(receiver, 4)
        receiver.complete_message(completed)
        receiver.dead_letter_message(buried, reason="bad", error_description="very bad")
        receiver.defer_message(deferred)
        receiver.abandon_message(abandoned)
        counts = namespace.counts(queue)
        assert (counts.active, counts.dead_letter, counts.deferred, counts.locked) == (1, 1, 1, 0)

        (again,) = receive(receiver, 1)
        assert (again.message_id, again.delivery_count) == ("abandon", 1)

        (late,) = receiver.receive_deferred_messages(deferred.sequence_number)
        assert (str(late), late.session_id) == ("defer", "s")
        receiver.complete_message(late)
        with pytest.raises(errors.MessageNotFoundError):
            receiver.receive_deferred_messages(deferred.sequence_number)
    assert [message_id for _, _, message_id in namespace.completed(queue)] == ["complete", "defer"]
    with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        (dead,) = receive(receiver, 1)
        assert (str(dead), dead.dead_letter_reason, dead.dead_letter_error_description) == ("dead-letter", "bad", "very bad")
        assert (dead.sequence_number, dead.session_id, dead.dead_letter_source) == (2, "s", queue)
        receiver.renew_message_lock(dead)
        receiver.complete_message(dead)
    assert namespace.counts(queue).dead_letter == 0


def test_a_message_that_fails_too_often_is_dead_lettered(client: ServiceBusClient, namespace: Namespace) -> None:
    namespace.create_queue("fragile", max_delivery_count=2)
    put(namespace, "fragile", ("bad", "s"))
    with session(client, "fragile") as receiver:
        for _ in range(2):
            receiver.abandon_message(receive(receiver, 1)[0])
        with client.get_queue_receiver("fragile", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as dead:
            assert dead.peek_messages()[0].dead_letter_reason == "MaxDeliveryCountExceeded"


def test_an_abandoned_message_is_delivered_before_later_ones(
    client: ServiceBusClient, shared: ServiceBusSender, sid: str
) -> None:
    shared.send_messages([message(number, sid) for number in "123"])
    with session(client, "shared", sid, wait_for_close=True) as receiver:
        first, _ = receive(receiver, 2)
        receiver.abandon_message(first)
        assert [str(each) for each in receive(receiver, 2)] == ["1", "3"]
    with session(client, "shared", sid) as receiver:
        # The close returned the messages without counting a delivery.
        assert [(str(each), each.delivery_count) for each in receive(receiver, 3)] == [("1", 1), ("2", 0), ("3", 0)]


def test_receive_and_delete_completes_a_message_at_once(
    client: ServiceBusClient, shared: ServiceBusSender, namespace: Namespace, sid: str
) -> None:
    shared.send_messages(message("1", sid))
    with session(client, "shared", sid, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        assert [str(each) for each in receive(receiver, 1)] == ["1"]
    assert sid in [session_id for session_id, _, _ in namespace.completed("shared")]


def test_a_locked_message_has_its_lock_token_as_a_delivery_annotation(
    client: ServiceBusClient, shared: ServiceBusSender, sid: str
) -> None:
    shared.send_messages([message("1", sid), message("2", sid)])
    with session(client, "shared", sid, wait_for_close=True) as receiver:
        for each in receive(receiver, 2):
            assert each.raw_amqp_message.delivery_annotations == {b"x-opt-lock-token": each.lock_token}
        assert not receiver.peek_messages(1, sequence_number=1)[0].raw_amqp_message.delivery_annotations
    with session(client, "shared", sid, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        assert not receive(receiver, 1)[0].raw_amqp_message.delivery_annotations


def test_a_message_may_expire_in_the_year_9999(
    client: ServiceBusClient, shared: ServiceBusSender, namespace: Namespace, sid: str
) -> None:
    given = message("1", sid)
    given.raw_amqp_message.properties.absolute_expiry_time = 253402300799999
    shared.send_messages(given)
    with session(client, "shared", sid) as receiver:
        assert [str(each) for each in receive(receiver, 1)] == ["1"]


def test_messages_are_peeked_without_a_lock(client: ServiceBusClient, shared: ServiceBusSender, sid: str) -> None:
    shared.send_messages([message("1", sid), message("2", f"{sid}-2"), message("3", sid)])
    with session(client, "shared", sid) as receiver:
        peeked = receiver.peek_messages(10)
        assert [str(each) for each in peeked] == ["1", "3"]
        last = peeked[-1].sequence_number
        assert [str(each) for each in receiver.peek_messages(10, sequence_number=last - 1)] == ["3"]
        assert receiver.peek_messages(10, sequence_number=last + 1) == []
        assert not [each for each in peeked if each.lock_token]


def test_scheduled_messages_are_delivered_in_time_or_cancelled(
    client: ServiceBusClient, namespace: Namespace, queue: str
) -> None:
    with client.get_queue_sender(queue) as sender:
        now = datetime.now(timezone.utc)
        soon, never = sender.schedule_messages([message("soon"), message("never")], now + timedelta(seconds=4))
        assert namespace.counts(queue).scheduled == 2
        sender.cancel_scheduled_messages(never)
    with session(client, queue, NEXT_AVAILABLE_SESSION, max_wait_time=30) as receiver:
        (received,) = receive(receiver, 1)
        assert str(received) == "soon"
        assert received.sequence_number > soon
        assert datetime.now(timezone.utc) >= now + timedelta(seconds=3.9)
