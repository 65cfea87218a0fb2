"""The expectations of Microsoft's session tests for azure-servicebus, stated for this API.

Each test names the test of `tests/test_sessions.py` or `tests/test_list_sessions.py` whose expectation it states.
`tests/standin/test_microsoft.py` runs those tests themselves.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from azsession import (
    InvalidReceiptError,
    Message,
    NoSessionAvailableError,
    PeekedMessage,
    ProviderError,
    QueueNotFoundError,
    ServiceBusProvider,
    SessionClient,
    ValidationError,
)

from .conftest import Arrangement, left, number_of, send, take, take_many

TEN = [str(number) for number in range(10)]
DEAD = ("Testing reason", "Testing description")


def deferred_ten(provider: ServiceBusProvider, queue: str, sid: str) -> list[int]:
    """Send ten messages and defer all; return their sequence numbers."""
    send(provider, queue, *TEN, session_id=sid)
    with provider.create_session_client(queue, sid) as session:
        messages = take_many(session, 10)
        for message in messages:
            session.defer_message(message)
        assert session.receive_message(timeout=0) is None
    return [number_of(message) for message in messages]


def number_of_peeked(message: PeekedMessage) -> int:
    assert message.sequence_number is not None
    return message.sequence_number


def dead(provider: ServiceBusProvider, queue: str) -> list[tuple[str, str | None, str | None]]:
    letters = provider.dead_letters(queue, max_message_count=100)
    return [(each.text(), each.dead_letter_reason, each.dead_letter_description) for each in letters]


# Receiving


@pytest.mark.parametrize("name", ["named", ""])
def test_all_properties_arrive_and_a_message_with_a_used_id_is_another_message(
    provider: ServiceBusProvider, queue: str, name: str
) -> None:
    """receive_handler_peeklock: also for the session "", and a message that is sent again arrives again."""
    fields: dict[str, Any] = {
        "subject": "label",
        "content_type": "application/text",
        "correlation_id": "cid",
        "to": "to",
        "reply_to": "reply_to",
        "reply_to_session_id": "reply_to_session_id",
        "attributes": {"key": "value"},
    }
    with provider.create_session_client(queue, name) as session:
        for number in range(3):
            provider.send_message(queue, Message(f"no. {number}", session_id=name, message_id=str(number), **fields))
        counts: dict[str, int] = {}
        for message in session.messages(timeout=0.5):
            assert {field: getattr(message, field) for field in fields} == fields
            assert (message.session_id, message.delivery_count) == (name, 1)
            assert message.sequence_number
            assert message.enqueued_at
            assert message.message_id is not None
            session.complete_message(message)
            counts[message.message_id] = counts.get(message.message_id, 0) + 1
            if counts[message.message_id] == 1:
                again = Message(message.body, session_id=name, message_id=message.message_id, **fields)
                provider.send_message(queue, again)
    assert counts == {"0": 2, "1": 2, "2": 2}


@pytest.mark.parametrize("name", [1, b"s"])
def test_a_session_id_is_text(provider: ServiceBusProvider, queue: str, name: Any) -> None:
    """receive_handler_peeklock: a session id that is not text is refused."""
    with pytest.raises(ValidationError):
        provider.create_session_client(queue, name)


def test_what_was_received_and_settled_does_not_come_to_the_next_holder(
    provider: ServiceBusProvider, queue: str, sid: str
) -> None:
    """receive_handler_receiveanddelete: ten messages come once, and a later holder gets none."""
    send(provider, queue, *TEN, session_id=sid)
    with provider.create_session_client(queue, sid) as session:
        assert [message.text() for message in session.messages(timeout=0.3) if not session.complete_message(message)] == TEN
        assert not session.closed
    assert session.closed
    with provider.create_session_client(queue, sid) as session:
        assert list(session.messages(timeout=0)) == []


def test_an_iteration_can_end_early_and_be_continued(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """receive_handler_with_stop: the receiver stays open, and another loop gets the next message."""
    send(provider, queue, *TEN, session_id=sid)
    seen = []
    with provider.create_session_client(queue, sid) as session:
        for most in (5, 6):
            for message in session.messages(timeout=5):
                session.complete_message(message)
                seen.append(message.text())
                if len(seen) >= most:
                    break
            assert not session.closed
    assert seen == TEN[:6]
    assert left(provider, queue, sid) == TEN[6:]


def test_a_session_without_messages_is_held_and_stays_open(opened: SessionClient) -> None:
    """receive_handler_with_inactive_session."""
    assert list(opened.messages(timeout=0.1)) == []
    assert not opened.closed
    assert not opened.is_lock_lost


def test_sessions_whose_ids_begin_alike_are_separate(provider: ServiceBusProvider, queue: str) -> None:
    """session_id_str_bytes."""
    names = ["a" * length for length in range(1, 6)]
    for name in names:
        send(provider, queue, name, session_id=name)
    for name in names:
        with provider.create_session_client(queue, name) as session:
            (message,) = session.receive_messages(10, timeout=10)
            assert (message.session_id, message.text()) == (name, name)


def test_a_message_without_a_session_id_is_refused(provider: ServiceBusProvider, queue: str) -> None:
    """non_session_send_to_session_queue_should_fail."""
    with pytest.raises(ValidationError):
        provider.send_message(queue, Message("This should be an invalid non session message"))
    assert provider.list_sessions(queue) == []


def test_an_abandoned_message_comes_again(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """receive_handler_peeklock_abandon: the first message has the sequence number 1, and comes again after an abandon."""
    send(provider, queue, *"abc", session_id=sid)
    with provider.create_session_client(queue, sid) as session:
        messages = session.messages(timeout=5)
        first = next(messages)
        assert first.sequence_number == 1
        session.abandon_message(first)
        assert next(messages).sequence_number == 1


def test_two_messages_of_a_session_are_sent_together_to_any_queue(
    arrangement: Arrangement, provider: ServiceBusProvider, sid: str
) -> None:
    """session_partition_batch: a batch of one session is accepted, also by a partitioned queue."""
    queue = arrangement.queue(**({"partitioned": True} if arrangement.is_azure else {}))
    send(provider, queue, "Message 1", "Message 2", session_id=sid)
    with provider.create_session_client(queue, sid) as session:
        assert [(each.text(), each.session_id) for each in take_many(session, 2)] == [("Message 1", sid), ("Message 2", sid)]
    assert left(provider, queue, sid) == ["Message 1", "Message 2"]


# The next available session


def test_without_a_session_an_accept_ends_at_its_timeout(provider: ServiceBusProvider, queue: str) -> None:
    """receive_handler_with_no_session and next_available_session_timeout_value: the caller's timeout decides."""
    for timeout in (0.2, 1.2):
        start = time.monotonic()
        with pytest.raises(NoSessionAvailableError):
            provider.create_session_client(queue, accept_timeout=timeout)
        assert timeout <= time.monotonic() - start < timeout + 10


