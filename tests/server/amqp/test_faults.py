"""Clients that violate the protocol get the right AMQP error, lose what they used wrongly, and disturb nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from azure.servicebus import ServiceBusClient

from azsession import amqp
from azsession.server import GatewayService
from azsession.server.amqp.sender import Sender

from ...support.sdk import message, receive, send, session
from .conftest import ROOT
from .raw import RawClient, begin, encoded, transfer, transfer_part

FRAMING = "amqp:connection:framing-error"


@pytest.fixture
def raw(service: GatewayService) -> Iterator[RawClient]:
    """A connection that may do everything."""
    with RawClient(service) as raw:
        yield raw.open(ROOT)


@pytest.fixture(autouse=True)
def _others_are_served(client: ServiceBusClient, new_queue: Callable[..., str]) -> Iterator[None]:
    """Check that another client works after the fault."""
    yield
    queue = new_queue()
    send(client, queue, message("after the fault"))
    with session(client, queue) as receiver:
        assert len(receive(receiver, 1)) == 1


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (b"\x7f\xff\xff\xff\x02\x00\x00\x00", FRAMING),
        (b"\x00\x00\x00\x07\x02\x00\x00\x00", FRAMING),
        (b"\x00\x00\x00\x08\x01\x00\x00\x00", FRAMING),
        (b"\x00\x00\x00\x08\x02\x01\x00\x00", FRAMING),
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00junk", "amqp:decode-error"),
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14\xd0", "amqp:decode-error"),
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x77\x45", "amqp:not-implemented"),
        (b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x10\x45", "amqp:not-implemented"),
        (amqp.end_frame(7) + amqp.attach_sender(7, name="n", handle=0, address="q"), FRAMING),
        (b"\x00\x00\x00\x15\x02\x00\x00\x00\x00\x53\x12\xc0\x08\x04\xa1\x01a\x43\x42\x50\x09", "amqp:decode-error"),
        (begin(5000), FRAMING),
        (begin(0), FRAMING),
        (amqp.attach_sender(0, name="n", handle=256, address="q"), FRAMING),
    ],
    ids=[
        "too large",
        "too small",
        "offset",
        "SASL",
        "junk",
        "cut",
        "unknown",
        "open",
        "settle mode",
        "channel",
        "begin",
        "again",
        "handle",
    ],
)
def test_a_fault_of_the_connection_closes_it_with_the_error(raw: RawClient, data: bytes, condition: str) -> None:
    raw.send(data)
    assert raw.expect(amqp.CLOSE).error.condition == condition
    raw.send(amqp.close_frame())
    raw.assert_ended()


def test_a_client_that_does_not_answer_the_close_is_cut_off(raw: RawClient) -> None:
    raw.send(b"\x00\x00\x00\x07\x02\x00\x00\x00")
    raw.expect(amqp.CLOSE)
    raw.assert_ended()


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (amqp.attach_sender(0, name="n", handle=100, address="$cbs") * 2, "amqp:session:handle-in-use"),
        (amqp.detach_frame(0, handle=9), "amqp:session:unattached-handle"),
        (transfer(9, 0, b"x"), "amqp:session:unattached-handle"),
    ],
    ids=["handle in use", "detach", "transfer"],
)
def test_a_fault_of_a_session_ends_it_and_the_connection_goes_on(raw: RawClient, data: bytes, condition: str) -> None:
    raw.send(data)
    assert raw.expect(amqp.END).error.condition == condition
    # Frames that the client sent before it knew are ignored.
    raw.send(amqp.detach_frame(0, handle=1), amqp.end_frame(0), begin(1))
    assert raw.expect(amqp.BEGIN).remote_channel == 1


def test_two_messages_at_once_on_one_link_close_the_connection(raw: RawClient, queue: str) -> None:
    raw.attach_sender(queue)
    raw.expect(amqp.FLOW)
    raw.send(transfer_part(1, 0, b"half", more=True), transfer_part(1, 1, b"half", more=True))
    assert raw.expect(amqp.CLOSE).error.condition == "amqp:invalid-field"


def test_more_messages_than_credit_detach_the_link(raw: RawClient, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sender, "max_credit", 5)
    raw.attach_sender(queue)
    assert raw.expect(amqp.FLOW).link_credit == 5
    # They arrive together, before the first is stored.
    raw.send(b"".join(transfer(1, number, encoded(b"x")) for number in range(7)))
    assert raw.expect(amqp.DETACH).error.condition == "amqp:link:transfer-limit-exceeded"


def test_a_message_without_end_detaches_the_link(raw: RawClient, queue: str) -> None:
    raw.attach_sender(queue)
    raw.expect(amqp.FLOW)
    part = bytes(60_000)
    raw.send(transfer_part(1, 0, part, more=True))
    for _ in range(300):
        raw.send(transfer_part(1, None, part, more=True))
    assert raw.expect(amqp.DETACH).error.condition == "amqp:link:message-size-exceeded"
    raw.send(amqp.detach_frame(0, handle=1))
    raw.attach_sender(queue, handle=3)


def test_a_message_that_is_too_large_is_rejected_and_the_link_goes_on(raw: RawClient, queue: str) -> None:
    assert raw.attach_sender(queue).max_message_size == 1024 * 1024
    raw.expect(amqp.FLOW)
    raw.send(transfer(1, 0, encoded(bytes(1_100_000))))
    assert raw.expect(amqp.DISPOSITION).error.condition == "amqp:link:message-size-exceeded"
    raw.send(transfer(1, 1, encoded(b"small")))
    assert raw.expect(amqp.DISPOSITION).state == "accepted"


def test_an_aborted_message_is_forgotten(raw: RawClient, queue: str) -> None:
    raw.attach_sender(queue)
    raw.expect(amqp.FLOW)
    raw.send(transfer_part(1, 0, b"half", more=True))
    aborted = b"\x00\x53\x14\xc0\x0c\x0a\x52\x01\x40\x40\x40\x40\x40\x40\x40\x40\x41"
    raw.send((len(aborted) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + aborted)
    raw.send(transfer(1, 1, encoded(b"whole")))
    assert raw.expect(amqp.DISPOSITION).first == 1


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (b"junk", "amqp:decode-error"),
        (encoded(b"x", None), "amqp:not-allowed"),
        (encoded(b"x", "s" * 129), "com.microsoft:argument-error"),
    ],
    ids=["malformed", "no session", "long id"],
)
def test_messages_that_cannot_be_stored_are_rejected(raw: RawClient, queue: str, payload: bytes, condition: str) -> None:
    raw.attach_sender(queue)
    raw.expect(amqp.FLOW)
    raw.send(transfer(1, 0, payload))
    assert raw.expect(amqp.DISPOSITION).error.condition == condition
    raw.send(transfer(1, 1, encoded(b"good")))
    assert raw.expect(amqp.DISPOSITION).state == "accepted"


def test_a_message_to_a_receiver_detaches_the_link(raw: RawClient, queue: str) -> None:
    raw.attach_receiver(queue)
    raw.send(transfer(2, 0, encoded(b"x")))
    assert raw.expect(amqp.DETACH).error.condition == "amqp:not-allowed"


@pytest.mark.parametrize(
    ("address", "condition"),
    [("", "amqp:invalid-field"), ("a//b", "amqp:not-found"), ("nowhere", "amqp:not-found"), ("$other", "amqp:not-found")],
)
def test_an_attach_that_is_refused_has_no_source_and_is_detached(raw: RawClient, address: str, condition: str) -> None:
    assert not raw.attach_receiver(address).has_source
    assert raw.expect(amqp.DETACH).error.condition == condition
    raw.send(amqp.detach_frame(0, handle=2))
    assert raw.attach_sender("$cbs").has_target
