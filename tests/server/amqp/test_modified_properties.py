"""The properties that a client changes when it settles a message: Azure's "properties to modify"."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from azsession import Message, ServiceBusProvider, amqp
from azsession.amqp.encoding import described, encode_value, fields_of, symbol_map
from azsession.amqp.types import Symbol, Timestamp
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from .conftest import ROOT
from .raw import RawClient, transfer
from .test_management import Manager

FIELDS = {"a": 1, "b": "x"}
CHANGES = {"b": "y", "c": True, "d": 2.5, "e": None, "f": b"\x00", "g": Timestamp(1000), "big": amqp.Long(2**40)}
READ = {**FIELDS, **CHANGES, "g": 1000}


def modified(changes: dict[str, Any], *, deferred: bool = False) -> bytes:
    return described(0x27, fields_of((encode_value(True), encode_value(deferred), symbol_map(changes))))


def buried(changes: dict[str, Any]) -> bytes:
    info = {"DeadLetterReason": "why", "DeadLetterErrorDescription": "more", **changes}
    error = fields_of((encode_value(Symbol("com.microsoft:dead-letter")), encode_value(None), symbol_map(info)))
    return described(0x25, fields_of((described(0x1D, error),)))


@pytest.fixture
def raw(service: GatewayService) -> Iterator[RawClient]:
    with RawClient(service) as raw:
        yield raw.open(ROOT)


def send_over_amqp(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    """Send a message with annotations, properties and a body of two sections."""
    raw.attach_sender(queue)
    raw.expect(amqp.FLOW)
    message = amqp.AmqpMessage(
        annotations={"x-own": "kept"}, group_id="s", subject="label", application_properties=FIELDS, value=["body"]
    )
    raw.send(transfer(1, 0, amqp.encode_message(message)))
    assert raw.expect(amqp.DISPOSITION).state == "accepted"


def send_over_http(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, Message("body", session_id="s", subject="label", attributes=FIELDS))


SENDS = pytest.mark.parametrize("send", [send_over_amqp, send_over_http])
Send = Callable[[RawClient, ServiceBusProvider, str], None]


def receive(raw: RawClient, queue: str) -> amqp.Transfer:
    raw.attach_receiver(queue)
    raw.credit(2, 10)
    received: amqp.Transfer = raw.expect(amqp.TRANSFER)
    return received


def settle(raw: RawClient, queue: str, outcome: bytes) -> Any:
    receive(raw, queue)
    raw.send(amqp.disposition_frame(0, first=0, last=0, outcome=outcome))
    return raw.expect(amqp.DISPOSITION)


@SENDS
def test_an_abandoned_message_comes_back_with_the_changes(
    raw: RawClient, provider: ServiceBusProvider, queue: str, send: Send
) -> None:
    send(raw, provider, queue)
    assert settle(raw, queue, modified(CHANGES)).state == "modified"
    message = amqp.decode_message(raw.expect(amqp.TRANSFER).payload)
    assert message.application_properties == READ
    assert (message.subject, message.delivery_count) == ("label", 1)
    if send is send_over_amqp:
        assert (message.value, message.annotations["x-own"]) == (["body"], "kept")
    else:
        assert message.data == b"body"
    (peeked,) = provider.peek_messages(queue, "s")
    assert {**peeked.attributes, "g": 1000} == READ
    assert peeked.attributes["g"] == datetime.fromtimestamp(1, timezone.utc)


@SENDS
def test_a_deferred_message_comes_with_the_changes(
    raw: RawClient, provider: ServiceBusProvider, queue: str, send: Send
) -> None:
    send(raw, provider, queue)
    assert settle(raw, queue, modified({"b": 2}, deferred=True)).state == "modified"
    (peeked,) = provider.peek_messages(queue, "s")
    assert (peeked.state, peeked.attributes) == ("Deferred", {"a": 1, "b": 2})
    response = Manager(raw, queue).ask(
        "receive-by-sequence-number",
        {"session-id": "s", "sequence-numbers": amqp.Array([amqp.Long(peeked.sequence_number)]), "receiver-settle-mode": 1},
    )
    (one,) = response.body["messages"]
    assert amqp.decode_message(one["message"]).application_properties == {"a": 1, "b": 2}


@SENDS
def test_a_dead_letter_has_the_changes_beside_its_reason(
    raw: RawClient, provider: ServiceBusProvider, queue: str, send: Send
) -> None:
    send(raw, provider, queue)
    assert settle(raw, queue, buried({"b": "y"})).state == "rejected"
    (dead,) = provider.dead_letters(queue)
    assert (dead.attributes, dead.dead_letter_reason, dead.dead_letter_description) == ({"a": 1, "b": "y"}, "why", "more")


@pytest.mark.parametrize("status", ["abandoned", "defered", "suspended"])
def test_a_request_changes_properties_too(raw: RawClient, provider: ServiceBusProvider, queue: str, status: str) -> None:
    send_over_http(raw, provider, queue)
    received = receive(raw, queue)
    assert received.delivery_tag is not None
    raw.credit(2, 0, delivery_count=1)
    asked = {
        "session-id": "s",
        "disposition-status": status,
        "lock-tokens": [uuid.UUID(bytes_le=received.delivery_tag)],
        "properties-to-modify": {"b": "y"},
    }
    assert Manager(raw, queue).ask("update-disposition", asked).status == 200
    (one,) = provider.dead_letters(queue) if status == "suspended" else provider.peek_messages(queue, "s")
    assert one.attributes == {"a": 1, "b": "y"}


def test_a_completed_message_ignores_properties(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    send_over_http(raw, provider, queue)
    assert settle(raw, queue, amqp.ACCEPTED).state == "accepted"
    assert provider.peek_messages(queue, "s") == []


@pytest.mark.parametrize("changes", [{"list": [1]}, {"map": {"a": 1}}, {"": 1}, {"n" * 200: 1}, {"a\n": 1}])
def test_impossible_properties_are_refused(
    raw: RawClient, provider: ServiceBusProvider, queue: str, changes: dict[str, Any]
) -> None:
    send_over_http(raw, provider, queue)
    answer = settle(raw, queue, modified(changes))
    assert (answer.state, answer.error.condition) == ("rejected", "com.microsoft:argument-error")
    (peeked,) = provider.peek_messages(queue, "s")
    assert (peeked.attributes, peeked.delivery_count) == (FIELDS, 1)


def test_properties_that_grow_too_large_are_refused(raw: RawClient, provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, Message("body", session_id="s", attributes={"a": "x" * 60_000}))
    answer = settle(raw, queue, modified({"b": "x" * 10_000}))
    assert (answer.state, answer.error.condition) == ("rejected", "com.microsoft:argument-error")
    (peeked,) = provider.peek_messages(queue, "s")
    assert list(peeked.attributes) == ["a"]


def test_changes_outlive_the_server(tmp_path: Path) -> None:
    for run in range(2):
        with (
            GatewayService(EmbeddedBroker(tmp_path / "data", queues=["q"]), [ROOT], amqp_port=0) as service,
            ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
            RawClient(service) as raw,
        ):
            raw.open(ROOT)
            if run == 0:
                send_over_amqp(raw, provider, "q")
                settle(raw, "q", modified({"b": "y"}))
                raw.credit(2, 0, delivery_count=1)
            else:
                assert amqp.decode_message(receive(raw, "q").payload).application_properties == {"a": 1, "b": "y"}
