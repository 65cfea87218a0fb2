"""Receivers of dead letters over AMQP: their locks, and how much they read."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.broker.embedded import EmbeddedBroker
from azsession.messages import PeekedMessage
from azsession.server import GatewayService
from azsession.server.amqp import channel, dead_letter_receiver

from ...conftest import eventually
from .conftest import ROOT
from .raw import RawClient
from .test_management import Manager

DEAD = "$deadletterqueue"


class CountingBroker(EmbeddedBroker):
    """Counts the dead letters that it reads, and the looks at a lock."""

    dead_letters_read = 0
    looks = 0

    def dead_letters(self, *args: Any, **options: Any) -> Future[list[PeekedMessage]]:
        future = super().dead_letters(*args, **options)

        def count(done: Future[list[PeekedMessage]]) -> None:
            self.dead_letters_read += len(done.result())

        future.add_done_callback(count)
        return future

    def receive_deferred(self, *args: Any, **options: Any) -> Any:
        self.looks += 1
        return super().receive_deferred(*args, **options)


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let receivers look again only after events."""
    monkeypatch.setattr(dead_letter_receiver, "FIRST_PAUSE", 300.0)
    monkeypatch.setattr(dead_letter_receiver, "LONGEST_PAUSE", 300.0)
    monkeypatch.setattr(dead_letter_receiver, "PAUSE_PER_LOOK", 0)


@pytest.fixture
def raw(service: GatewayService) -> Iterator[RawClient]:
    with RawClient(service) as raw:
        yield raw.open(ROOT)


@pytest.fixture
def other(service: GatewayService) -> Iterator[RawClient]:
    with RawClient(service) as other:
        yield other.open(ROOT)


def bury(provider: ServiceBusProvider, queue: str, count: int) -> None:
    """Make dead letters."""
    provider.send_messages(queue, [Message(str(number), session_id="s") for number in range(count)])
    with provider.create_session_client(queue, "s") as session:
        session.dead_letter_session("bad")


def attach(raw: RawClient, queue: str, handle: int = 20) -> None:
    raw.send(amqp.attach_receiver(0, name=f"dead-{handle}", handle=handle, address=f"{queue}/{DEAD}"))
    assert raw.expect(amqp.ATTACH).has_source


def body_of(transfer: amqp.Transfer) -> bytes | None:
    return amqp.decode_message(transfer.payload).data


def token_of(transfer: amqp.Transfer) -> uuid.UUID:
    assert transfer.delivery_tag is not None
    return uuid.UUID(bytes_le=transfer.delivery_tag)


def test_a_settlement_by_request_makes_room_for_further_messages(
    raw: RawClient, provider: ServiceBusProvider, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_UNSETTLED", 2)
    provider.send_messages(queue, [Message(str(number), session_id="s") for number in range(4)])
    raw.attach_receiver(queue)
    manager = Manager(raw, queue)
    raw.credit(2, 10)
    received = [raw.expect(amqp.TRANSFER) for _ in range(2)]
    for status in ("completed", "suspended"):
        token = token_of(received.pop(0))
        asked = {"session-id": "s", "disposition-status": status, "lock-tokens": [token]}
        assert manager.ask("update-disposition", asked).status == 200
        received.append(raw.expect(amqp.TRANSFER))
    assert [body_of(each) for each in received] == [b"2", b"3"]


def test_a_settlement_of_a_dead_letter_by_request_makes_room_for_further_ones(
    raw: RawClient, provider: ServiceBusProvider, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_UNSETTLED", 1)
    bury(provider, queue, 3)
    attach(raw, queue)
    manager = Manager(raw, f"{queue}/{DEAD}")
    raw.credit(20, 10)
    bodies = []
    for _ in range(2):
        received = raw.expect(amqp.TRANSFER)
        bodies.append(body_of(received))
        asked = {"disposition-status": "completed", "lock-tokens": [token_of(received)]}
        assert manager.ask("update-disposition", asked).status == 200
    bodies.append(body_of(raw.expect(amqp.TRANSFER)))
    assert bodies == [b"0", b"1", b"2"]
    assert [one.text() for one in provider.dead_letters(queue)] == ["2"]


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("ends", ["abandoned", "detached", "by request"])
def test_a_dead_letter_that_is_free_again_goes_to_a_waiting_receiver(
    raw: RawClient, other: RawClient, provider: ServiceBusProvider, queue: str, ends: str
) -> None:
    bury(provider, queue, 3)
    attach(raw, queue)
    manager = Manager(raw, f"{queue}/{DEAD}")
    raw.credit(20, 3)
    received = [raw.expect(amqp.TRANSFER) for _ in range(3)]
    attach(other, queue)
    other.credit(20, 1)
    # The other receiver has looked when this is answered: its frames are handled in order.
    other.attach_sender(queue)
    if ends == "abandoned":
        raw.send(amqp.disposition_frame(0, first=1, last=1, outcome=amqp.modified(True, False)))
    elif ends == "detached":
        raw.send(amqp.detach_frame(0, handle=20))
    else:
        asked = {"disposition-status": "abandoned", "lock-tokens": [token_of(received[1])]}
        assert manager.ask("update-disposition", asked).status == 200
    assert body_of(other.expect(amqp.TRANSFER)) == (b"0" if ends == "detached" else b"1")


@pytest.mark.usefixtures("no_polling")
@pytest.mark.parametrize("by_request", [False, True])
def test_a_message_that_a_client_dead_letters_goes_to_a_waiting_receiver(
    raw: RawClient, other: RawClient, provider: ServiceBusProvider, queue: str, by_request: bool
) -> None:
    attach(other, queue)
    other.credit(20, 1)
    other.attach_sender(queue)
    provider.send_messages(queue, Message("x", session_id="s"))
    raw.attach_receiver(queue)
    manager = Manager(raw, queue)
    raw.credit(2, 1)
    received = raw.expect(amqp.TRANSFER)
    if by_request:
        asked = {"session-id": "s", "disposition-status": "suspended", "lock-tokens": [token_of(received)]}
        assert manager.ask("update-disposition", asked).status == 200
    else:
        raw.send(amqp.disposition_frame(0, first=0, last=0, outcome=amqp.dead_lettered("why", None)))
    assert body_of(other.expect(amqp.TRANSFER)) == b"x"


def test_each_dead_letter_is_read_about_once() -> None:
    count = 120
    with (
        CountingBroker(queues=["q"]) as broker,
        GatewayService(broker, [ROOT], amqp_port=0) as service,
        ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
        RawClient(service) as raw,
    ):
        bury(provider, "q", count)
        attach(raw.open(ROOT), "q")
        for number in range(count):
            raw.credit(20, 1, delivery_count=number)
            assert body_of(raw.expect(amqp.TRANSFER)) == str(number).encode()
        assert broker.dead_letters_read <= 2 * count


def test_a_lock_that_others_renew_is_looked_at_ever_more_rarely() -> None:
    with (
        CountingBroker(queues=["q"]) as broker,
        GatewayService(broker, [ROOT], amqp_port=0) as service,
        RawClient(service) as raw,
    ):
        raw.open(ROOT).attach_receiver("q", "s")
        endpoint = service._endpoint
        assert endpoint is not None
        (connection,) = endpoint._connections
        (holder,) = connection.held.values()
        assert service._loop is not None
        began = time.monotonic()
        # As if the lock had ended.
        service._loop.call_soon_threadsafe(holder.renewed, 0.0)
        eventually(lambda: broker.looks >= 6)
        # The first pause lasts 0.02 seconds, and each later one twice as long: 0.62 seconds together.
        assert time.monotonic() - began > 0.6
