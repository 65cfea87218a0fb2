"""The span around each call of a handler, of a `SessionProcessor` and of a Celery session task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from azsession import (
    DeadLetter,
    DeadLetterSession,
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)
from azsession.contrib.celery import close_provider, session_task
from azsession.processor import backoff
from azsession.testing import AzsessionServer

from .exported import Exported, ids, link_of

DURATION, CONSUMED = "messaging.process.duration", "messaging.client.consumed.messages"
Handler = Callable[[ReceivedMessage, SessionClient], object]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.02)


def process(provider: ServiceBusProvider, queue: str, handler: Handler, **options: Any) -> None:
    SessionProcessor(provider, queue, handler, max_concurrent_sessions=1, until_empty=True, **options).run()


def test_the_span_is_current_in_the_handler_and_continues_the_trace_of_the_sender(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    message_id = provider.send_message(queue, Message("x", session_id="s1"))
    seen: list[Span] = []
    process(provider, queue, lambda message, session: seen.append(trace.get_current_span()))
    sent, handled = telemetry.span(f"send {queue}"), telemetry.span(f"process {queue}")
    assert [ids(span.get_span_context()) for span in seen] == [ids(handled.get_span_context())]
    assert handled.kind is SpanKind.CONSUMER
    assert handled.parent is not None
    assert ids(handled.parent) == ids(sent.get_span_context()) == ids(link_of(handled))
    attributes: dict[str, Any] = dict(handled.attributes or {})
    assert attributes["messaging.operation.name"] == attributes["messaging.operation.type"] == "process"
    assert attributes["messaging.message.id"] == message_id
    assert attributes["messaging.servicebus.message.delivery_count"] == 1
    assert attributes["azsession.session_id"] == "s1"
    assert telemetry.measured(DURATION, messaging_destination_name=queue) == 1
    assert telemetry.measured(CONSUMED, messaging_operation_name="process", messaging_destination_name=queue) == 1
    # The processor receives for the handler.
    assert telemetry.spans(f"receive {queue}") == []


def test_the_settlement_belongs_to_the_span_and_not_to_its_time(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    provider.send_message(queue, Message("x", session_id="s1"))
    process(provider, queue, lambda message, session: None)
    handled, settled = telemetry.span(f"process {queue}"), telemetry.span(f"complete {queue}")
    assert settled.parent is not None
    assert ids(settled.parent) == ids(handled.get_span_context())
    assert handled.end_time is not None
    assert settled.start_time is not None
    assert handled.end_time <= settled.start_time


def test_settlements_in_the_background_have_spans_of_their_own(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    provider.send_messages(queue, [Message(text, session_id="s1") for text in "abc"])
    process(provider, queue, lambda message, session: None, settle_in_background=5)
    settled = telemetry.spans(f"complete {queue}")
    counts = [int((span.attributes or {}).get("messaging.batch.message_count") or 1) for span in settled]  # type: ignore[arg-type]
    assert sum(counts) == 3
    # The last message is completed with the release of the session, in the thread of its handler.
    handled = telemetry.spans(f"process {queue}")
    parents = [None if span.parent is None else ids(span.parent) for span in settled]
    assert parents == [*[None] * (len(settled) - 1), ids(handled[-1].get_span_context())]


def test_messages_fetched_ahead_have_their_own_spans(provider: ServiceBusProvider, queue: str, telemetry: Exported) -> None:
    provider.send_messages(queue, [Message(text, session_id="s1") for text in "abc"])
    process(provider, queue, lambda message, session: None)
    created = [ids(span.get_span_context()) for span in telemetry.spans(f"create {queue}")]
    handled = telemetry.spans(f"process {queue}")
    assert [ids(link_of(span)) for span in handled] == created
    assert [ids(span.parent) for span in handled] == created


def test_a_handler_that_fails_is_an_error_and_one_that_dead_letters_is_not(
    provider: ServiceBusProvider, queue: str, telemetry: Exported
) -> None:
    provider.send_messages(queue, [Message(text, session_id=text) for text in ("bad", "poison", "rest")])
    failed: list[str] = []

    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "poison":
            raise DeadLetter("Malformed")
        if message.text() == "rest":
            raise DeadLetterSession("Gone")
        if not failed:
            failed.append(message.text())
            raise ValueError("on purpose")

    process(provider, queue, handle)
    by_session: dict[Any, list[Any]] = {}
    for span in telemetry.spans(f"process {queue}"):
        by_session.setdefault(dict(span.attributes or {})["azsession.session_id"], []).append(span)
    first, second = by_session["bad"]
    assert (first.status.status_code, first.attributes["error.type"]) == (StatusCode.ERROR, "ValueError")
    for span in (second, *by_session["poison"], *by_session["rest"]):
        assert (span.status.status_code, "error.type" in span.attributes) == (StatusCode.UNSET, False)
    assert telemetry.measured(DURATION, error_type="ValueError", messaging_destination_name=queue) == 1
    abandoned = telemetry.span(f"abandon {queue}")
    assert abandoned.parent is not None
    assert ids(abandoned.parent) == ids(first.get_span_context())


@pytest.fixture
def app(azsession_server: AzsessionServer) -> Any:
    made = Celery("traced", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(azsession={"connection_string": azsession_server.connection_string})
    yield made
    close_provider(made)
    made.close()


@pytest.mark.parametrize("is_instrumented", [False, True], ids=["plain", "in a span of the task"])
def test_a_session_task_has_a_span_for_each_message(
    azsession_provider: ServiceBusProvider, app: Celery, telemetry: Exported, is_instrumented: bool
) -> None:
    azsession_provider.send_message("orders", Message("x", session_id="s1"))
    seen: list[Span] = []

    @session_task("orders", app=app)
    def handle(message: ReceivedMessage, session: SessionClient) -> None:
        seen.append(trace.get_current_span())

    sent, parent = telemetry.span("send orders"), None
    if is_instrumented:
        with trace.get_tracer("celery").start_as_current_span("run/handle") as parent:
            assert handle.apply(("s1",)).get() == 1
    else:
        assert handle.apply(("s1",)).get() == 1
    handled = telemetry.span("process orders")
    assert [ids(span.get_span_context()) for span in seen] == [ids(handled.get_span_context())]
    assert ids(link_of(handled)) == ids(sent.get_span_context())
    # The span of an instrumented task stays the parent.
    expected = sent.get_span_context() if parent is None else parent.get_span_context()
    assert ids(handled.parent) == ids(expected)
    assert not trace.get_current_span().get_span_context().is_valid
