"""Which events count as failed deliveries, and that fetching ahead changes nothing.

The rules are those of Microsoft's "Message sessions", section "Impact of delivery count".
"""

from __future__ import annotations

from itertools import islice

import pytest

from azsession import (
    InvalidReceiptError,
    Message,
    ProviderError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
    SessionProcessor,
)

from ..conftest import eventually
from .conftest import Arrangement, iterate_in_threads, left, number_of, send, take, take_many


def counts(messages: list[ReceivedMessage]) -> list[tuple[str, int]]:
    return [(message.text(), message.delivery_count) for message in messages]


def dead(provider: ServiceBusProvider, queue: str) -> list[tuple[str, str | None]]:
    return [(letter.text(), letter.dead_letter_reason) for letter in provider.dead_letters(queue)]


def receive_when_free(session: SessionClient) -> ReceivedMessage | None:
    """Receive a message once the lock of the former holder has expired."""
    found: list[ReceivedMessage | None] = []

    def receive() -> bool:
        try:
            found.append(session.receive_message(timeout=2))
        except SessionLockedError:
            return False
        return True

    eventually(receive, seconds=20)
    return found[0]


def send_short_lived(provider: ServiceBusProvider, queue: str) -> None:
    """Send a message with a short time to live to ``s1``, and then one to the session ``other``."""
    for session_id in ("s1", "other"):
        provider.send_message(queue, Message("short", session_id=session_id, time_to_live=2.5))


def wait_until_expired(provider: ServiceBusProvider, queue: str) -> None:
    eventually(lambda: left(provider, queue, "other") == [], seconds=20)


# Events


@pytest.mark.parametrize("prefetch", [1, 10])
def test_closing_a_session_counts_nothing(provider: ServiceBusProvider, queue: str, prefetch: int) -> None:
    send(provider, queue, "a", "b", "c")
    for _ in range(12):
        with provider.create_session_client(queue, "s1") as session:
            messages = list(islice(session.messages(timeout=5, prefetch=prefetch), 2))
            assert counts(messages) == [("a", 1), ("b", 1)]
    assert dead(provider, queue) == []


def test_deferring_counts_nothing(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, "a")
    message = take(session)
    number = number_of(message)
    session.defer_message(message)
    for _ in range(12):
        (again,) = session.receive_deferred_messages([number])
        assert again.delivery_count == 1
        session.defer_message(again)
    (again,) = session.receive_deferred_messages([number])
    session.abandon_message(again)
    (again,) = session.receive_deferred_messages([number])
    assert again.delivery_count == 2


