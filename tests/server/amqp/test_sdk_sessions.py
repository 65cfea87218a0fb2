"""The official SDK and sessions on the AMQP endpoint: the cases beside `tests/sdk`, for example those with HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient
from azure.servicebus import exceptions as errors

from azsession import Message, ServiceBusProvider
from azsession.errors import SessionLockedError
from azsession.server import GatewayService

from ...conftest import eventually
from ...support.sdk import message, receive, send, session


def test_a_session_that_is_held_over_amqp_is_locked_for_all(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    with session(client, queue, wait_for_close=True):
        with pytest.raises(errors.SessionCannotBeLockedError), session(client, queue):
            pass
        with provider.create_session_client(queue, "s") as other, pytest.raises(SessionLockedError):
            other.receive_message(timeout=0)
    with provider.create_session_client(queue, "s") as other:
        assert other.receive_message(timeout=0) is None
        with pytest.raises(errors.SessionCannotBeLockedError), session(client, queue):
            pass


def test_a_waiting_accept_gets_the_session_of_a_new_message(
    client: ServiceBusClient, provider: ServiceBusProvider, queue: str
) -> None:
    provider.send_message(queue, Message("1", session_id="late"))
    with session(client, queue, NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
        assert receiver.session.session_id == "late"


def test_an_expired_session_lock_is_lost_and_its_deliveries_count(
    client: ServiceBusClient, provider: ServiceBusProvider, new_queue: Callable[..., str]
) -> None:
    queue = new_queue(lock_duration=3)
    send(client, queue, message("1"))
    with session(client, queue) as receiver:
        (received,) = receive(receiver, 1)
        with provider.create_session_client(queue, "s", session_timeout=30) as other:
            eventually(lambda: _can_receive(other))
        with pytest.raises(errors.SessionLockLostError):
            receiver.complete_message(received)
    with session(client, queue) as receiver:
        # Once when the lock expired. The client of HTTP gave the message back.
        assert receive(receiver, 1)[0].delivery_count == 1


def _can_receive(client: object) -> bool:
    try:
        client.receive_message(timeout=0)  # type: ignore[attr-defined]
    except SessionLockedError:
        return False
    return True


def test_a_lock_is_kept_while_its_link_has_credit(
    client: ServiceBusClient, provider: ServiceBusProvider, new_queue: Callable[..., str]
) -> None:
    queue = new_queue(lock_duration=5)
    send(client, queue, message("1"))
    with session(client, queue, prefetch_count=10) as receiver:
        receive(receiver, 1)
        assert receiver.receive_messages(1, max_wait_time=6) == []
        with provider.create_session_client(queue, "s") as other, pytest.raises(SessionLockedError):
            other.receive_message(timeout=0)


def test_a_session_that_was_closed_counts_no_delivery(client: ServiceBusClient, queue: str) -> None:
    send(client, queue, message("1"))
    for _ in range(2):
        with session(client, queue, wait_for_close=True) as receiver:
            assert receive(receiver, 1)[0].delivery_count == 0


def test_sessions_are_listed_by_the_time_of_their_state(client: ServiceBusClient, queue: str) -> None:
    send(client, queue, message("1", "without"))
    now, margin = datetime.now(timezone.utc), timedelta(seconds=5)
    with session(client, queue, "with", wait_for_close=True) as receiver:
        receiver.session.set_state(b"x")
    assert list(client.list_queue_sessions(queue, state_updated_after=now - margin)) == ["with"]
    assert list(client.list_queue_sessions(queue, state_updated_after=now + 12 * margin)) == []


def test_a_missing_entity_is_refused(client: ServiceBusClient) -> None:
    with pytest.raises(errors.ServiceBusAuthenticationError), client.get_queue_sender("nowhere"):
        pass
    with pytest.raises(errors.ServiceBusAuthenticationError), session(client, "nowhere"):
        pass


def test_each_subscription_gets_a_copy(
    client: ServiceBusClient, service: GatewayService, provider: ServiceBusProvider
) -> None:
    for name in ("audit", "mail"):
        provider.create_queue(f"events/subscriptions/{name}")
    with client.get_topic_sender("events") as sender:
        sender.send_messages(message("created"))
    with client.get_subscription_receiver("events", "mail", session_id="s") as receiver:
        assert str(receive(receiver, 1)[0]) == "created"
    assert [one.text() for one in provider.peek_messages("events/subscriptions/audit", "s")] == ["created"]
