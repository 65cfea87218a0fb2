"""The trace context of a message, in its attributes.

It has the form of W3C Trace Context: ``traceparent`` and ``tracestate``. Azure's SDKs write ``traceparent`` also as
``Diagnostic-Id`` and read either, so messages keep their traces between this package and those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..messages import Message
from ..validation import MAX_ATTRIBUTES_SIZE, AttributeValue, attributes_size

TRACE_PARENT, TRACE_STATE, DIAGNOSTIC_ID = "traceparent", "tracestate", "Diagnostic-Id"

PROPAGATOR = TraceContextTextMapPropagator()
#: Characters of a ``traceparent`` or ``tracestate`` at most. W3C's has 55 now; later versions can be longer.
MAX_LENGTH = 512
#: A context without a current span.
EMPTY = Context()


def has_context(message: Message) -> bool:
    """Return whether the caller has given the message a trace context."""
    attributes = message.attributes
    return bool(attributes) and (TRACE_PARENT in attributes or DIAGNOSTIC_ID in attributes)


def with_context(message: Message, span: Any) -> Message:
    """Return a message with the context of a span in its attributes.

    A message whose attributes would become too large with it stays as it is.
    """
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, set_span_in_context(span))
    if TRACE_PARENT not in carrier:
        return message
    added: dict[str, AttributeValue] = {DIAGNOSTIC_ID: carrier[TRACE_PARENT], **carrier, **message.attributes}
    if message.attributes and attributes_size(added) > MAX_ATTRIBUTES_SIZE:
        return message
    return attrs.evolve(message, attributes=added)


def context_of(attributes: Mapping[str, AttributeValue]) -> SpanContext | None:
    """Return the span context in the attributes of a message, or `None`. A malformed one counts as none."""
    if not attributes:
        return None
    parent = _text(attributes.get(TRACE_PARENT)) or _text(attributes.get(DIAGNOSTIC_ID))
    # The propagator logs a warning about a longer one, with which a sender could flood the log.
    if not parent or len(parent) > MAX_LENGTH:
        return None
    carrier = {TRACE_PARENT: parent, TRACE_STATE: _text(attributes.get(TRACE_STATE)) or ""}
    context = get_current_span(PROPAGATOR.extract(carrier, context=EMPTY)).get_span_context()
    return context if context.is_valid else None


def _text(value: object) -> str | None:
    """Return an attribute as text. SDKs may write bytes."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else None
