"""Messages that are fetched ahead of receives of one message, and how they are returned."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import (
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
)

from ....conftest import eventually
from ....namespaces import Namespace
from ....namespaces.choice import namespace_on


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue("orders", lock_duration=30, max_delivery_count=3)
        namespace.create_queue("brief", lock_duration=1, max_delivery_count=3)
        yield namespace


@pytest.fixture
def provider(namespace: Namespace) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        yield provider


def fill(provider: ServiceBusProvider, queue: str, count: int) -> None:
    provider.send_messages(queue, [Message(f"{number}", session_id="s") for number in range(count)])


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=5)
    assert message is not None
    return message


def test_the_next_message_is_fetched_when_one_was_settled(namespace: Namespace, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 3)
    with provider.create_session_client("orders", "s") as session:
        first = take(session)
        session.renew_session_lock()
        assert namespace.counts("orders").locked == 1
        session.complete_message(first)
        eventually(lambda: namespace.counts("orders").locked == 1)
        assert take(session).text() == "1"


def test_no_message_is_fetched_ahead_of_batches(namespace: Namespace, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 5)
    with provider.create_session_client("orders", "s") as session:
        session.complete_messages(session.receive_messages(2, timeout=5))
        session.renew_session_lock()
        assert namespace.counts("orders").locked == 0


@pytest.mark.parametrize("is_busy", [False, True], ids=["taken-back", "too-busy-to-take-it-back"])
def test_an_abandoned_message_comes_before_the_one_that_was_fetched_ahead(
    namespace: Namespace, provider: ServiceBusProvider, is_busy: bool
) -> None:
    fill(provider, "orders", 3)
    with provider.create_session_client("orders", "s") as session:
        first, second = take(session), take(session)
        session.complete_message(first)
        eventually(lambda: namespace.counts("orders").locked == 2)
        if is_busy:
            namespace.refuse("disposition", "com.microsoft:server-busy")
        session.abandon_message(second)
        got = [take(session) for _ in range(2)]
        assert [(message.text(), message.delivery_count) for message in got] == [("1", 2), ("2", 1)]


def test_a_message_that_is_abandoned_at_once_comes_before_the_one_on_its_way(provider: ServiceBusProvider) -> None:
    for _ in range(20):
        fill(provider, "orders", 3)
        with provider.create_session_client("orders", "s") as session:
            first, second = take(session), take(session)
            session.complete_message(first)
            session.abandon_message(second)
            got = [take(session), take(session)]
            assert [(message.text(), message.delivery_count) for message in got] == [("1", 2), ("2", 1)]
            session.complete_messages(got)


def test_messages_fetched_ahead_are_returned_uncounted_before_the_lock_expires(
    namespace: Namespace, provider: ServiceBusProvider
) -> None:
    fill(provider, "brief", 3)
    slow = provider.create_session_client("brief", "s", auto_renew=False)
    first, _ = take(slow), take(slow)
    slow.complete_message(first)
    eventually(lambda: namespace.counts("brief").locked == 2)
    eventually(lambda: "s" not in namespace.locked_sessions("brief"))
    with provider.create_session_client("brief", "s") as session:
        got = session.receive_messages(2, timeout=5)
        assert [message.text() for message in got] == ["1", "2"]
        assert got[1].delivery_count == 1
    slow.close_session()


def test_a_message_fetched_ahead_goes_to_the_next_holder_when_the_session_is_released(
    namespace: Namespace, provider: ServiceBusProvider
) -> None:
    fill(provider, "orders", 2)
    with provider.create_session_client("orders", "s") as session:
        session.complete_message(take(session))
        eventually(lambda: namespace.counts("orders").locked == 1)
    with provider.create_session_client("orders", "s") as session:
        second = take(session)
        assert (second.text(), second.delivery_count) == ("1", 1)


def test_a_batch_begins_with_the_message_fetched_ahead(namespace: Namespace, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 6)
    with provider.create_session_client("orders", "s") as session:
        session.complete_message(take(session))
        eventually(lambda: namespace.counts("orders").locked == 1)
        assert [message.text() for message in session.receive_messages(10, timeout=5)] == ["1", "2", "3", "4", "5"]
