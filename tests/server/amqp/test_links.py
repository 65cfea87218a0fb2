"""Links of the AMQP endpoint, frame by frame: credit, drain, outcomes, and what is given back when a link ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.amqp.message_mapping import token_of
from azsession.server import GatewayService

from .conftest import ROOT
from .raw import RawClient, transfer_part


@pytest.fixture
def raw(service: GatewayService) -> Iterator[RawClient]:
    """A connection that may do everything."""
    with RawClient(service) as raw:
        yield raw.open(ROOT)


def put(provider: ServiceBusProvider, queue: str, *bodies: str) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in bodies])


def flow_of(raw: RawClient, handle: int = 2) -> amqp.Flow:
    """Return the next flow frame of a link."""
    while True:
        flow: amqp.Flow = raw.expect(amqp.FLOW)
        if flow.handle == handle:
            return flow


def test_the_answer_to_an_attach_names_the_session_and_the_end_of_its_lock(raw: RawClient, queue: str) -> None:
    attach = raw.attach_receiver(queue, "sé")
    assert (attach.session_id, attach.is_receiver, attach.initial_delivery_count) == ("sé", False, 0)
    assert attach.source is not None
    assert attach.source.address == queue
    assert attach.properties["com.microsoft:locked-until-utc"] > 638_000_000_000_000_000


def test_no_more_messages_come_than_there_is_credit(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, "1", "2", "3")
    raw.attach_receiver(queue)
    raw.credit(2, 2)
    assert [amqp.decode_message(raw.expect(amqp.TRANSFER).payload).data for _ in range(2)] == [b"1", b"2"]
    raw.credit(2, 1, delivery_count=2)
    received = raw.expect(amqp.TRANSFER)
    assert (amqp.decode_message(received.payload).data, received.delivery_id, received.settled) == (b"3", 2, False)
    assert token_of(received.delivery_tag)


def test_a_drain_gives_the_rest_of_the_credit_back(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, "1", "2")
    raw.attach_receiver(queue)
    # First the receive waits with its credit, then it is drained.
    raw.credit(2, 5)
    assert [raw.expect(amqp.TRANSFER).delivery_id for _ in range(2)] == [0, 1]
    raw.credit(2, 5, drain=True)
    flow = flow_of(raw)
    assert (flow.delivery_count, flow.link_credit, flow.drain) == (5, 0, True)
    raw.credit(2, 5, delivery_count=5)
    put(provider, queue, "3")
    assert amqp.decode_message(raw.expect(amqp.TRANSFER).payload).data == b"3"


def test_credit_that_is_taken_back_leaves_messages_to_others(
    raw: RawClient, provider: ServiceBusProvider, queue: str
) -> None:
    raw.attach_receiver(queue)
    raw.credit(2, 5)
    raw.credit(2, 0)
    put(provider, queue, "1")
    raw.credit(2, 0, drain=True)
    assert flow_of(raw).link_credit == 0
    raw.send(amqp.detach_frame(0, handle=2))
    raw.expect(amqp.DETACH)
    with provider.create_session_client(queue, "s") as session:
        message = session.receive_message(timeout=5)
        assert message is not None
        assert message.delivery_count == 1


MODIFIED = amqp.modified(True, False)
#: The outcome of the client, the state in the answer, and what is left: the delivery count of the next delivery.
OUTCOMES: list[tuple[bytes, str, Any]] = [
    (amqp.ACCEPTED, "accepted", None),
    (amqp.RELEASED, "released", 1),
    (MODIFIED, "modified", 2),
    (amqp.DEFERRED, "modified", None),
    (amqp.dead_lettered("why", None), "rejected", None),
]


@pytest.mark.parametrize(
    ("outcome", "state", "count"), OUTCOMES, ids=["accepted", "released", "abandoned", "deferred", "dead-lettered"]
)
def test_an_outcome_is_confirmed_with_itself(
    raw: RawClient, provider: ServiceBusProvider, queue: str, outcome: bytes, state: str, count: int | None
) -> None:
    put(provider, queue, "1")
    raw.attach_receiver(queue)
    raw.credit(2, 1)
    raw.expect(amqp.TRANSFER)
    raw.send(amqp.disposition_frame(0, first=0, last=0, outcome=outcome))
    answer = raw.expect(amqp.DISPOSITION)
    assert (answer.first, answer.last, answer.settled, answer.state, answer.error) == (0, 0, True, state, None)
    assert not answer.is_receiver
    raw.send(amqp.detach_frame(0, handle=2))
    raw.expect(amqp.DETACH)
    with provider.create_session_client(queue, "s") as session:
        message = session.receive_message(timeout=0)
        assert (None if message is None else message.delivery_count) == count


def test_a_range_of_deliveries_is_settled_at_once(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, *map(str, range(10)))
    raw.attach_receiver(queue)
    raw.credit(2, 10)
    for _ in range(10):
        raw.expect(amqp.TRANSFER)
    # A range can be wider than the deliveries that there are.
    raw.send(amqp.disposition_frame(0, first=2, last=2_000_000, outcome=amqp.ACCEPTED))
    answer = raw.expect(amqp.DISPOSITION)
    assert (answer.first, answer.last) == (2, 9)
    assert [one.text() for one in provider.peek_messages(queue, "s")] == ["0", "1"]


def test_a_message_that_is_settled_twice_is_settled_once(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, "1", "2")
    raw.attach_receiver(queue)
    raw.credit(2, 2)
    raw.expect(amqp.TRANSFER)
    settle = amqp.disposition_frame(0, first=0, last=0, outcome=amqp.ACCEPTED, settled=True)
    raw.send(settle, settle, amqp.disposition_frame(0, first=1, last=1, outcome=amqp.ACCEPTED))
    assert raw.expect(amqp.DISPOSITION).first == 1
    assert provider.peek_messages(queue, "s") == []


def test_the_window_of_the_client_is_kept(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    put(provider, queue, "1", "2", "3")
    raw.attach_receiver(queue)
    raw.credit(2, 3, window=2)
    assert [raw.expect(amqp.TRANSFER).delivery_id for _ in range(2)] == [0, 1]
    raw.send(amqp.flow_frame(0, next_incoming_id=2, incoming_window=1, next_outgoing_id=0, outgoing_window=1, handle=None))
    assert raw.expect(amqp.TRANSFER).delivery_id == 2


def test_half_a_message_is_dropped_with_its_connection(
    service: GatewayService, provider: ServiceBusProvider, queue: str
) -> None:
    with RawClient(service) as raw:
        raw.open(ROOT).attach_sender(queue)
        raw.expect(amqp.FLOW)
        raw.send(transfer_part(1, 0, b"half", more=True))
        raw.send(amqp.flow_frame(0, next_incoming_id=0, incoming_window=9, next_outgoing_id=1, outgoing_window=9, echo=True))
        raw.expect(amqp.FLOW)
    assert provider.list_sessions(queue) == []


def test_a_session_is_free_when_its_connection_breaks(
    service: GatewayService, provider: ServiceBusProvider, queue: str
) -> None:
    put(provider, queue, "1")
    with RawClient(service) as raw:
        raw.open(ROOT).attach_receiver(queue)
        raw.credit(2, 1)
        raw.expect(amqp.TRANSFER)
    with provider.create_session_client(queue, accept_timeout=5) as session:
        message = session.receive_message(timeout=5)
        assert message is not None
        assert message.delivery_count == 1


def test_transactions_are_refused(raw: RawClient) -> None:
    body = bytes.fromhex("00 53 12 c0 15 07 a1 01 78 52 05 42 50 00 50 00 00 53 28 45 00 53 30 45")
    # The size of the list in the frame is that of its seven fields.
    fields = body[6:]
    body = body[:3] + bytes((0xC0, len(fields) + 1, 7)) + fields
    raw.send((len(body) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + body)
    assert not raw.expect(amqp.ATTACH).has_target
    assert raw.expect(amqp.DETACH).error.condition == "amqp:not-implemented"


def test_messages_that_were_fetched_for_credit_that_is_gone_come_with_the_next_credit(
    raw: RawClient, provider: ServiceBusProvider, queue: str
) -> None:
    put(provider, queue, "1", "2", "3")
    raw.attach_receiver(queue)
    raw.credit(2, 3, window=1)
    assert raw.expect(amqp.TRANSFER).delivery_id == 0
    # The other two are fetched and wait for the window.
    raw.credit(2, 0, delivery_count=1, window=1)
    raw.credit(2, 0, delivery_count=1, drain=True)
    assert flow_of(raw).link_credit == 0
    raw.credit(2, 2, delivery_count=1)
    assert [amqp.decode_message(raw.expect(amqp.TRANSFER).payload).data for _ in range(2)] == [b"2", b"3"]


def test_the_frames_of_a_message_wait_for_the_window_of_the_client(
    raw: RawClient, provider: ServiceBusProvider, queue: str
) -> None:
    put(provider, queue, "x" * 200_000)
    raw.attach_receiver(queue)
    raw.credit(2, 1, window=2)
    assert [raw.expect(amqp.TRANSFER).more for _ in range(2)] == [True, True]
    # The answer to this flow comes before the next frame of the message.
    flow = {"next_outgoing_id": 0, "outgoing_window": 1}
    raw.send(amqp.flow_frame(0, next_incoming_id=2, incoming_window=0, echo=True, **flow))
    item = raw.next()
    assert isinstance(item, amqp.RawFrame)
    assert amqp.decode_frame(item.body)[0] == amqp.FLOW
    raw.send(amqp.flow_frame(0, next_incoming_id=2, incoming_window=9, **flow))
    assert [raw.expect(amqp.TRANSFER).more for _ in range(2)] == [True, False]


def test_a_link_without_credit_is_detached_when_its_lock_expires(
    raw: RawClient, new_queue: Callable[..., str], provider: ServiceBusProvider
) -> None:
    queue = new_queue(lock_duration=1)
    raw.attach_receiver(queue)
    assert raw.expect(amqp.DETACH).error.condition == "com.microsoft:session-lock-lost"
    raw.send(amqp.detach_frame(0, handle=2))
    assert raw.attach_receiver(queue, handle=3).has_source