def test_failed_calls_leave_a_provider_usable(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """connection_failure_is_idempotent: an unknown queue, then no session, then a message that arrives."""
    for _ in range(2):
        with pytest.raises(QueueNotFoundError):
            provider.create_session_client("THIS_IS_WRONG_ON_PURPOSE", accept_timeout=0)
        with pytest.raises(QueueNotFoundError):
            send(provider, "THIS_IS_WRONG_ON_PURPOSE", "x")
    with pytest.raises(NoSessionAvailableError):
        provider.create_session_client(queue, accept_timeout=0.1)
    send(provider, queue, "test session sender", session_id=sid)
    with provider.create_session_client(queue, accept_timeout=10) as session:
        assert session.session_id == sid
        assert [message.text() for message in session.messages(timeout=0.1)] == ["test session sender"]


def test_workers_receive_every_message_of_every_session(provider: ServiceBusProvider, queue: str) -> None:
    """session_pool: five workers accept the next session, and get 20 messages of each of 5 sessions."""
    names = [str(uuid.uuid4()) for _ in range(5)]
    for name in names:
        send(provider, queue, *map(str, range(20)), session_id=name)

    seen: list[tuple[str, str]] = []

    def work() -> None:
        while len(seen) < 100:
            try:
                session = provider.create_session_client(queue, accept_timeout=0.5)
            except NoSessionAvailableError:
                continue
            with session:
                for message in session.messages(timeout=0.1):
                    session.complete_message(message)
                    seen.append((message.session_id or "", message.text()))

    with ThreadPoolExecutor(5) as threads:
        for done in [threads.submit(work) for _ in range(5)]:
            done.result(60)
    assert sorted(seen) == sorted((name, str(number)) for name in names for number in range(20))


# Deferring and dead-lettering


def test_the_next_holder_completes_deferred_messages(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """retrieve_deferred_receiver_complete: all ten come by their numbers, in order, with locks."""
    numbers = deferred_ten(provider, queue, sid)
    with provider.create_session_client(queue, sid) as session:
        messages = session.receive_deferred_messages(numbers)
        assert [message.text() for message in messages] == TEN
        for message in messages:
            assert message.receipt
            session.complete_message(message)
        # receiver_deletemode: after that, their numbers are unknown.
        with pytest.raises(ProviderError) as caught:
            session.receive_deferred_messages(numbers)
        assert caught.value.code == "MessageNotFound"
    assert left(provider, queue, sid) == []


def test_the_next_holder_dead_letters_deferred_messages(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """retrieve_deferred_receiver_deadletter: the dead letters have the reason and the description."""
    numbers = deferred_ten(provider, queue, sid)
    with provider.create_session_client(queue, sid) as session:
        for message in session.receive_deferred_messages(numbers):
            session.dead_letter_message(message, *DEAD)
    assert dead(provider, queue) == [(text, *DEAD) for text in TEN]


def test_the_receipt_from_before_a_deferral_is_used_up(
    provider: ServiceBusProvider, queue: str, sid: str, opened: SessionClient
) -> None:
    """retrieve_deferred_client: after a deferral, only the new receipt settles the message."""
    send(provider, queue, "x", session_id=sid)
    message = take(opened)
    opened.defer_message(message)
    (again,) = opened.receive_deferred_messages([number_of(message)])
    with pytest.raises(InvalidReceiptError):
        opened.complete_message(message)
    opened.complete_message(again)


def test_an_open_receiver_dead_letters_what_arrives(
    provider: ServiceBusProvider, queue: str, sid: str, opened: SessionClient
) -> None:
    """receive_with_retrieve_deadletter: with fetching ahead, messages that are sent later are all dead-lettered."""
    send(provider, queue, *TEN, session_id=sid)
    for message in opened.messages(timeout=1, prefetch=10):
        opened.dead_letter_message(message, *DEAD)
    assert dead(provider, queue) == [(text, *DEAD) for text in TEN]


# Browsing


def test_messages_are_peeked_per_session_and_cannot_be_settled(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str, sid: str, opened: SessionClient
) -> None:
    """browse_messages_client and browse_messages_with_receiver: also while a receiver holds the session."""
    send(provider, queue, *"abcde", session_id=sid)
    send(provider, queue, *"xyz", session_id="other")
    peeked: list[Any] = list(provider.peek_messages(queue, sid, 5))
    assert [message.text() for message in peeked] == [*"abcde"]
    assert [message.text() for message in provider.peek_messages(queue, "other", 5)] == [*"xyz"]
    for message in peeked:
        with pytest.raises((TypeError, ValidationError, InvalidReceiptError)):
            opened.complete_message(message)
    assert [message.text() for message in take_many(opened, 5)] == [*"abcde"]


# Topics and listing


def test_a_subscription_receives_and_lists_what_its_topic_gets(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    """basic_topic_subscription_send_and_receive, list_subscription_sessions_empty and ..._with_active_messages."""
    entity = arrangement.queue("news/subscriptions/all")
    assert provider.list_sessions(entity) == []
    target = "news" if arrangement.is_azure else entity
    send(provider, target, "Sample topic message", session_id="test_session")
    send(provider, target, "x", session_id="other")
    assert [info.session_id for info in provider.list_sessions(entity)] == ["other", "test_session"]
    with provider.create_session_client(entity, "test_session") as session:
        message = take(session)
        assert message.text() == "Sample topic message"
        session.complete_message(message)
        assert session.receive_message(timeout=0) is None


def test_sessions_with_messages_are_listed(provider: ServiceBusProvider, queue: str) -> None:
    """list_queue_sessions_empty and list_queue_sessions_with_active_messages."""
    assert provider.list_sessions(queue) == []
    names = sorted(str(uuid.uuid4()) for _ in range(3))
    for name in names:
        send(provider, queue, f"test message for {name}", session_id=name)
    assert [info.session_id for info in provider.list_sessions(queue)] == names


def test_messages_of_a_partitioned_queue_are_peeked_and_listed(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    """Azure returns one message for each peek on a partitioned entity (Azure/azure-sdk-for-js#1108)."""
    queue = arrangement.queue(**({"partitioned": True} if arrangement.is_azure else {}))
    for name in ("s", "t"):
        send(provider, queue, *TEN, session_id=name)
    for name in ("s", "t"):
        peeked = provider.peek_messages(queue, name, 7)
        assert [message.text() for message in peeked] == TEN[:7]
        more = provider.peek_messages(queue, name, 7, from_sequence_number=number_of_peeked(peeked[-1]) + 1)
        assert [message.text() for message in more] == TEN[7:]
        with provider.create_session_client(queue, name) as session:
            for message in take_many(session, 10):
                session.dead_letter_message(message, *DEAD)
    assert sorted(dead(provider, queue)) == sorted([(text, *DEAD) for text in TEN] * 2)
