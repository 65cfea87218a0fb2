"""The trace context in the attributes of a message: which forms are read, and which are not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from azsession import Message
from azsession.telemetry.message_context import context_of, with_context
from azsession.validation import MAX_ATTRIBUTES_SIZE

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


@pytest.mark.parametrize(
    "attributes",
    [
        {"traceparent": PARENT},
        {"Diagnostic-Id": PARENT},
        {"traceparent": PARENT.encode()},
        {"Diagnostic-Id": PARENT.encode()},
        {"traceparent": PARENT, "Diagnostic-Id": OTHER},
        {"traceparent": PARENT, "tracestate": "vendor=1"},
    ],
    ids=str,
)
def test_a_context_is_read(attributes: dict[str, Any]) -> None:
    context = context_of(attributes)
    assert context is not None
    assert (format(context.trace_id, "032x"), format(context.span_id, "016x")) == tuple(PARENT.split("-")[1:3])
    assert context.is_remote
    assert context.trace_state.get("vendor") == ("1" if "tracestate" in attributes else None)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"other": PARENT},
        {"traceparent": ""},
        {"traceparent": 7},
        {"traceparent": None},
        {"traceparent": PARENT.upper()},
        {"traceparent": f"{PARENT}-more"},
        {"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"},
        {"traceparent": b"\xff\xfe"},
        {"traceparent": PARENT + "x" * 100_000},
        {"Diagnostic-Id": "|4bf92f3577b34da6a3ce929d0e0e4736.00f067aa0ba902b7."},
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_context_is_none(attributes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert context_of(attributes) is None
    # A sender could flood the log.
    assert not [record for record in caplog.records if record.name.startswith("azsession.telemetry")]


def test_the_state_of_a_trace_is_written_and_attributes_of_the_caller_stay() -> None:
    state = TraceState([("vendor", "1")])
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1), trace_state=state))
    message = with_context(Message("x", session_id="s", attributes={"tracestate": "own", "n": 1}), span)
    parent = f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert message.attributes == {"n": 1, "traceparent": parent, "Diagnostic-Id": parent, "tracestate": "own"}


def test_a_span_without_a_context_changes_nothing() -> None:
    message = Message("x", session_id="s")
    assert with_context(message, NonRecordingSpan(SpanContext(0, 0, is_remote=False))) is message


def test_attributes_that_would_become_too_large_stay_as_they_are() -> None:
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    room = len("traceparent") + len("Diagnostic-Id") + 2 * len(PARENT)
    for size, fits in ((MAX_ATTRIBUTES_SIZE - room, True), (MAX_ATTRIBUTES_SIZE - room + 1, False)):
        message = Message("x", session_id="s", attributes={"a": "x" * (size - 1)})
        assert ("traceparent" in with_context(message, span).attributes) == fits
