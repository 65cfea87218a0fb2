"""The operations with a span and measurements. `tracing.OpenTelemetry` makes them. This module needs opentelemetry-api.

They run for each message, so they avoid calls: the SDK takes most of the time, and needs a few microseconds for an attribute.
An error of a span processor or an exporter never reaches the caller of azsession.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from ..errors import printable
from ..logs import redacted
from ..messages import Message, PeekedMessage
from .conventions import ERROR_TYPE, MESSAGE_COUNT, Attributes, error_type, identity, message_attributes
from .instruments import Instruments, log_failure
from .message_context import context_of, has_context, with_context
from .operations import Operation, SendOperation

Error = type[BaseException] | None


def links_to(messages: Iterable[Message | PeekedMessage], *, with_attributes: bool) -> list[Link]:
    """Return links to the contexts of messages, with the attributes of each if the span is about several."""
    links = []
    for message in messages:
        created = context_of(message.attributes)
        if created is not None:
            links.append(Link(created, message_attributes(message) if with_attributes else None))
    return links


class Work:
    """The span and the measurements of one operation, from `begin` to `end`. The span is current between them.

    Args:
        instruments: The instruments of the process.
        tracer: Makes the span. `None`: there is no span, only measurements.
        name: The name of the span.
        kind: The kind of the span.
        measured: The attributes of the measurements.
        attributes: All attributes of the span.

    Attributes:
        span: The span while it runs, or `None`.
    """

    __slots__ = ("_before", "_began", "_duration", "_stopped_at", "attributes", "instruments", "kind", "measured", "name",
                 "span", "tracer")  # fmt: skip

    def __init__(
        self,
        instruments: Instruments,
        tracer: trace.Tracer | None,
        name: str,
        kind: SpanKind,
        measured: Attributes,
        attributes: Attributes,
    ) -> None:
        self.instruments: Instruments = instruments
        self.tracer: trace.Tracer | None = tracer
        self.name: str = name
        self.kind: SpanKind = kind
        self.measured: Attributes = measured
        self.attributes: Attributes = attributes
        self.span: Span | None = None
        #: The context in which the operation began.
        self._before: context.Context | None = None
        self._began = 0.0
        self._duration: float | None = None
        #: When the clock was stopped, in nanoseconds of the wall clock as the SDK counts. `None`: at the end.
        self._stopped_at: int | None = None

    def begin(self, links: Sequence[Link] = (), parent: Span | None = None) -> None:
        """Start the span and make it current. Its parent is the current span, or `parent`."""
        self._began = time.perf_counter()
        if self.tracer is None:
            return
        before = context.get_current()
        within = before if parent is None else trace.set_span_in_context(parent, before)
        try:
            span = self.span = self.tracer.start_span(self.name, within, self.kind, self.attributes, links)
            self._before = before
            context.attach(trace.set_span_in_context(span, before))
        except BaseException as error:
            # After an interrupt, the span must not stay current.
            context.attach(before)
            log_failure(error)

    def stop_clock(self) -> None:
        """Note that the work is done. The time until `end` does not count."""
        self._duration, self._stopped_at = time.perf_counter() - self._began, time.time_ns()

    def end(self, error: BaseException | None, histogram: metrics.Histogram) -> Attributes:
        """End the span and record the duration. Return the attributes for further measurements."""
        if self._before is not None:
            context.attach(self._before)
            self._before = None
        duration = time.perf_counter() - self._began if self._duration is None else self._duration
        measured = self.measured if error is None else {**self.measured, ERROR_TYPE: error_type(error)}
        span, self.span = self.span, None
        if span is not None:
            if error is not None:
                span.set_attribute(ERROR_TYPE, error_type(error))
                _set_error(span, error)
            span.end(self._stopped_at)
        histogram.record(duration, measured)
        return measured


def _set_error(span: Span, error: BaseException) -> None:
    span.set_status(Status(StatusCode.ERROR, printable(redacted(str(error)))))


class Transfer(Operation):
    """Receives or settles messages. The span of a receive is linked to the contexts of the messages.

    The span is made at the end, when its links and attributes are known: samplers see them, and it costs less. It is never
    the current span.

    Args:
        instruments: The instruments of the process.
        tracer: Makes the span. `None`: there is no span, only measurements.
        name: The name of the span.
        measured: The attributes of the measurements.
        attributes: Further attributes of the span.
        is_batch: The span is about a list of messages.
        settled: The messages that are settled, as far as they are known. `None`: the operation receives messages.
    """

    __slots__ = ("_attributes", "_began", "_began_at", "_instruments", "_is_batch", "_measured", "_messages", "_name",
                 "_receives", "_tracer")  # fmt: skip

    def __init__(
        self,
        instruments: Instruments,
        tracer: trace.Tracer | None,
        name: str,
        measured: Attributes,
        attributes: Attributes,
        *,
        is_batch: bool,
        settled: Sequence[PeekedMessage] | None = None,
    ) -> None:
        self._instruments = instruments
        self._tracer = tracer
        self._name = name
        self._measured = measured
        self._attributes = attributes
        self._is_batch = is_batch
        self._receives = settled is None
        self._messages: Sequence[PeekedMessage] = settled or ()

    def __enter__(self) -> Operation:
        self._began_at, self._began = time.time_ns(), time.perf_counter()
        return self

    def messages(self, messages: Sequence[PeekedMessage]) -> None:
        self._messages = messages

    def count(self, count: int) -> None:
        self._attributes[MESSAGE_COUNT] = count

    def __exit__(self, kind: Error, error: BaseException | None, trace_: TracebackType | None) -> None:
        duration = time.perf_counter() - self._began
        try:
            measured = self._measured if error is None else {**self._measured, ERROR_TYPE: error_type(error)}
            if self._tracer is not None:
                self._make_span(self._tracer, measured, error)
            self._instruments.duration.record(duration, measured)
            if self._receives and self._messages and error is None:
                self._instruments.consumed.add(len(self._messages), measured)
        except Exception as failure:
            log_failure(failure)

    def _make_span(self, tracer: trace.Tracer, measured: Attributes, error: BaseException | None) -> None:
        messages = self._messages
        attributes = {**measured, **self._attributes}
        if self._is_batch:
            attributes.setdefault(MESSAGE_COUNT, len(messages))
        elif messages:
            attributes.update(message_attributes(messages[0]) if self._receives else identity(messages[0]))
        # The conventions leave it open whether a settlement has links. Its message is linked to a receive or process span.
        links = links_to(messages, with_attributes=self._is_batch) if self._receives else ()
        span = tracer.start_span(self._name, None, SpanKind.CLIENT, attributes, links, self._began_at)
        if error is not None:
            _set_error(span, error)
        span.end()


class Sending(SendOperation):
    """Sends messages. Without `create`, the context of its own span is the context of its message.

    Args:
        work: The span and the measurements.
        messages: The messages.
        create: The name and the attributes of the span that each message without a context gets.
    """

    __slots__ = ("_create", "_work")

    def __init__(self, work: Work, messages: Sequence[Message], create: tuple[str, Attributes] | None) -> None:
        super().__init__(messages)
        self.to_send: Sequence[Message] = messages
        self._work = work
        self._create = create

    def __enter__(self) -> SendOperation:
        work = self._work
        if work.tracer is None:
            work.begin()
        elif self._create is None:
            work.begin()
            if work.span is not None:
                self.to_send = [with_context(self.to_send[0], work.span)]
        else:
            try:
                self.to_send = [self._created(message, work.tracer, *self._create) for message in self.to_send]
            except Exception as failure:
                log_failure(failure)
            work.begin(links_to(self.to_send, with_attributes=True))
        return self

    @staticmethod
    def _created(message: Message, tracer: trace.Tracer, name: str, attributes: Attributes) -> Message:
        if has_context(message):
            return message
        span = tracer.start_span(name, None, SpanKind.PRODUCER, {**attributes, **message_attributes(message)})
        span.end()
        return with_context(message, span)

    def __exit__(self, kind: Error, error: BaseException | None, trace_: TracebackType | None) -> None:
        try:
            measured = self._work.end(error, self._work.instruments.duration)
            self._work.instruments.sent.add(len(self.to_send), measured)
        except Exception as failure:
            log_failure(failure)


class Processing(Operation):
    """Processes a message: calls a handler, and settles the message afterwards.

    Its span is linked to the context of the message. Without a current span, this context is also its parent, so that one
    trace leads from the sender to the handler.
    """

    __slots__ = ("_error", "_has_returned", "_message", "_work")

    def __init__(self, work: Work, message: PeekedMessage) -> None:
        self._work = work
        self._message = message
        self._error: BaseException | None = None
        self._has_returned = False

    def __enter__(self) -> Operation:
        if self._work.tracer is None:
            self._work.begin()
            return self
        created, parent = context_of(self._message.attributes), None
        if created is not None and not trace.get_current_span().get_span_context().is_valid:
            parent = trace.NonRecordingSpan(created)
        self._work.begin(() if created is None else (Link(created),), parent)
        return self

    def returned(self, error: BaseException | None = None) -> None:
        if not self._has_returned:
            self._has_returned, self._error = True, error
            self._work.stop_clock()

    def __exit__(self, kind: Error, error: BaseException | None, trace_: TracebackType | None) -> None:
        self.returned(error)
        try:
            measured = self._work.end(self._error, self._work.instruments.process_duration)
            self._work.instruments.consumed.add(1, measured)
        except Exception as failure:
            log_failure(failure)
        finally:
            # An exception refers to the frames of the handler.
            self._error = None
