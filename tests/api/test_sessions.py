"""`SessionClient`: receiving, the lock, the session state, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
import requests

from azsession import (
    Message,
    NoSessionAvailableError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
)

from ..conftest import eventually
from .conftest import REACHABLE, Arrangement, iterate_in_threads, left, send, take, take_many

SECOND = timedelta(seconds=1)


def take_over(session: SessionClient) -> None:
    """Take a lock when the other holder's lock expires."""

    def got() -> bool:
        try:
            session.get_session_state()
        except SessionLockedError:
            return False
        return True

    eventually(got, "the lock never ended")


def assert_every_call_is_refused(session: SessionClient, messages: list[ReceivedMessage]) -> None:
    """Check that every call of a client whose lock has ended raises `SessionNotFoundError`."""
    calls: list[Callable[[], object]] = [
        lambda: session.receive_message(timeout=0),
        lambda: session.receive_messages(2, timeout=0),
        lambda: next(session.messages(timeout=0)),
        lambda: session.complete_message(messages[0]),
        lambda: session.complete_messages(messages),
        lambda: session.abandon_message(messages[0]),
        lambda: session.defer_message(messages[0]),
        lambda: session.dead_letter_message(messages[0], "late"),
        lambda: session.dead_letter_session("late"),
        lambda: session.receive_deferred_messages([1]),
        session.renew_session_lock,
        session.get_session_state,
        lambda: session.set_session_state(b"late"),
    ]
    for call in calls:
        with pytest.raises(SessionNotFoundError):
            call()


# Receiving


def test_messages_come_in_order(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *"abc")
    seen: list[str] = []
    while (message := session.receive_message(timeout=0 if len(seen) == 3 else 10)) is not None:
        seen.append(message.text())
        session.complete_message(message)
    assert seen == ["a", "b", "c"]
    assert left(provider, queue) == []


def test_a_receive_without_a_message_returns_after_its_timeout(session: SessionClient) -> None:
    assert session.receive_message(timeout=0) is None
    assert session.receive_message(timeout=timedelta(seconds=0.1)) is None
    assert session.receive_messages(5, timeout=0.1) == []
    assert list(session.messages(timeout=0)) == []


