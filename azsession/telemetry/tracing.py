"""`OpenTelemetry`: a `Telemetry` that makes spans and measurements. This module needs opentelemetry-api.

Without a tracer provider and a meter provider, which an application gets from the SDK, an operation looks at two globals and
does nothing else.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from opentelemetry.trace import SpanKind

from ..messages import Message, PeekedMessage
from .conventions import (
    DISPOSITION,
    MESSAGE_COUNT,
    SESSION_ID,
    Attributes,
    message_attributes,
    operation_attributes,
)
from .instruments import has_meter_provider, has_tracer_provider, instruments
from .message_context import PROPAGATOR, has_context
from .operations import NO_OPERATION, Operation, SendOperation, Telemetry
from .spans import Processing, Sending, Transfer, Work


class OpenTelemetry(Telemetry):
    """Makes spans and measurements of the operations of one provider.

    Args:
        host: The server, or `None` for a broker in this process.
        port: Its port.
        traces: Make spans.
    """

    def __init__(self, host: str | None, port: int | None, *, traces: bool) -> None:
        self._server = (host, port)
        self._traces = traces
        # An application sets each provider once. Until then, each operation looks for it.
        self._has_traces = self._has_metrics = False
        self._instruments = instruments()

    def _is_on(self) -> bool:
        if self._has_traces:
            return True
        if self._traces and has_tracer_provider():
            self._has_traces = True
        elif not self._has_metrics and has_meter_provider():
            self._has_metrics = True
        return self._has_traces or self._has_metrics

    def _work(self, name: str, kind: str, queue_name: str, span_kind: SpanKind, attributes: Attributes) -> Work:
        span_name, measured = operation_attributes(name, kind, queue_name, *self._server)
        tracer = self._instruments.tracer if self._has_traces else None
        return Work(self._instruments, tracer, span_name, span_kind, measured, {**measured, **attributes})

    def send(self, name: str, queue_name: str, messages: Sequence[Message], *, is_batch: bool) -> SendOperation:
        if not self._is_on():
            return SendOperation(messages)
        is_single = len(messages) == 1 and not has_context(messages[0])
        attributes = message_attributes(messages[0]) if len(messages) == 1 else {}
        if is_batch:
            attributes[MESSAGE_COUNT] = len(messages)
        # The context of a span that sends one message is the message's. Several messages get their own spans.
        work = self._work(name, "send", queue_name, SpanKind.PRODUCER if is_single else SpanKind.CLIENT, attributes)
        create = operation_attributes("create", "create", queue_name, *self._server)
        return Sending(work, messages, None if is_single else create)

    def receive(self, name: str, queue_name: str, session_id: str | None, *, is_batch: bool = False) -> Operation:
        if not self._is_on():
            return NO_OPERATION
        return self._transfer(name, "receive", queue_name, {} if session_id is None else {SESSION_ID: session_id}, is_batch)

    def settle(
        self, name: str, queue_name: str, session_id: str, settled: Sequence[object], *, is_batch: bool = False
    ) -> Operation:
        if not self._is_on():
            return NO_OPERATION
        attributes: Attributes = {SESSION_ID: session_id, DISPOSITION: name}
        if is_batch:
            attributes[MESSAGE_COUNT] = len(settled)
        messages = [each for each in settled if isinstance(each, PeekedMessage)]
        return self._transfer(name, "settle", queue_name, attributes, is_batch, messages)

    def _transfer(
        self,
        name: str,
        kind: str,
        queue_name: str,
        attributes: Attributes,
        is_batch: bool,
        settled: Sequence[PeekedMessage] | None = None,
    ) -> Operation:
        span_name, measured = operation_attributes(name, kind, queue_name, *self._server)
        tracer = self._instruments.tracer if self._has_traces else None
        return Transfer(self._instruments, tracer, span_name, measured, attributes, is_batch=is_batch, settled=settled)

    def process(self, queue_name: str, session_id: str, message: PeekedMessage) -> Operation:
        if not self._is_on():
            return NO_OPERATION
        attributes = {SESSION_ID: session_id, **message_attributes(message)}
        return Processing(self._work("process", "process", queue_name, SpanKind.CONSUMER, attributes), message)

    def inject(self, headers: MutableMapping[str, Any]) -> None:
        if self._has_traces or (self._traces and has_tracer_provider()):
            PROPAGATOR.inject(headers)
