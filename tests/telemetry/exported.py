"""The spans and measurements of this process, collected in memory by the SDK.

A process can set its providers only once. Other tests of the process must not notice them, so spans and measurements are made
while `Exported.is_on` is true. The SDK keeps 2,000 combinations of attributes, and the servers of tests have many ports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class _SwitchedTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer, switch: Exported) -> None:
        self._tracer = tracer
        self._switch = switch

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._tracer.start_span(*args, **kwargs) if self._switch.is_on else trace.INVALID_SPAN

    @contextmanager
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Iterator[trace.Span]:  # type: ignore[override]
        with trace.use_span(self.start_span(*args, **kwargs), end_on_exit=True) as span:
            yield span


class _SwitchedProvider(trace.TracerProvider):
    def __init__(self, provider: TracerProvider, switch: Exported) -> None:
        self._provider = provider
        self._switch = switch

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return _SwitchedTracer(self._provider.get_tracer(*args, **kwargs), self._switch)


class _SwitchedCounter(metrics.NoOpCounter):
    def __init__(self, counter: metrics.Counter, name: str, switch: Exported) -> None:
        super().__init__(name)
        self._counter = counter
        self._switch = switch

    def add(self, *args: Any, **kwargs: Any) -> None:
        if self._switch.is_on:
            self._counter.add(*args, **kwargs)


class _SwitchedHistogram(metrics.NoOpHistogram):
    def __init__(self, histogram: metrics.Histogram, name: str, switch: Exported) -> None:
        super().__init__(name)
        self._histogram = histogram
        self._switch = switch

    def record(self, *args: Any, **kwargs: Any) -> None:
        if self._switch.is_on:
            self._histogram.record(*args, **kwargs)


class _SwitchedMeter(metrics.NoOpMeter):
    def __init__(self, meter: metrics.Meter, switch: Exported) -> None:
        super().__init__(meter.name)
        self._meter = meter
        self._switch = switch

    def create_counter(self, name: str, *args: Any, **kwargs: Any) -> metrics.Counter:
        return _SwitchedCounter(self._meter.create_counter(name, *args, **kwargs), name, self._switch)

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> metrics.Histogram:
        return _SwitchedHistogram(self._meter.create_histogram(name, *args, **kwargs), name, self._switch)


class _SwitchedMeterProvider(metrics.MeterProvider):
    def __init__(self, provider: MeterProvider, switch: Exported) -> None:
        self._provider = provider
        self._switch = switch

    def get_meter(self, *args: Any, **kwargs: Any) -> metrics.Meter:
        return _SwitchedMeter(self._provider.get_meter(*args, **kwargs), self._switch)


class Exported:
    """What was exported since the last `clear`.

    Attributes:
        is_on: Spans and measurements are made.
    """

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.is_on = False
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        trace.set_tracer_provider(_SwitchedProvider(provider, self))
        self._reader = InMemoryMetricReader()
        metrics.set_meter_provider(_SwitchedMeterProvider(MeterProvider([self._reader]), self))
        self._before: dict[Any, float] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._spans.clear()
        self._before = dict(self._points())

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """Return the spans that have ended, in this order: all, or those with a name."""
        found = self._spans.get_finished_spans()
        return [span for span in found if name is None or span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """Return the only span with a name."""
        (found,) = self.spans(name)
        return found

    def measured(self, instrument: str, **attributes: object) -> float:
        """Return how often a duration was measured, or how far a counter has risen, with these attributes.

        The names of attributes are written with ``_`` instead of ``.``.
        """
        total = 0.0
        for (name, labels), value in self._points():
            named = {label.replace(".", "_"): each for label, each in labels}
            if name == instrument and attributes.items() <= named.items():
                total += value - self._before.get((name, labels), 0.0)
        return total

    def labels(self, instrument: str) -> list[Mapping[str, object]]:
        """Return the attributes of all measurements of an instrument."""
        return [dict(labels) for (name, labels), _ in self._points() if name == instrument]

    def _points(self) -> Sequence[tuple[Any, float]]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            ((metric.name, tuple(sorted((point.attributes or {}).items()))), getattr(point, "count", None) or point.value)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]


@cache
def exported() -> Exported:
    """Return the spans and measurements of this process."""
    return Exported()


def link_of(span: ReadableSpan) -> Any:
    """Return the context to which a span is linked. There must be one link."""
    (link,) = span.links
    return link.context


def ids(context: Any) -> tuple[int, int]:
    """Return the ids of a trace and a span."""
    return context.trace_id, context.span_id
