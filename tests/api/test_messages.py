"""The properties and attributes of a message arrive as they were sent."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from azsession import Message, MessageTooLargeError, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.messages import AttributeValue

from ..conftest import eventually
from .conftest import Arrangement, left, send, take, take_many

TEXTS = {
    "message_id": "id-1",
    "subject": "invoice, größer als je zuvor",
    "content_type": "application/json; charset=utf-8",
    "correlation_id": "to & fro",
    "reply_to": "answers",
    "reply_to_session_id": "answers/ä",
    "to": "somewhere",
}

ATTRIBUTES: dict[str, AttributeValue] = {
    "text": 'with "quotes", \\ and 日本語 🙂',
    "empty": "",
    "looks like a number": "5",
    "yes": True,
    "no": False,
    "none": 0,
    "one": 1,
    "negative": -129,
    "more than 32 bits": 2**40,
    "the largest": 2**63 - 1,
    "unsigned": 2**64 - 1,
    "the smallest": -(2**63),
    "half": 0.5,
    "whole": 3.0,
    "tiny": 5e-324,
    "huge": -1.7976931348623157e308,
    "größe": "a name that is not ASCII",
    "bytes": b"\x00\xff",
    "no bytes": b"",
    "time": datetime(2024, 2, 29, 23, 59, 59, 999000, tzinfo=timezone.utc),
    "long ago": datetime(1, 1, 1, tzinfo=timezone.utc),
    "UUID": UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff"),
    "nothing": None,
    "looks like a UUID": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
}


def test_every_text_property_arrives(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    assert provider.send_message(queue, Message(b"{}", session_id="s1", **TEXTS)) == "id-1"
    peeked = provider.peek_messages(queue, "s1")[0]
    received = take(session)
    for message in (peeked, received):
        assert {name: getattr(message, name) for name in TEXTS} == TEXTS
        assert message.session_id == "s1"
        assert message.body == b"{}"


def test_properties_that_were_not_set_are_none(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    message_id = provider.send_message(queue, Message(b"x", session_id="s1"))
    message = take(session)
    assert message.message_id == message_id
    assert [getattr(message, name) for name in TEXTS if name != "message_id"] == [None] * 6
    assert message.attributes == {}
    assert message.scheduled_enqueue_time is None
    assert (message.dead_letter_reason, message.dead_letter_description) == (None, None)


def test_attributes_keep_their_types(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    provider.send_message(queue, Message(b"x", session_id="s1", attributes=ATTRIBUTES))
    for message in (provider.peek_messages(queue, "s1")[0], take(session)):
        assert message.attributes == ATTRIBUTES
        assert {name: type(value) for name, value in message.attributes.items()} == {
            name: type(value) for name, value in ATTRIBUTES.items()
        }


def test_a_body_arrives_byte_for_byte(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    bodies = [b"", b"\x00", bytes(range(256)), b"\xff\xfe", b"\r\n\r\n", "größe 🙂".encode(), b"[]", b"\xef\xbb\xbfbom"]
    bodies.append(b"x" * 200_000)
    for body in bodies:
        provider.send_message(queue, Message(body, session_id="s1"))
        assert provider.peek_messages(queue, "s1")[0].body == body
        message = take(session)
        assert message.body == body
        session.complete_message(message)
    provider.send_messages(queue, [Message(body, session_id="s1") for body in bodies])
    assert [message.body for message in take_many(session, len(bodies))] == bodies


def test_a_body_can_be_read_as_text_and_json(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, '{"paid": "50 €"}')
    message = take(session)
    assert message.text() == '{"paid": "50 €"}'
    assert message.json() == {"paid": "50 €"}


def test_unusual_session_ids_work(provider: ServiceBusProvider, queue: str) -> None:
    for session_id in ["a/b", "a/messages/head", "x/renewlock", "50%", "a?b#c", "état 🙂", " ", "..a", "s" * 128]:
        send(provider, queue, "0", "1", session_id=session_id)
        assert left(provider, queue, session_id) == ["0", "1"]
        with provider.create_session_client(queue, session_id) as session:
            message = take(session)
            assert (message.text(), message.session_id) == ("0", session_id)
            session.complete_message(message)
        with provider.create_session_client(queue, accept_timeout=10) as session:
            assert session.session_id == session_id
            message = take(session)
            assert message.text() == "1"
            session.complete_message(message)


def test_a_received_message_has_the_details_of_its_delivery(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    before = datetime.now(timezone.utc)
    send(provider, queue, "0", "1")
    first, second = take_many(session, 2)
    after = datetime.now(timezone.utc)
    assert first.delivery_count == second.delivery_count == 1
    assert first.sequence_number is not None
    assert second.sequence_number is not None
    assert 0 < first.sequence_number < second.sequence_number
    assert before <= first.delivered_at <= after
    # Dates on the wire can be cut to whole seconds.
    assert first.enqueued_at is not None
    assert before - timedelta(seconds=1) <= first.enqueued_at <= after
    assert first.receipt.queue_name == queue
    assert first.receipt.session_id == "s1"
    assert first.receipt.expires_at is not None
    assert after < first.receipt.expires_at <= after + timedelta(seconds=60)
    assert first.receipt.handle != second.receipt.handle


def test_a_received_message_can_be_pickled(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    provider.send_message(queue, Message(b"x", session_id="s1", attributes=ATTRIBUTES, **TEXTS))
    message = take(session)
    again: ReceivedMessage = pickle.loads(pickle.dumps(message))
    assert again == message
    session.complete_message(again)
    assert left(provider, queue) == []


# Times


def test_a_message_has_its_time_to_live(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    provider.send_message(queue, Message(b"x", session_id="s1", time_to_live=timedelta(hours=1, milliseconds=250)))
    for message in (provider.peek_messages(queue, "s1")[0], take(session)):
        assert message.time_to_live == timedelta(hours=1, milliseconds=250)
        assert message.enqueued_at is not None
        assert message.expires_at == message.enqueued_at + message.time_to_live


def test_an_expired_message_is_dropped(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    provider.send_messages(queue, [Message("late", session_id="s1", time_to_live=0.3), Message("0", session_id="s1")])
    eventually(lambda: left(provider, queue) == ["0"])
    assert take(session).text() == "0"
    assert provider.dead_letters(queue) == []


def test_an_expired_message_is_dead_lettered_if_the_queue_says_so(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    queue = arrangement.queue(dead_letter_on_expiration=True)
    provider.send_message(queue, Message("late", session_id="s1", time_to_live=0.3))
    eventually(lambda: provider.dead_letters(queue))
    (letter,) = provider.dead_letters(queue)
    assert (letter.text(), letter.session_id, letter.dead_letter_reason) == ("late", "s1", "TTLExpiredException")
    assert left(provider, queue) == []


def test_a_scheduled_message_comes_at_its_time(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    at = datetime.now(timezone.utc) + timedelta(seconds=0.7)
    provider.send_message(queue, Message("later", session_id="s1", scheduled_enqueue_time=at))
    message = take(session)
    assert message.text() == "later"
    # Azure's times have milliseconds.
    assert message.delivered_at >= at - timedelta(milliseconds=2)
    assert message.scheduled_enqueue_time is not None
    assert abs(message.scheduled_enqueue_time - at) < timedelta(milliseconds=2)


def test_messages_sent_before_a_scheduled_message_is_due_overtake_it(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    at = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=9)))
    provider.send_message(queue, Message("later", session_id="s1", scheduled_enqueue_time=at))
    send(provider, queue, "now")
    peeked = {message.text(): message for message in provider.peek_messages(queue, "s1")}
    assert {text: message.state for text, message in peeked.items()} == {"later": "Scheduled", "now": "Active"}
    assert peeked["later"].scheduled_enqueue_time == datetime(2100, 1, 1, 3, tzinfo=timezone.utc)
    message = take(session)
    assert message.text() == "now"
    session.complete_message(message)
    assert session.receive_message(timeout=0) is None


# Sizes


def test_an_empty_batch_sends_nothing(provider: ServiceBusProvider, queue: str) -> None:
    assert provider.send_messages(queue, []) == []
    assert provider.list_sessions(queue) == []


def test_one_message_is_sent_without_a_list(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    [message_id] = provider.send_messages(queue, Message("a", session_id="s1"))
    assert [(message.message_id, message.text()) for message in session.messages(timeout=0)] == [(message_id, "a")]


def test_messages_that_need_several_requests_for_their_number_are_sent_in_order(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    ids = send(provider, queue, *map(str, range(2300)))
    assert len(set(ids)) == 2300
    messages = take_many(session, 1000) + take_many(session, 1000) + take_many(session, 300)
    assert [message.text() for message in messages] == [str(n) for n in range(2300)]
    assert [message.message_id for message in messages] == ids


def test_messages_that_need_several_requests_for_their_size_are_sent_in_order(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    bodies = [bytes([n]) * 150_000 for n in range(36)]
    provider.send_messages(queue, [Message(body, session_id="s1") for body in bodies])
    assert [message.body for message in take_many(session, 36)] == bodies


def test_a_batch_goes_to_many_sessions(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(str(n), session_id=f"s{n % 7}") for n in range(70)])
    for name in range(7):
        assert left(provider, queue, f"s{name}") == [str(n) for n in range(name, 70, 7)]


def test_a_message_that_is_too_large_is_refused(provider: ServiceBusProvider, queue: str) -> None:
    with pytest.raises(MessageTooLargeError):
        provider.send_message(queue, Message(b"x" * (1024 * 1024 + 1), session_id="s1"))
    assert left(provider, queue) == []
    send(provider, queue, "small")
    assert left(provider, queue) == ["small"]


# Real webhooks


def test_webhooks_arrive_as_they_were_sent(provider: ServiceBusProvider, queue: str, webhooks: list[dict[str, Any]]) -> None:
    sent = defaultdict(list)
    for event in webhooks:
        sent[event["session_id"]].append(event)
    provider.send_messages(queue, [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks])
    assert [info.session_id for info in provider.list_sessions(queue)] == sorted(sent)
    for session_id, events in sent.items():
        assert [message.json() for message in provider.peek_messages(queue, session_id, 1000)] == events


def test_a_queue_is_peeked_at_with_all_its_sessions(provider: ServiceBusProvider, queue: str) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    provider.send_messages(queue, [Message("a", session_id="s1"), Message("b", session_id="s2")])
    provider.schedule_messages(queue, [Message("c", session_id="only scheduled")], later)
    found = provider.peek_messages(queue, None, 100)
    assert [(one.session_id, one.text(), one.state) for one in found] == [
        ("s1", "a", "Active"),
        ("s2", "b", "Active"),
        ("only scheduled", "c", "Scheduled"),
    ]
    assert [one.text() for one in provider.peek_messages(queue, None, 1, found[1].sequence_number)] == ["b"]
    assert provider.peek_messages(queue, None, 10, found[-1].sequence_number + 1) == []
