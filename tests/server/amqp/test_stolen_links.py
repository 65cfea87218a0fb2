"""A link takes the place of a former one of the same client with the same name (AMQP 1.0 §2.6.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.server import AccessKey, GatewayService

from .conftest import ROOT, SENDER
from .raw import RawClient


@pytest.fixture
def connect(service: GatewayService) -> Iterator[Callable[..., RawClient]]:
    """Open connections of one client, unless another name is given."""
    opened: list[RawClient] = []

    def connect(key: AccessKey | None = ROOT, container_id: str = "client") -> RawClient:
        raw = RawClient(service)
        opened.append(raw)
        raw.container_id = container_id
        return raw.open(key)

    yield connect
    for raw in opened:
        raw.socket.close()


def test_a_client_that_lost_its_connection_gets_its_session_back(
    connect: Callable[..., RawClient], provider: ServiceBusProvider, queue: str
) -> None:
    provider.send_messages(queue, Message("x", session_id="s"))
    lost, again = connect(), connect()
    assert lost.attach_receiver(queue).has_source
    lost.credit(2, 1)
    lost.expect(amqp.TRANSFER)
    assert again.attach_receiver(queue).has_source
    assert lost.expect(amqp.DETACH).error.condition == "amqp:link:stolen"
    again.credit(2, 1)
    # The message was given back, and its delivery does not count.
    assert amqp.decode_message(again.expect(amqp.TRANSFER).payload).delivery_count == 0
    # The end of the former connection does not end the new link.
    lost.send(amqp.close_frame())
    lost.assert_ended()
    again.send(amqp.disposition_frame(0, first=0, last=0, outcome=amqp.ACCEPTED))
    assert again.expect(amqp.DISPOSITION).state == "accepted"


def test_a_receiver_that_waits_for_a_session_can_be_replaced(connect: Callable[..., RawClient], queue: str) -> None:
    lost, again = connect(), connect()
    waits = amqp.attach_receiver(0, name="r", handle=2, address=queue, session_id=None)
    lost.send(waits)
    lost.attach_sender(queue)
    again.send(waits)
    assert lost.expect(amqp.DETACH).error.condition == "amqp:link:stolen"


def test_a_sender_and_a_receiver_of_dead_letters_can_be_replaced(connect: Callable[..., RawClient], queue: str) -> None:
    lost, again = connect(), connect()
    for raw in (lost, again):
        raw.send(amqp.attach_receiver(0, name="d", handle=5, address=f"{queue}/$deadletterqueue"))
        assert raw.expect(amqp.ATTACH).has_source
        assert raw.attach_sender(queue).has_target
    assert {lost.expect(amqp.DETACH).handle for _ in range(2)} == {1, 5}


@pytest.mark.parametrize("other", ["client", "name", "direction", "entity"])
def test_only_the_same_link_is_replaced(
    connect: Callable[..., RawClient], new_queue: Callable[..., str], queue: str, other: str
) -> None:
    first, second = connect(), connect(container_id="other" if other == "client" else "client")
    assert first.attach_receiver(queue).has_source
    if other == "direction":
        second.send(amqp.attach_sender(0, name="r-2", handle=2, address=queue))
        assert second.expect(amqp.ATTACH).has_target
    else:
        address = new_queue() if other == "entity" else queue
        second.attach_receiver(address, "t", handle=3 if other == "name" else 2)
    first.send(amqp.detach_frame(0, handle=2))
    assert first.expect(amqp.DETACH).error is None


def test_a_client_without_the_right_replaces_nothing(connect: Callable[..., RawClient], queue: str) -> None:
    first, second = connect(), connect(SENDER)
    assert first.attach_receiver(queue).has_source
    assert not second.attach_receiver(queue).has_source
    first.send(amqp.detach_frame(0, handle=2))
    assert first.expect(amqp.DETACH).error is None


def test_names_of_ended_links_are_forgotten(service: GatewayService, connect: Callable[..., RawClient], queue: str) -> None:
    raw = connect(container_id="forgotten")
    raw.attach_receiver(queue)
    endpoint = service._endpoint
    assert endpoint is not None
    names = endpoint._services.named_links
    assert any("forgotten" in str(name) for name in names)
    raw.send(amqp.close_frame())
    raw.assert_ended()
    assert not any("forgotten" in str(name) for name in names)