def test_a_message_whose_lock_always_expires_is_dead_lettered_alone(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    queue = arrangement.queue(lock_duration=2, max_delivery_count=3)
    send(provider, queue, "slow", "b", "c")
    for count in (1, 2, 3):
        session = provider.create_session_client(queue, "s1", auto_renew=False)
        message = receive_when_free(session)
        if count == 1:
            # The others are fetched ahead.
            session.close_session()
            session = provider.create_session_client(queue, "s1", auto_renew=False)
            message = next(session.messages(timeout=5))
        assert message is not None
        assert (message.text(), message.delivery_count) == ("slow", count)
        eventually(lambda session=session: session.is_lock_lost, seconds=20)
        with pytest.raises(SessionNotFoundError):
            session.complete_message(message)
        session.close_session()
    with provider.create_session_client(queue, "s1") as session:
        first = receive_when_free(session)
        assert first is not None
        assert counts([first, *take_many(session, 1)]) == [("b", 1), ("c", 1)]
    assert dead(provider, queue) == [("slow", "MaxDeliveryCountExceeded")]


def test_a_lock_that_expires_counts_the_messages_in_use_and_not_those_fetched_ahead(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    queue = arrangement.queue(lock_duration=4)
    send(provider, queue, *"abcdef")
    session = provider.create_session_client(queue, "s1", auto_renew=False)
    messages = session.messages(timeout=5)
    session.complete_message(next(messages))
    assert counts([next(messages), next(messages)]) == [("b", 1), ("c", 1)]
    eventually(lambda: session.is_lock_lost, seconds=20)
    session.close_session()
    with provider.create_session_client(queue, "s1") as session:
        first = receive_when_free(session)
        assert first is not None
        assert counts([first, *take_many(session, 4)]) == [("b", 2), ("c", 2), ("d", 1), ("e", 1), ("f", 1)]


def test_deferred_messages_do_not_expire(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send_short_lived(provider, queue)
    message = take(session)
    session.defer_message(message)
    wait_until_expired(provider, queue)
    (again,) = session.receive_deferred_messages([number_of(message)])
    assert again.text() == "short"
    session.complete_message(again)


# Fetching ahead


def test_only_the_message_that_fails_is_dead_lettered(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, *(f"m{number}" for number in range(12)))
    seen: list[tuple[str, int]] = []
    with provider.create_session_client(queue, "s1") as session:
        for message in session.messages(timeout=0):
            seen.append((message.text(), message.delivery_count))
            if message.text() == "m0":
                session.abandon_message(message)
            else:
                session.complete_message(message)
    assert seen == [*(("m0", count) for count in range(1, 11)), *((f"m{number}", 1) for number in range(1, 12))]
    assert dead(provider, queue) == [("m0", "MaxDeliveryCountExceeded")]
    assert left(provider, queue) == []


@pytest.mark.parametrize("prefetch", [1, 20])
def test_restarts_of_a_consumer_count_nothing_for_messages_that_it_did_not_handle(
    provider: ServiceBusProvider, queue: str, prefetch: int
) -> None:
    send(provider, queue, *map(str, range(20)))
    handled: list[tuple[str, int]] = []
    for _ in range(14):
        with provider.create_session_client(queue, "s1") as session:
            message = next(session.messages(timeout=5, prefetch=prefetch))
            handled.append((message.text(), message.delivery_count))
            session.complete_message(message)
    assert handled == [(str(number), 1) for number in range(14)]
    assert dead(provider, queue) == []
    assert left(provider, queue) == [str(number) for number in range(14, 20)]


def test_a_processor_whose_messages_each_fail_once_handles_all_in_order(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, *map(str, range(14)))
    seen: list[tuple[str, int]] = []

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        seen.append((message.text(), message.delivery_count))
        if message.delivery_count == 1:
            raise RuntimeError("fails once")

    with SessionProcessor(provider, queue, handle, max_concurrent_sessions=1, on_error=lambda *_: None):
        eventually(lambda: left(provider, queue) == [], seconds=60)
    assert seen == [(str(number), count) for number in range(14) for count in (1, 2)]
    assert dead(provider, queue) == []


def test_a_message_that_expires_after_it_was_fetched_ahead_is_not_delivered(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    queue = arrangement.queue(dead_letter_on_expiration=True)
    send(provider, queue, "a")
    send_short_lived(provider, queue)
    send(provider, queue, "c")
    with provider.create_session_client(queue, "s1") as session:
        # The first response shows the client that the server lets it fetch ahead.
        with pytest.raises(ProviderError):
            session.receive_deferred_messages([999])
        messages = session.messages(timeout=0)
        first = next(messages)
        wait_until_expired(provider, queue)
        session.complete_message(first)
        assert counts(list(messages)) == [("c", 1)]
    assert dead(provider, queue) == [("short", "TTLExpiredException")] * 2


def test_a_message_that_expires_before_a_receive_is_not_delivered(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "a")
    session.complete_message(take(session))
    send_short_lived(provider, queue)
    send(provider, queue, "c")
    wait_until_expired(provider, queue)
    assert counts([take(session)]) == [("c", 1)]


def test_every_message_that_is_taken_from_the_iterator_can_be_settled_later(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *map(str, range(15)))
    messages = list(session.messages(timeout=0))
    assert counts(messages) == [(str(number), 1) for number in range(15)]
    session.abandon_message(messages[3])
    session.complete_messages([*messages[:3], *messages[4:]])
    with pytest.raises(InvalidReceiptError):
        session.complete_message(messages[3])
    assert counts([take(session)]) == [("3", 2)]


def test_threads_that_iterate_over_one_session_each_see_its_order(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *map(str, range(90)))
    seen = iterate_in_threads(session, 3, 0)
    assert sorted(number for mine in seen for number in mine) == list(range(90))
    assert all(mine == sorted(mine) for mine in seen)
