"""What a receive of one message asks for ahead, and how it goes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import Message, ServiceBusProvider
from tests.conftest import eventually
from tests.standin.require import require_standin

StandIn = require_standin()


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    with StandIn() as namespace:
        namespace.create_queue("orders", lock_duration=30, max_delivery_count=3)
        namespace.create_queue("brief", lock_duration=1, max_delivery_count=3)
        yield namespace


@pytest.fixture
def provider(namespace: StandIn) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        yield provider


def fill(provider: ServiceBusProvider, queue: str, count: int) -> None:
    provider.send_messages(queue, [Message(f"{number}", session_id="s") for number in range(count)])


def test_the_next_message_is_asked_for_when_one_was_received(namespace: StandIn, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 3)
    with provider.create_session_client("orders", "s") as session:
        assert session.receive_message(timeout=5) is not None
        eventually(lambda: namespace.counts("orders").locked == 2)


def test_nothing_is_asked_for_ahead_of_batches(namespace: StandIn, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 5)
    with provider.create_session_client("orders", "s") as session:
        assert len(session.receive_messages(2, timeout=5)) == 2
        session.renew_session_lock()
        assert namespace.counts("orders").locked == 2


def test_an_abandoned_message_comes_before_the_one_that_came_ahead(namespace: StandIn, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 3)
    with provider.create_session_client("orders", "s") as session:
        first = session.receive_message(timeout=5)
        assert first is not None
        eventually(lambda: namespace.counts("orders").locked == 2)
        session.abandon_message(first)
        got = [session.receive_message(timeout=5) for _ in range(3)]
        assert [(message.text(), message.delivery_count) for message in got if message] == [("0", 2), ("1", 1), ("2", 1)]


def test_a_message_that_is_abandoned_at_once_comes_before_the_one_on_its_way(provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 40)
    with provider.create_session_client("orders", "s") as session:
        for number in range(40):
            first = session.receive_message(timeout=5)
            assert first is not None
            session.abandon_message(first)
            again = session.receive_message(timeout=5)
            assert again is not None
            assert (first.text(), again.text(), again.delivery_count) == (str(number), str(number), 2)
            session.complete_message(again)


def test_a_poison_message_does_not_use_up_the_deliveries_of_the_next(
    namespace: StandIn, provider: ServiceBusProvider
) -> None:
    fill(provider, "orders", 2)
    with provider.create_session_client("orders", "s") as session:
        for _ in range(3):
            poison = session.receive_message(timeout=5)
            assert poison is not None
            assert poison.text() == "0"
            eventually(lambda: namespace.counts("orders").locked == 2)
            session.abandon_message(poison)
        good = session.receive_message(timeout=5)
        assert good is not None
        assert (good.text(), good.delivery_count) == ("1", 1)
    assert [letter.text() for letter in provider.dead_letters("orders")] == ["0"]


def test_what_came_ahead_goes_back_uncounted_before_the_lock_expires(
    namespace: StandIn, provider: ServiceBusProvider
) -> None:
    fill(provider, "brief", 2)
    slow = provider.create_session_client("brief", "s", auto_renew=False)
    assert slow.receive_message(timeout=5) is not None
    eventually(lambda: namespace.counts("brief").locked == 2)
    eventually(lambda: "s" not in namespace.locked_sessions("brief"))
    with provider.create_session_client("brief", "s") as session:
        got = session.receive_messages(2, timeout=5)
        assert [message.text() for message in got] == ["0", "1"]
        assert got[1].delivery_count == 1
    slow.close_session()


def test_what_came_ahead_is_the_next_ones_when_the_session_is_released(
    namespace: StandIn, provider: ServiceBusProvider
) -> None:
    fill(provider, "orders", 2)
    with provider.create_session_client("orders", "s") as session:
        first = session.receive_message(timeout=5)
        assert first is not None
        eventually(lambda: namespace.counts("orders").locked == 2)
        session.complete_message(first)
    with provider.create_session_client("orders", "s") as session:
        second = session.receive_message(timeout=5)
        assert second is not None
        assert (second.text(), second.delivery_count) == ("1", 1)


def test_a_batch_begins_with_what_came_ahead(namespace: StandIn, provider: ServiceBusProvider) -> None:
    fill(provider, "orders", 6)
    with provider.create_session_client("orders", "s") as session:
        assert session.receive_message(timeout=5) is not None
        eventually(lambda: namespace.counts("orders").locked == 2)
        assert [message.text() for message in session.receive_messages(10, timeout=5)] == ["1", "2", "3", "4", "5"]
