"""`ProcessorCollector`: the metrics of processors, for Prometheus. It needs the extra ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from .._extras import need

need("prometheus_client", "metrics")

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

from .handler_times import BOUNDS  # noqa: E402
from .processor import SessionProcessor, measurements_of  # noqa: E402

_COUNTERS = {
    "azsession_processor_messages_handled": ("messages_done", "Messages whose handler returned and that were settled."),
    "azsession_processor_messages_failed": ("messages_failed", "Attempts that failed."),
    "azsession_processor_messages_dead_lettered": ("messages_dead_lettered", "Messages that handlers dead-lettered."),
    "azsession_processor_sessions_handled": ("sessions_done", "Sessions that were handled and released."),
    "azsession_processor_idle_seconds": ("seconds_waited", "Seconds that slots waited for sessions."),
}
_GAUGES = {
    "azsession_processor_sessions_open": ("sessions_open", "Sessions that are being handled."),
    "azsession_processor_sessions_parked": ("sessions_parked", "Sessions that are held back after a failure."),
}


class ProcessorCollector(Collector):
    """Reports processors to a registry of prometheus-client.

    A processor counts from its latest start, so a restart sets its counters back, which Prometheus expects of counters.

    Example::

        prometheus_client.REGISTRY.register(ProcessorCollector(processor))

    Args:
        processors: The processors, each of another queue. The label ``queue`` tells them apart.
    """

    def __init__(self, *processors: SessionProcessor) -> None:
        self._processors = processors

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Does not block."""
        counters = {name: CounterMetricFamily(name, text, labels=["queue"]) for name, (_, text) in _COUNTERS.items()}
        gauges = {name: GaugeMetricFamily(name, text, labels=["queue"]) for name, (_, text) in _GAUGES.items()}
        durations = HistogramMetricFamily(
            "azsession_processor_handler_duration_seconds", "Seconds that the handler took for a message.", labels=["queue"]
        )
        for processor in self._processors:
            queue, stats, times = measurements_of(processor)
            for name, counter in counters.items():
                counter.add_metric([queue], getattr(stats, _COUNTERS[name][0]))
            for name, gauge in gauges.items():
                gauge.add_metric([queue], getattr(stats, _GAUGES[name][0]))
            bounds = (*(str(bound) for bound in BOUNDS), "+Inf")
            buckets = list(zip(bounds, accumulate(times.counts), strict=True))
            durations.add_metric([queue], buckets=buckets, sum_value=times.total)
        yield from (*counters.values(), *gauges.values(), durations)
