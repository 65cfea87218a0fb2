"""The differences between Azure and the embedded broker. All other tests of this folder pass in each arrangement alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from azsession import (
    ProviderError,
    QueueNotFoundError,
    QueueSettings,
    ServiceBusProvider,
    SessionLockedError,
    UnsupportedOperationError,
)

from .conftest import Arrangement, left, send, take


def test_only_the_embedded_broker_manages_queues(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    settings = QueueSettings(lock_duration=7, max_delivery_count=3)
    if arrangement.is_azure:
        # AMQP cannot manage queues on Azure. That needs Azure's management API, for which there is another package.
        queue = arrangement.queue()
        calls: list[Callable[[], object]] = [
            lambda: provider.create_queue("new", settings),
            lambda: provider.get_queue(queue),
            provider.list_queues,
            lambda: provider.delete_queue(queue),
        ]
        for call in calls:
            with pytest.raises(UnsupportedOperationError):
                call()
        return
    assert provider.list_queues() == []
    assert provider.create_queue("orders", settings) is True
    assert provider.create_queue("orders", settings) is False
    assert provider.create_queue("bills") is True
    with pytest.raises(ProviderError) as caught:
        provider.create_queue("orders", QueueSettings())
    assert caught.value.code == "Conflict"
    send(provider, "orders", "a", "b")
    with provider.create_session_client("orders", "s1") as session:
        session.dead_letter_message(take(session), "bad")
    queue_info = provider.get_queue("orders")
    assert queue_info.settings == settings
    assert (queue_info.name, queue_info.active_count, queue_info.dead_letter_count) == ("orders", 1, 1)
    assert [(info.name, info.settings) for info in provider.list_queues()] == [
        ("bills", QueueSettings()),
        ("orders", settings),
    ]
    provider.delete_queue("orders")
    assert [info.name for info in provider.list_queues()] == ["bills"]
    for name in ("orders", "nowhere"):
        with pytest.raises(QueueNotFoundError):
            provider.get_queue(name)
    with pytest.raises(QueueNotFoundError):
        provider.delete_queue("nowhere")


def test_only_the_embedded_broker_counts_the_messages_of_sessions(
    provider: ServiceBusProvider, arrangement: Arrangement
) -> None:
    queue = arrangement.queue()
    send(provider, queue, "a", "b", session_id="s1")
    send(provider, queue, "c", session_id="s2")
    with provider.create_session_client(queue, "s1") as session:
        take(session)
        sessions = provider.list_sessions(queue)
    if arrangement.is_azure:
        # Azure returns only the ids of sessions.
        assert [(info.session_id, info.message_count) for info in sessions] == [("s1", None), ("s2", None)]
    else:
        assert [(info.session_id, info.message_count) for info in sessions] == [("s1", 2), ("s2", 1)]
    assert sessions[1].locked_until is None
    until, now = sessions[0].locked_until, datetime.now(timezone.utc)
    assert until is not None
    assert now < until <= now + timedelta(seconds=60)


def test_sessions_with_a_state_and_no_message_are_listed(provider: ServiceBusProvider, arrangement: Arrangement) -> None:
    queue = arrangement.queue()
    with provider.create_session_client(queue, "s1") as session:
        session.set_session_state(b"step 1")
    listed = [info.session_id for info in provider.list_sessions(queue)]
    # Azure can list the sessions that have messages, or those whose state was ever set.
    assert listed == ["s1"] or (arrangement.is_azure and listed == [])


def test_only_the_embedded_broker_distinguishes_an_empty_state_from_none(
    provider: ServiceBusProvider, arrangement: Arrangement
) -> None:
    queue = arrangement.queue()
    with provider.create_session_client(queue, "s1") as session:
        session.set_session_state(b"")
        # Azure does not distinguish an empty state from none.
        assert session.get_session_state() in ((b"", None) if arrangement.is_azure else (b"",))


def test_only_the_embedded_broker_says_when_another_holders_lock_expires(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    queue = arrangement.queue()
    with provider.create_session_client(queue, "s1") as first, provider.create_session_client(queue, "s1") as second:
        first.receive_message(timeout=0)
        with pytest.raises(SessionLockedError) as caught:
            second.receive_message(timeout=0)
    until, now = caught.value.locked_until, datetime.now(timezone.utc)
    # Azure does not say when another holder's lock expires.
    if until is None:
        assert arrangement.is_azure
    else:
        assert now < until <= now + timedelta(seconds=60)


def test_a_receive_renews_the_lock(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=3)
    with provider.create_session_client(queue, "s1", auto_renew=False) as session:
        session.receive_message(timeout=0)
        first = session.session_expires_at
        # On Azure a receive does not extend the lock. The gateway renews it when less than half of it is left.
        session.receive_message(timeout=1.7 if arrangement.is_azure else 0.1)
        session.receive_message(timeout=0)
        assert session.session_expires_at > first
        # A waiting receive keeps the lock.
        session.receive_message(timeout=3.2)
        assert not session.is_lock_lost


def test_a_session_of_a_subscription_is_received(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    subscription = arrangement.queue("events/subscriptions/audit")
    # On Azure a subscription gets the messages of its topic. In the embedded broker it is a queue of that name.
    send(provider, "events" if arrangement.is_azure else subscription, "a", "b")
    with provider.create_session_client(subscription, accept_timeout=10) as session:
        assert (session.session_id, session.queue_name) == ("s1", subscription)
        session.complete_message(take(session))
        session.dead_letter_message(take(session), "bad")
    assert left(provider, subscription) == []
    assert [letter.text() for letter in provider.dead_letters(subscription)] == ["b"]
