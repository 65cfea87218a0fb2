"""`GatewayTelemetry`: the spans of a gateway, one for each HTTP request, and for each operation over AMQP.

This module needs opentelemetry-api. The spans of requests follow the semantic conventions for HTTP servers
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/). A path can contain a lock token, so ``url.path`` has
placeholders like ``http.route``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode

from ..messages import Message, PeekedMessage
from ..protocol.routes import Operation
from .conventions import ERROR_TYPE, OPERATION_NAME
from .instruments import has_tracer_provider, instruments, log_failure
from .message_context import EMPTY, PROPAGATOR, TRACE_PARENT, TRACE_STATE
from .spans import links_to


class GatewayTelemetry:
    """Makes the spans of a gateway's requests. Without a tracer provider it does nothing."""

    def __init__(self) -> None:
        self._instruments = instruments()
        self._is_on = False

    def begin(self, scope: Mapping[str, Any]) -> RequestSpan | None:
        """Start the span of a request and make it current, or return `None`.

        There is no span below another one: an application around the gateway's is instrumented already.

        Args:
            scope: The scope of ASGI.
        """
        if not self._is_on:
            if not has_tracer_provider():
                return None
            self._is_on = True
        try:
            return self._begin(scope)
        except Exception as error:
            log_failure(error)
            return None

    def amqp_operation(
        self,
        operation: str,
        queue_name: str,
        client: Sequence[Any] | None,
        seconds: float,
        status: int,
        messages: Sequence[Message | PeekedMessage] = (),
    ) -> None:
        """Make the span of an operation over AMQP that has just ended.

        AMQP has no trace context of an operation, as ``traceparent`` of a request. Messages have those of their senders.

        Args:
            operation: The name of the operation.
            queue_name: The queue or subscription; ``""`` if it is not known.
            client: The client's host and port, if they are known.
            seconds: How long the operation lasted.
            status: The status that an answer over HTTP would have.
            messages: The messages that were sent or received.
        """
        if not self._is_on and not has_tracer_provider():
            return
        self._is_on = True
        try:
            attributes: dict[str, str | int] = {
                "messaging.system": "servicebus",
                OPERATION_NAME: operation,
                "network.protocol.name": "amqp",
            }
            if queue_name:
                attributes["messaging.destination.name"] = queue_name
            if client:
                attributes.update({"client.address": str(client[0]), "client.port": int(client[1])})
            began = time.time_ns() - int(seconds * 1e9)
            parent, links = _origins(operation, messages)
            span = self._instruments.tracer.start_span(
                f"AMQP {operation}", parent, SpanKind.SERVER, attributes, links=links, start_time=began
            )
            if status >= 400:
                span.set_attribute(ERROR_TYPE, str(status))
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()
        except Exception as error:
            log_failure(error)

    def _begin(self, scope: Mapping[str, Any]) -> RequestSpan | None:
        if trace.get_current_span().get_span_context().is_valid:
            return None
        parent = PROPAGATOR.extract(_trace_headers(scope["headers"]), context=EMPTY)
        attributes: dict[str, str | int] = {"http.request.method": scope["method"], "url.scheme": scope.get("scheme", "http")}
        for name, address in (("server", scope.get("server")), ("client", scope.get("client"))):
            if address is not None and address[0]:
                attributes[f"{name}.address"] = str(address[0])
                if isinstance(address[1], int):
                    attributes[f"{name}.port"] = address[1]
        span = self._instruments.tracer.start_span(scope["method"], parent, SpanKind.SERVER, attributes)
        return RequestSpan(span, scope["method"])


class RequestSpan:
    """The span of a request.

    Args:
        span: The span.
        method: The HTTP method.
    """

    def __init__(self, span: Span, method: str) -> None:
        self._span = span
        self._method = method
        self._before = context.get_current()
        context.attach(trace.set_span_in_context(span))

    def end(self, route: str | None, status: int | None) -> None:
        """End the span.

        Args:
            route: The path with placeholders; `None` if it is not known.
            status: The status of the answer; `None` if the client went away before it.
        """
        context.attach(self._before)
        try:
            self._end(self._span, route, status)
        except Exception as error:
            log_failure(error)

    def _end(self, span: Span, route: str | None, status: int | None) -> None:
        if span.is_recording():
            if route is not None:
                span.update_name(f"{self._method} {route}")
                span.set_attributes({"http.route": route, "url.path": route})
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if status is None or status >= 500:
                span.set_attribute("error.type", "client gone" if status is None else str(status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()


def _origins(operation: str, messages: Sequence[Message | PeekedMessage]) -> tuple[Context, list[Link]]:
    """Return the context of the parent of a span, and links to the contexts of messages.

    The send of one message continues its trace. Other spans are linked to the messages, as the conventions for messaging say.
    """
    links = links_to(messages, with_attributes=len(messages) > 1)
    if operation == Operation.SEND.value and len(messages) == 1 and links:
        return trace.set_span_in_context(NonRecordingSpan(links[0].context), EMPTY), []
    return EMPTY, links


def _trace_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    names = {TRACE_PARENT.encode(), TRACE_STATE.encode()}
    return {name.decode(): value.decode("latin-1") for name, value in headers if name in names}
