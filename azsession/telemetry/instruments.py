"""The tracer and the instruments of the package, and whether the application has set providers for them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from opentelemetry import metrics, trace

from .. import interrupts
from ..logs import SessionLogger, get_logger
from .conventions import BUCKETS, SCHEMA_URL

logger: SessionLogger = get_logger(__name__)

#: The modules of the API, whose own providers do nothing.
_API = ("opentelemetry.trace", "opentelemetry.metrics")


class Instruments:
    """The tracer and the instruments. They are made once in a process, and begin to work when a provider is set."""

    def __init__(self) -> None:
        release = version("azsession")
        self.tracer: trace.Tracer = trace.get_tracer("azsession", release, schema_url=SCHEMA_URL)
        meter = metrics.get_meter("azsession", release, schema_url=SCHEMA_URL)
        self.duration: metrics.Histogram = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of an operation of a messaging client.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.process_duration: metrics.Histogram = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of the processing of messages.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.sent: metrics.Counter = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Messages that were sent, or that could not be sent."
        )
        self.consumed: metrics.Counter = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Messages that were delivered to the application."
        )


@cache
def instruments() -> Instruments:
    """Return the instruments of this process."""
    return Instruments()


def has_tracer_provider() -> bool:
    """Return whether the application has set a tracer provider."""
    return not type(trace.get_tracer_provider()).__module__.startswith(_API)


def has_meter_provider() -> bool:
    """Return whether the application has set a meter provider."""
    return not type(metrics.get_meter_provider()).__module__.startswith(_API)


def log_failure(error: BaseException) -> None:
    """Log an error of a span processor or an exporter. The exception of a signal handler is raised."""
    if not isinstance(error, Exception):
        raise error
    interrupts.let_pass(error)
    logger.warning("a span or a measurement could not be made: %s", f"{type(error).__name__}: {error}")
