"""The expectations of Microsoft's session tests about locks, schedules and the session state; see `test_microsoft`."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message, ServiceBusProvider, SessionClient, SessionNotFoundError

from ..conftest import eventually
from .conftest import Arrangement, left, send, take, take_many

SECOND = timedelta(seconds=1)


# The lock


def test_a_renewal_moves_the_expiry_and_an_expired_lock_settles_nothing(
    arrangement: Arrangement, provider: ServiceBusProvider, sid: str
) -> None:
    """renew_client_locks: messages have no lock but the session's; what was completed in time stays completed."""
    queue = arrangement.queue(lock_duration=4)
    send(provider, queue, *"abc", session_id=sid)
    session = provider.create_session_client(queue, sid, auto_renew=False)
    first, second, third = take_many(session, 3)
    before = session.session_expires_at
    eventually(lambda: session.renew_session_lock() >= before + 0.2 * SECOND)
    assert session.session_expires_at <= datetime.now(timezone.utc) + 4 * SECOND
    session.complete_message(first)
    session.complete_message(second)
    eventually(lambda: datetime.now(timezone.utc) > session.session_expires_at)
    with pytest.raises(SessionNotFoundError):
        session.complete_message(third)
    session.close_session()
    assert left(provider, queue, sid) == ["c"]


def test_an_automatic_renewal_lasts_as_long_as_it_should(
    arrangement: Arrangement, provider: ServiceBusProvider, sid: str
) -> None:
    """with_autolockrenew and with_auto_autolockrenew: held beyond its duration, then lost, and told once."""
    queue = arrangement.queue(lock_duration=3)
    send(provider, queue, "0", "1", session_id=sid)
    told: list[Exception] = []
    with provider.create_session_client(
        queue, sid, max_renewal=4.5, on_lock_lost=lambda _client, error: told.append(error)
    ) as session:
        first, second = take_many(session, 2)
        start = time.monotonic()
        eventually(lambda: time.monotonic() - start > 3.3)
        session.complete_message(first)
        assert told == []
        eventually(lambda: told, "the lock was not lost")
        assert time.monotonic() - start >= 4.5
        with pytest.raises(SessionNotFoundError):
            session.complete_message(second)
        with pytest.raises(SessionNotFoundError):
            list(session.messages(timeout=0))
    assert len(told) == 1


def test_the_end_of_a_session_is_no_lost_lock(arrangement: Arrangement, provider: ServiceBusProvider, sid: str) -> None:
    """with_autolockrenew: closing ends the renewal, and no lost lock is reported."""
    queue = arrangement.queue(lock_duration=3)
    told = threading.Event()
    with provider.create_session_client(queue, sid, on_lock_lost=lambda _client, _error: told.set()) as session:
        send(provider, queue, "x", session_id=sid)
        session.complete_message(take(session))
        expiry = session.session_expires_at
    eventually(lambda: datetime.now(timezone.utc) > expiry + 0.2 * SECOND)
    assert not told.is_set()


def test_a_closed_session_settles_nothing(provider: ServiceBusProvider, queue: str, sid: str) -> None:
    """message_connection_closed."""
    send(provider, queue, "test", session_id=sid)
    with provider.create_session_client(queue, sid) as session:
        message = take(session)
    with pytest.raises(Exception, match="closed"):
        session.complete_message(message)
    assert left(provider, queue, sid) == ["test"]


def test_a_message_whose_lock_expired_comes_again_with_a_higher_count(
    arrangement: Arrangement, provider: ServiceBusProvider, sid: str
) -> None:
    """message_expiry: settling and renewing raise, and the next holder completes the message."""
    queue = arrangement.queue(lock_duration=3)
    send(provider, queue, "Testing expired messages", session_id=sid)
    session = provider.create_session_client(queue, sid, auto_renew=False)
    message = take(session)
    eventually(lambda: session.is_lock_lost)
    calls: list[Callable[[], object]] = [lambda: session.complete_message(message), session.renew_session_lock]
    for call in calls:
        with pytest.raises(SessionNotFoundError):
            call()
    with arrangement.provider().create_session_client(queue, accept_timeout=20) as other:
        again = take(other)
        assert (again.text(), again.delivery_count) == ("Testing expired messages", 2)
        other.complete_message(again)
    session.close_session()
    assert left(provider, queue, sid) == []


# Scheduling


def test_scheduled_messages_have_the_time_they_were_scheduled_for(
    provider: ServiceBusProvider, queue: str, sid: str, opened: SessionClient
) -> None:
    """schedule_message and schedule_multiple_messages: they are enqueued at that time, with their ids."""
    at = (datetime.now(timezone.utc) + 2 * SECOND).replace(microsecond=0)
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    messages = [Message("content", session_id=sid, message_id=each, scheduled_enqueue_time=at) for each in ids]
    provider.send_messages(queue, messages)
    assert opened.receive_message(timeout=0) is None
    received = take_many(opened, 2)
    assert sorted(message.message_id or "" for message in received) == sorted(ids)
    for message in received:
        assert message.enqueued_at is not None
        assert message.scheduled_enqueue_time == at == message.enqueued_at.replace(microsecond=0)
        assert message.text() == "content"


def test_cancelled_messages_do_not_arrive(provider: ServiceBusProvider, queue: str, sid: str, opened: SessionClient) -> None:
    """cancel_scheduled_messages: both are scheduled and get numbers, and neither comes at its time."""
    at = datetime.now(timezone.utc) + SECOND
    numbers = provider.schedule_messages(queue, [Message(text, session_id=sid) for text in "ab"], at)
    assert len(numbers) == 2
    provider.cancel_scheduled_messages(queue, numbers)
    eventually(lambda: datetime.now(timezone.utc) > at)
    send(provider, queue, "later", session_id=sid)
    assert [message.text() for message in opened.messages(timeout=0.2)] == ["later"]


# The session's state


def test_a_session_state_is_none_until_it_is_set(provider: ServiceBusProvider, queue: str) -> None:
    """get_set_state_with_receiver: the state does not touch the messages."""
    for name, state in (("first", b"first_state"), ("second", None)):
        send(provider, queue, *"abc", session_id=name)
        with provider.create_session_client(queue, name) as session:
            assert session.get_session_state() is None
            session.set_session_state(state)
            assert [message.session_id for message in session.messages(timeout=0)] == [name] * 3
            assert session.get_session_state() == state
