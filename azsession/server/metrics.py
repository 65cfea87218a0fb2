"""`GatewayMetrics`: the metrics of a gateway, for Prometheus. `create_app` and `GatewayService` take one.

The metrics of one gateway are in a registry of their own, so several gateways in one process do not mix.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ..broker.base import Broker
from ..errors import ConfigurationError
from ..protocol.routes import Operation
from ..validation import check_count
from .answer import Answer, PendingAnswer
from .measured_broker import BrokerCounters, measured
from .queue_metrics import MAX_QUEUES, QueueCollector

#: Seconds that a scrape may take before the gateway answers 503.
SCRAPE_TIMEOUT = 9.0
#: Seconds for which a scrape is used again.
SCRAPE_SECONDS = 0.5
#: The status of requests whose client went away before the answer.
GONE = "gone"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAIT_SECONDS = (0.01, 0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class GatewayMetrics:
    """The metrics of one gateway. It needs the extra ``metrics``. Safe to use from many threads.

    Example::

        metrics = GatewayMetrics()
        application = create_app(broker, keys=keys, metrics=metrics)

    Args:
        max_queues: Queues with metrics of their own, by name; the others are summed up as the queue ``~other``. From 1.

    Attributes:
        registry: The registry of prometheus-client with all metrics, for example to serve them in another way. Collecting
            blocks while the broker counts.

    Raises:
        ValidationError: `max_queues` is not a whole number from 1.
    """

    def __init__(self, *, max_queues: int = MAX_QUEUES) -> None:
        self._max_queues = check_count(max_queues, "max_queues")
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._counters = BrokerCounters(self.registry)
        self._requests = Counter(
            "azsession_gateway_requests", "Requests by operation and status.", ["operation", "status"], registry=self.registry
        )
        self._durations = Histogram(
            "azsession_gateway_request_duration_seconds",
            "Seconds from the head of a request to the end of its answer, without the wait for a message or session.",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._waits = Histogram(
            "azsession_gateway_wait_duration_seconds",
            "Seconds that receives and accepts waited for a message or session.",
            ["operation"],
            buckets=_WAIT_SECONDS,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "azsession_gateway_waiting_requests", "Receives and accepts that wait now.", ["operation"], registry=self.registry
        )
        self._connections = Gauge(
            "azsession_gateway_connections", "Connections that are open, over HTTP and AMQP.", registry=self.registry
        )
        self._lock = threading.Lock()  # Guards the attributes below.
        self._broker: tuple[Broker, Broker] | None = None
        self._scrape: Future[bytes] | None = None
        self._scraped = 0.0
        # `labels` of prometheus-client takes longer than a look-up here. The keys are bounded.
        self._request_counters: dict[tuple[str, int | None], Counter] = {}
        self._request_durations: dict[str, Histogram] = {}
        self._wait_durations: dict[Operation, tuple[Gauge, Histogram]] = {}

    def measured(self, broker: Broker) -> Broker:
        """Return a broker around `broker` that counts its messages, and report its queues.

        A second call with the same broker returns the same result.

        Raises:
            ConfigurationError: These metrics are of another broker.
        """
        with self._lock:
            if self._broker is None:
                counters = self._counters
                self.registry.register(QueueCollector(broker, counters.entities, counters.dead_letters, self._max_queues))
                self._broker = (broker, measured(broker, counters))
            if self._broker[0] is not broker:
                raise ConfigurationError("these metrics are of another gateway: make a GatewayMetrics for each")
            return self._broker[1]

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Report the number of connections that a function returns. Any thread may call it."""
        self._connections.set_function(count)

    def request(self, operation: str, status: int | None, seconds: float) -> None:
        """Count a request.

        Args:
            operation: The operation; ``"refused"`` if the request was refused before it was known, ``"explorer"`` for a page.
            status: The status of the answer; `None` if the client went away.
            seconds: From the head of the request to the end of the answer, without the wait.
        """
        counter = self._request_counters.get((operation, status))
        if counter is None:
            counter = self._requests.labels(operation, GONE if status is None else str(status))
            self._request_counters[operation, status] = counter
        counter.inc()
        duration = self._request_durations.get(operation)
        if duration is None:
            duration = self._request_durations[operation] = self._durations.labels(operation)
        duration.observe(seconds)

    def waits(self, operation: Operation) -> Callable[[], float]:
        """Count a request that begins to wait. Return a function that ends the wait, and returns its seconds."""
        known = self._wait_durations.get(operation)
        if known is None:
            name = operation.value
            known = self._wait_durations[operation] = (self._waiting.labels(name), self._waits.labels(name))
        waiting, durations = known
        waiting.inc()
        began = time.perf_counter()

        def end() -> float:
            seconds = time.perf_counter() - began
            waiting.dec()
            durations.observe(seconds)
            return seconds

        return end

    def scrape(self) -> Future[bytes]:
        """Return the future of all metrics in Prometheus' text format. Does not block: another thread collects them."""
        with self._lock:
            now = time.monotonic()
            scrape = self._scrape
            if scrape is not None and (not scrape.done() or now < self._scraped + SCRAPE_SECONDS):
                return scrape
            self._scrape = scrape = Future()
            self._scraped = now
        threading.Thread(target=self._collect, args=(scrape,), name="azsession-metrics", daemon=True).start()
        return scrape

    def answer(self) -> PendingAnswer[bytes]:
        """Return the answer to a request for the metrics."""
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return PendingAnswer(self.scrape(), lambda text: Answer(200, headers, text), patience=SCRAPE_TIMEOUT)

    def _collect(self, scrape: Future[bytes]) -> None:
        try:
            text = generate_latest(self.registry)
        except Exception as error:
            scrape.set_exception(error)
        else:
            scrape.set_result(text)
