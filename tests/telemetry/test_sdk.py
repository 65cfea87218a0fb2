"""Traces that cross between azsession and the official SDK, with azure-core-tracing-opentelemetry, on the AMQP endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.core.settings import settings
from azure.servicebus import ServiceBusClient

from azsession import Message, ServiceBusProvider
from azsession.server import GatewayService

from ..conftest import eventually
from ..server.amqp.conftest import client, new_queue, queue, service, sid
from ..support.sdk import message, send, session
from .exported import Exported, ids, link_of

__all__ = ["client", "new_queue", "queue", "service", "sid"]


@pytest.fixture(autouse=True)
def _sdk_is_traced() -> Iterator[None]:
    settings.tracing_implementation = "opentelemetry"
    yield
    settings.tracing_implementation = None


def test_a_message_of_the_sdk_is_linked_to_the_span_of_its_sender(
    client: ServiceBusClient, service: GatewayService, queue: str, sid: str, telemetry: Exported
) -> None:
    send(client, queue, message("x", sid))
    provider = ServiceBusProvider.from_connection_string(service.amqp_connection_string())
    with provider, provider.create_session_client(queue, sid) as session:
        received = session.receive_message(timeout=10)
        assert received is not None
        session.complete_message(received)
    assert {"Diagnostic-Id", "traceparent"} <= set(received.attributes)
    created = telemetry.span("ServiceBus.message").get_span_context()
    assert ids(link_of(telemetry.span(f"receive {queue}"))) == ids(created)


def test_the_endpoint_continues_the_trace_of_a_message_and_links_those_of_several(
    client: ServiceBusClient, service: GatewayService, queue: str, sid: str, telemetry: Exported
) -> None:
    send(client, queue, message("one", sid))
    (single,) = telemetry.spans("ServiceBus.message")
    send(client, queue, message("two", sid), message("three", sid))
    with session(client, queue, sid) as receiver:
        got: list[object] = []
        while len(got) < 3:
            got += receiver.receive_messages(3, max_wait_time=10)
    eventually(lambda: len(telemetry.spans("AMQP send")) == 2)
    alone, batch = telemetry.spans("AMQP send")
    assert ids(alone.parent) == ids(single.get_span_context())
    assert alone.links == ()
    created = [ids(span.get_span_context()) for span in telemetry.spans("ServiceBus.message")]
    assert batch.parent is None
    assert [ids(link.context) for link in batch.links] == created[1:]
    assert {link.attributes["messaging.message.id"] for link in batch.links} == {each.message_id for each in got[1:]}
    eventually(lambda: sum(len(span.links) for span in telemetry.spans("AMQP receive")) == 3)
    received = telemetry.spans("AMQP receive")
    assert [ids(link.context) for span in received for link in span.links] == created
    assert {span.parent for span in received} == {None}


def test_the_sdk_links_a_message_to_the_span_of_azsession(
    client: ServiceBusClient, service: GatewayService, queue: str, sid: str, telemetry: Exported
) -> None:
    with ServiceBusProvider.from_connection_string(service.amqp_connection_string()) as provider:
        provider.send_messages(queue, [Message(text, session_id=sid) for text in "ab"])
    with session(client, queue, sid) as receiver:
        received = receiver.receive_messages(2, max_wait_time=10)
        while len(received) < 2:
            received += receiver.receive_messages(2, max_wait_time=10)
        for each in received:
            receiver.complete_message(each)
    created = [ids(span.get_span_context()) for span in telemetry.spans(f"create {queue}")]
    linked = [ids(link.context) for span in telemetry.spans("ServiceBus.receive") for link in span.links]
    assert linked == created
    settled = [ids(link_of(span)) for span in telemetry.spans("ServiceBus.complete")]
    assert settled == created


def test_a_message_that_the_sdk_passes_on_keeps_its_trace(
    client: ServiceBusClient, service: GatewayService, queue: str, sid: str, telemetry: Exported
) -> None:
    with ServiceBusProvider.from_connection_string(service.amqp_connection_string()) as provider:
        provider.send_message(queue, Message("x", session_id=sid))
        with session(client, queue, sid) as receiver:
            (received,) = receiver.receive_messages(1, max_wait_time=10)
            receiver.dead_letter_message(received, reason="bad")
        settings.tracing_implementation = None
        send(client, queue, message("y", f"{sid}-2", application_properties=received.application_properties))
        with provider.create_session_client(queue, f"{sid}-2") as own:
            assert own.receive_message(timeout=10) is not None
    sent = telemetry.span(f"send {queue}").get_span_context()
    assert ids(link_of(telemetry.span(f"receive {queue}"))) == ids(sent)
