"""An operation that fails while it begins or ends, and one that is interrupted."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from opentelemetry import trace

from azsession import Message, ReceiptHandle, ReceivedMessage
from azsession.telemetry import create

from .exported import Exported, ids


def test_the_span_before_an_operation_is_current_again_after_it(telemetry: Exported) -> None:
    own = create("host", 1)
    with trace.get_tracer("test").start_as_current_span("around") as around:
        with own.send("send", "orders", [Message("x", session_id="s")], is_batch=False):
            assert trace.get_current_span() is not around
        assert trace.get_current_span() is around
        with pytest.raises(KeyboardInterrupt), own.process("orders", "s1", _message()):
            raise KeyboardInterrupt
        assert trace.get_current_span() is around
    assert dict(telemetry.span("process orders").attributes or {})["error.type"] == "KeyboardInterrupt"


def test_a_receive_and_a_settlement_are_children_of_the_current_span(telemetry: Exported) -> None:
    own = create("host", 1)
    with trace.get_tracer("test").start_as_current_span("around") as around:
        for operation in (own.receive("receive", "orders", "s1"), own.settle("complete", "orders", "s1", [])):
            with operation:
                assert trace.get_current_span() is around
    for name in ("receive orders", "complete orders"):
        span = telemetry.span(name)
        assert span.parent is not None
        assert ids(span.parent) == ids(around.get_span_context())
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time < span.end_time


def test_the_description_of_an_error_shows_no_secret(telemetry: Exported) -> None:
    with create("host", 1).process("orders", "s1", _message()) as operation:
        operation.returned(ValueError("refused: sig=5ecre7&se=1\n"))
    assert telemetry.span("process orders").status.description == "refused: sig=...&se=1\\x0a"


def test_a_send_without_messages_makes_a_span_without_a_message(telemetry: Exported) -> None:
    with create(None, None).send("send", "orders", [], is_batch=True) as sending:
        assert sending.to_send == []
    assert telemetry.span("send orders").links == ()


def test_the_sent_messages_are_the_callers_without_a_recording_tracer(telemetry: Exported) -> None:
    telemetry.is_on = False
    messages = [Message("x", session_id="s")]
    with create("host", 1).send("send", "orders", messages, is_batch=False) as sending:
        assert sending.to_send == messages


def _message() -> ReceivedMessage:
    return ReceivedMessage(body=b"x", receipt=ReceiptHandle("t"), delivered_at=datetime.now(timezone.utc))