def test_a_waiting_receive_returns_a_message_that_arrives_later(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    assert session.receive_message(timeout=0) is None
    sender = threading.Timer(0.15, send, (provider, queue, "0"))
    sender.start()
    assert take(session).text() == "0"
    sender.join()


def test_receiving_many_messages_returns_those_that_are_there(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abcde")
    assert [message.text() for message in session.receive_messages(3, timeout=10)] == ["a", "b", "c"]
    assert [message.text() for message in session.receive_messages(100, timeout=10)] == ["d", "e"]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_iterating_ends_when_no_message_comes(
    provider: ServiceBusProvider, queue: str, session: SessionClient, prefetch: int
) -> None:
    send(provider, queue, *map(str, range(8)))
    seen = []
    for message in session.messages(timeout=0.1, prefetch=prefetch):
        seen.append(message.text())
        session.complete_message(message)
    assert seen == [str(n) for n in range(8)]
    assert left(provider, queue) == []


def test_prefetched_messages_that_were_not_handed_out_go_back(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, *"abcd")
    with provider.create_session_client(queue, "s1") as session:
        session.complete_message(next(session.messages(timeout=10, prefetch=10)))
        assert take(session).text() == "b"
    with provider.create_session_client(queue, "s1") as session:
        assert [message.text() for message in take_many(session, 3)] == ["b", "c", "d"]


def test_two_threads_share_a_session(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *map(str, range(60)))
    seen = iterate_in_threads(session, 2, 0.1)
    assert sorted(seen[0] + seen[1]) == list(range(60))
    assert all(mine == sorted(mine) for mine in seen)
    assert left(provider, queue) == []


# Choosing a session


def test_a_named_session_takes_no_lock_before_it_is_used(provider: ServiceBusProvider, queue: str) -> None:
    before = datetime.now(timezone.utc)
    with (
        provider.create_session_client(queue, "s1", session_timeout=40) as first,
        provider.create_session_client(queue, "s1") as second,
    ):
        assert before + 40 * SECOND <= first.session_expires_at < datetime.now(timezone.utc) + 40 * SECOND
        assert "not locked yet" in repr(first)
        assert not first.is_lock_lost
        assert second.receive_message(timeout=0) is None


def test_the_next_available_session_has_messages_and_no_holder(provider: ServiceBusProvider, queue: str) -> None:
    for session_id in ("a", "b"):
        send(provider, queue, session_id, session_id=session_id)
    with (
        provider.create_session_client(queue, accept_timeout=10) as first,
        provider.create_session_client(queue, accept_timeout=timedelta(seconds=10)) as second,
    ):
        assert {first.session_id, second.session_id} == {"a", "b"}
        for session in (first, second):
            assert session.queue_name == queue
            assert take(session).text() == session.session_id
        with pytest.raises(NoSessionAvailableError) as caught:
            provider.create_session_client(queue, accept_timeout=0)
        assert caught.value.is_transient


def test_an_empty_queue_has_no_available_session(provider: ServiceBusProvider, queue: str) -> None:
    with pytest.raises(NoSessionAvailableError):
        provider.create_session_client(queue, accept_timeout=0.1)


def test_accepting_waits_for_a_session(provider: ServiceBusProvider, queue: str) -> None:
    sender = threading.Timer(0.15, send, (provider, queue, "0"))
    sender.start()
    with provider.create_session_client(queue, accept_timeout=20) as session:
        assert session.session_id == "s1"
        assert take(session).text() == "0"
    sender.join()


@pytest.mark.parametrize("arrangement", REACHABLE, indirect=True, ids=lambda kind: kind.name)
def test_a_client_needs_no_provider(arrangement: Arrangement, provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0")
    with (
        requests.Session() as http,
        SessionClient("s1", queue, timedelta(seconds=30), http, arrangement.namespace_url, arrangement.config) as session,
    ):
        message = take(session)
        assert message.text() == "0"
        session.complete_message(message)
    assert left(provider, queue) == []


# One holder at a time


def test_a_second_client_is_refused_until_the_first_releases_the_session(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "0")
    first = provider.create_session_client(queue, "s1")
    assert take(first).text() == "0"
    with arrangement.provider().create_session_client(queue, "s1") as second:
        for call in (second.receive_message, second.get_session_state, lambda: second.set_session_state(b"mine")):
            with pytest.raises(SessionLockedError) as caught:
                call()
            assert caught.value.is_transient
        first.close_session()
        # The release took effect at once: the lock would last a minute.
        assert take(second).text() == "0"


def test_closing_releases_an_accepted_session_at_once(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, *"ab")
    for text in ("a", "b"):
        with provider.create_session_client(queue, accept_timeout=10) as session:
            message = take(session)
            assert message.text() == text
            session.complete_message(message)


def test_renewing_moves_the_expiry(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=20)
    with provider.create_session_client(queue, "s1", auto_renew=False) as session:
        session.receive_message(timeout=0)
        first = session.session_expires_at
        assert first <= datetime.now(timezone.utc) + 20 * SECOND
        eventually(lambda: session.renew_session_lock() > first + 0.1 * SECOND)
        renewed = session.renew_session_lock()
        assert session.session_expires_at == renewed <= datetime.now(timezone.utc) + 20 * SECOND


def test_a_lock_is_renewed_beyond_its_duration(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=3)
    send(provider, queue, "0")
    with (
        provider.create_session_client(queue, "s1") as session,
        arrangement.provider().create_session_client(queue, "s1") as other,
    ):
        message = take(session)
        until = session.session_expires_at + 0.3 * SECOND
        while datetime.now(timezone.utc) < until:
            with pytest.raises(SessionLockedError):
                other.receive_message(timeout=0)
            threading.Event().wait(0.1)
        assert not session.is_lock_lost
        session.complete_message(message)
    assert left(provider, queue) == []


def test_a_lock_expires_after_max_renewal(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=1)
    lost = threading.Event()
    with provider.create_session_client(
        queue, "s1", max_renewal=1.2, on_lock_lost=lambda client, error: lost.set()
    ) as session:
        session.receive_message(timeout=0)
        began = datetime.now(timezone.utc)
        assert lost.wait(20)
        assert datetime.now(timezone.utc) - began > 1.2 * SECOND


def test_a_lock_that_is_not_renewed_is_lost_to_its_holder(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=3)
    send(provider, queue, *"abcd")
    told: list[tuple[SessionClient, SessionNotFoundError]] = []
    session = provider.create_session_client(
        queue, "s1", auto_renew=False, on_lock_lost=lambda client, error: told.append((client, error))
    )
    messages = take_many(session, 3)
    with arrangement.provider().create_session_client(queue, "s1") as other:
        take_over(other)
        assert_every_call_is_refused(session, messages)
        assert session.is_lock_lost
        assert not session.closed
        assert "lost" in repr(session)
        # The next holder gets the messages in the same order.
        assert [message.text() for message in take_many(other, 4)] == ["a", "b", "c", "d"]
        session.close_session()
        assert other.receive_message(timeout=0) is None
    assert [client for client, _ in told] == [session]
    assert isinstance(told[0][1], SessionNotFoundError)


# Session state


def test_a_session_state_is_set_read_and_cleared(session: SessionClient) -> None:
    assert session.get_session_state() is None
    for state in (b"step 1", bytes(range(256)), b"x" * 100_000):
        session.set_session_state(state)
        assert session.get_session_state() == state
    session.set_session_state("größer")
    assert session.get_session_state() == "größer".encode()
    session.set_session_state(None)
    assert session.get_session_state() is None


def test_the_next_holder_reads_the_session_state(provider: ServiceBusProvider, queue: str) -> None:
    with provider.create_session_client(queue, "s1") as session:
        session.set_session_state(b"\x00step 2")
    with provider.create_session_client(queue, "s2") as session:
        assert session.get_session_state() is None
    with provider.create_session_client(queue, "s1") as session:
        assert session.get_session_state() == b"\x00step 2"


# Closing


def test_a_closed_session_refuses_every_call(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0")
    session = provider.create_session_client(queue, "s1")
    message = take(session)
    assert not session.closed
    session.close_session()
    session.close()
    assert session.closed
    assert not session.is_lock_lost
    assert_every_call_is_refused(session, [message])


def test_leaving_the_block_closes_the_session(provider: ServiceBusProvider, queue: str) -> None:
    with provider.create_session_client(queue, "s1") as session:
        session.receive_message(timeout=0)
    assert session.closed
    assert "closed" in repr(session)


def test_closing_ends_the_receive_of_another_thread(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0")
    session = provider.create_session_client(queue, "s1")
    errors: list[BaseException] = []
    waiting = threading.Event()

    def work() -> None:
        session.complete_message(take(session))
        waiting.set()
        try:
            session.receive_message(timeout=300)
        except SessionNotFoundError as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert waiting.wait(20)
    thread.join(0.2)
    assert thread.is_alive()
    session.close_session()
    thread.join(20)
    assert not thread.is_alive()
    assert len(errors) == 1
    with provider.create_session_client(queue, "s1") as other:
        assert other.receive_message(timeout=0) is None


def test_no_repr_shows_a_secret_or_a_body(arrangement: Arrangement, provider: ServiceBusProvider, queue: str) -> None:
    key = arrangement.connection_string.partition("SharedAccessKey=")[2].partition(";")[0] or "no key"
    provider.send_message(queue, Message("a secret body", session_id="s1"))
    with provider.create_session_client(queue, "s1") as session:
        peeked, message = provider.peek_messages(queue, "s1")[0], take(session)
        for thing in (provider, provider.config, session, peeked, message, message.receipt):
            assert not [secret for secret in (key, "a secret body", message.receipt.handle) if secret in repr(thing)]
        assert "s1" in repr(session)
        assert queue in repr(session)
