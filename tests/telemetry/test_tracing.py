"""Spans and measurements of sends, receives and settlements, over HTTP, in process and on Azure."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from azsession import InvalidReceiptError, Message, QueueNotFoundError, ServiceBusProvider
from azsession.validation import MAX_ATTRIBUTES_SIZE

from ..api.conftest import Arrangement, take
from .exported import Exported, ids, link_of

DURATION, SENT, CONSUMED = (
    "messaging.client.operation.duration",
    "messaging.client.sent.messages",
    "messaging.client.consumed.messages",
)


def attributes_of(span: Any) -> dict[str, Any]:
    """Return the attributes without those of the server, which differ between the arrangements."""
    return {name: value for name, value in span.attributes.items() if not name.startswith("server.")}


def test_a_message_that_is_sent_alone_carries_the_context_of_its_send_span(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    with trace.get_tracer("test").start_as_current_span("caller") as caller:
        message_id = provider.send_message(queue, Message("x", session_id="s1", correlation_id="c1", attributes={"n": 1}))
    sent = telemetry.span(f"send {queue}")
    assert sent.kind is SpanKind.PRODUCER
    assert sent.parent is not None
    assert ids(sent.parent) == ids(caller.get_span_context())
    assert attributes_of(sent) == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": "c1",
    }
    (message,) = provider.peek_messages(queue, "s1")
    context = sent.get_span_context()
    assert context is not None
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert message.attributes == {"n": 1, "traceparent": parent, "Diagnostic-Id": parent}
    assert telemetry.measured(SENT, messaging_destination_name=queue) == 1
    assert telemetry.measured(DURATION, messaging_operation_name="send", messaging_destination_name=queue) == 1


def test_each_message_of_a_list_has_a_span_of_its_own(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    names = provider.send_messages(queue, [Message(text, session_id="s1") for text in "abc"])
    created = telemetry.spans(f"create {queue}")
    assert [span.kind for span in created] == [SpanKind.PRODUCER] * 3
    assert [dict(span.attributes or {})["messaging.message.id"] for span in created] == names
    sent = telemetry.span(f"send {queue}")
    assert sent.kind is SpanKind.CLIENT
    assert attributes_of(sent)["messaging.batch.message_count"] == 3
    assert [ids(link.context) for link in sent.links] == [ids(span.get_span_context()) for span in created]
    assert [dict(link.attributes or {})["messaging.message.id"] for link in sent.links] == names
    assert telemetry.measured(SENT, messaging_operation_name="send", messaging_destination_name=queue) == 3
    with provider.create_session_client(queue, "s1") as session:
        received = session.receive_messages(3, timeout=10)
        while len(received) < 3:
            received += session.receive_messages(3, timeout=10)
    receives = telemetry.spans(f"receive {queue}")
    linked = [link for span in receives for link in span.links]
    assert [ids(link.context) for link in linked] == [ids(span.get_span_context()) for span in created]
    assert [dict(link.attributes or {})["messaging.message.id"] for link in linked] == names


def test_a_context_of_the_caller_stays(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    attributes = {"traceparent": own, "tracestate": "vendor=1"}
    provider.send_message(queue, Message("x", session_id="s1", attributes=attributes))
    provider.send_messages(queue, [Message("y", session_id="s1", attributes={"Diagnostic-Id": own})])
    assert [message.attributes for message in provider.peek_messages(queue, "s1")] == [attributes, {"Diagnostic-Id": own}]
    assert telemetry.spans(f"create {queue}") == []
    for span in telemetry.spans(f"send {queue}"):
        assert span.kind is SpanKind.CLIENT
        assert format(link_of(span).span_id, "x") == "b7ad6b7169203331"


def test_a_settlement_that_fetches_messages_has_the_same_spans_as_two_requests(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    names = provider.send_messages(queue, [Message(text, session_id="s1") for text in "abc"])
    with provider.create_session_client(queue, "s1") as session:
        for message in session.messages(timeout=2, prefetch=1):
            session.complete_message(message)
    receives = [attributes_of(span).get("messaging.message.id") for span in telemetry.spans(f"receive {queue}")]
    assert receives == [*names, None]
    assert [attributes_of(span)["messaging.message.id"] for span in telemetry.spans(f"complete {queue}")] == names
    assert telemetry.measured(CONSUMED, messaging_operation_name="receive", messaging_destination_name=queue) == 3


def test_a_receive_is_linked_to_the_message_and_describes_it(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    message_id = provider.send_message(queue, Message("x", session_id="s1"))
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        assert session.receive_message(timeout=0) is None
    received, empty = telemetry.spans(f"receive {queue}")
    assert received.kind is SpanKind.CLIENT
    assert received.parent is None
    assert ids(link_of(received)) == ids(telemetry.span(f"send {queue}").get_span_context())
    assert message.enqueued_at is not None
    assert attributes_of(received) == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": queue,
        "messaging.message.id": message_id,
        "messaging.servicebus.message.delivery_count": 1,
        "messaging.servicebus.message.enqueued_time": int(message.enqueued_at.timestamp()),
        "azsession.session_id": "s1",
    }
    assert (empty.links, empty.status.status_code) == ((), StatusCode.UNSET)
    assert telemetry.measured(CONSUMED, messaging_operation_name="receive", messaging_destination_name=queue) == 1
    assert telemetry.measured(DURATION, messaging_operation_name="receive", messaging_destination_name=queue) == 2


def test_each_message_of_an_iteration_has_its_receive_span_when_it_is_handed_out(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    provider.send_messages(queue, [Message(text, session_id="s1") for text in "ab"])
    created = [ids(span.get_span_context()) for span in telemetry.spans(f"create {queue}")]
    with provider.create_session_client(queue, "s1") as session:
        for number, message in enumerate(session.messages(timeout=0, prefetch=10), 1):
            assert [ids(link_of(span)) for span in telemetry.spans(f"receive {queue}")] == created[:number]
            assert not trace.get_current_span().get_span_context().is_valid
            session.complete_message(message)
    assert telemetry.measured(CONSUMED, messaging_destination_name=queue) == 2


@pytest.mark.parametrize("name", ["complete", "abandon", "defer", "dead_letter"])
def test_a_settlement_has_a_span(provider: ServiceBusProvider, queue: str, telemetry: Exported, name: str) -> None:
    message_id = provider.send_message(queue, Message("x", session_id="s1"))
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        if name == "dead_letter":
            session.dead_letter_message(message, "bad")
        else:
            getattr(session, f"{name}_message")(message)
    settled = telemetry.span(f"{name} {queue}")
    assert settled.kind is SpanKind.CLIENT
    found = attributes_of(settled)
    assert found == {
        "messaging.system": "servicebus",
        "messaging.operation.name": name,
        "messaging.operation.type": "settle",
        "messaging.destination.name": queue,
        "messaging.servicebus.disposition_status": name,
        "messaging.message.id": message_id,
        "azsession.session_id": "s1",
    }
    assert telemetry.measured(DURATION, messaging_operation_name=name, messaging_destination_name=queue) == 1


def test_settlements_of_many_messages_count_them(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    provider.send_messages(queue, [Message(text, session_id="s1") for text in "abcd"])
    with provider.create_session_client(queue, "s1") as session:
        session.complete_messages([take(session), take(session)])
        assert session.dead_letter_session("gone") == 2
    assert attributes_of(telemetry.span(f"complete {queue}"))["messaging.batch.message_count"] == 2
    assert attributes_of(telemetry.span(f"dead_letter {queue}"))["messaging.batch.message_count"] == 2


def test_an_error_is_in_the_span_and_in_the_measurement(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    provider.send_message(queue, Message("x", session_id="s1"))
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        session.complete_message(message)
        with pytest.raises(InvalidReceiptError):
            session.complete_message(message)
    good, bad = telemetry.spans(f"complete {queue}")
    assert (good.status.status_code, "error.type" in attributes_of(good)) == (StatusCode.UNSET, False)
    assert bad.status.status_code is StatusCode.ERROR
    assert attributes_of(bad)["error.type"] == "MessageLockLost"
    assert message.receipt.handle not in str(bad.status.description)
    measured = {"messaging_operation_name": "complete", "messaging_destination_name": queue}
    assert telemetry.measured(DURATION, error_type="MessageLockLost", **measured) == 1
    assert telemetry.measured(DURATION, **measured) == 2


def test_a_send_that_fails_counts_its_messages_as_failed(provider: ServiceBusProvider, telemetry: Exported) -> None:
    with pytest.raises(QueueNotFoundError):
        provider.send_message("missing", Message("x", session_id="s1"))
    sent = telemetry.span("send missing")
    assert attributes_of(sent)["error.type"] == "EntityNotFound"
    assert telemetry.measured(SENT, error_type="EntityNotFound", messaging_destination_name="missing") == 1


def test_spans_name_the_server(arrangement: Arrangement, telemetry: Exported) -> None:
    queue, provider = arrangement.queue(), arrangement.provider()
    provider.send_message(queue, Message("x", session_id="s1"))
    found = dict(telemetry.span(f"send {queue}").attributes or {})
    if arrangement.connection_string:
        assert found["server.address"] in ("127.0.0.1", "localhost")
        assert f":{found['server.port']}/" in arrangement.connection_string.replace(";", "/")
    else:
        assert "server.address" not in found


def test_measurements_have_no_session(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    provider.send_message(queue, Message("x", session_id="s1"))
    with provider.create_session_client(queue, "s1") as session:
        session.complete_message(take(session))
    for instrument in (DURATION, SENT, CONSUMED):
        for labels in telemetry.labels(instrument):
            assert not [name for name in labels if "session" in name or "message.id" in name]


def test_a_message_with_attributes_of_the_largest_size_is_sent_without_a_context(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    attributes: dict[str, Any] = {"a": "x" * (MAX_ATTRIBUTES_SIZE - 1)}
    provider.send_message(queue, Message("x", session_id="s1", attributes=attributes))
    (message,) = provider.peek_messages(queue, "s1")
    assert message.attributes == attributes
    assert telemetry.spans(f"send {queue}")


def test_a_scheduled_message_carries_a_context(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    from datetime import datetime, timedelta, timezone

    at = datetime.now(timezone.utc) + timedelta(hours=1)
    provider.schedule_messages(queue, [Message("x", session_id="s1")], at)
    (message,) = provider.peek_messages(queue, "s1")
    context = telemetry.span(f"schedule {queue}").get_span_context()
    assert context is not None
    assert format(context.span_id, "016x") in str(message.attributes["traceparent"])
    assert telemetry.span(f"peek {queue}").links[0].context.span_id == context.span_id
