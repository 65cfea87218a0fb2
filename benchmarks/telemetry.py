"""Processor time of receive + complete with OpenTelemetry: off, without a provider, with spans, and with spans and metrics.

Each message has a trace context, to which a span is linked. The SDK exports into memory. Over HTTP the time is that of the
client and the gateway, which is not traced; the time of the client alone is shown, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from azsession import Message, ServiceBusProvider, SessionClient
from azsession.client.provider import core_of
from azsession.telemetry import Telemetry, create

from .common import QUEUE, Figure, arguments, gateway, interleaved, show


def fill(provider: ServiceBusProvider, session_id: str, count: int) -> None:
    """Send messages into a session, each with the trace context of a sender."""
    for start in range(1, count + 1, 1000):
        contexts = [f"00-{number:032x}-{number:016x}-01" for number in range(start, min(start + 1000, count + 1))]
        provider.send_messages(
            QUEUE,
            [
                Message(b"x" * 256, session_id=session_id, attributes={"traceparent": each, "Diagnostic-Id": each})
                for each in contexts
            ],
        )


class Pair:
    """Two sessions of one provider: the operations of one are not described to OpenTelemetry.

    Args:
        provider: The provider.
        count: Messages of each session.
        spans: The exporter. It is emptied after each measurement, like one that sends its spans away.
        gateway_cpu: Returns the processor time that the gateway has used.

    Attributes:
        client: The seconds of the client alone in each measurement.
    """

    def __init__(
        self, provider: ServiceBusProvider, count: int, spans: InMemorySpanExporter, gateway_cpu: Callable[[], float]
    ) -> None:
        self._spans = spans
        self._gateway_cpu = gateway_cpu
        self.client: dict[str, list[float]] = {"off": [], "on": []}
        self._connection = core_of(provider).connection
        for name in ("off", "on"):
            fill(provider, name, count)
        self._on, self._off = create("127.0.0.1", 8720), Telemetry()
        self._sessions = {name: provider.create_session_client(QUEUE, name) for name in ("off", "on")}

    def measure(self, name: str, count: int) -> Callable[[], float]:
        """Return a function that measures receive + complete in seconds of processor time."""
        session: SessionClient = self._sessions[name]

        def run() -> float:
            telemetry = self._on if name == "on" else self._off
            self._connection.telemetry = self._connection.transport._telemetry = telemetry
            began, gateway_began = time.process_time(), self._gateway_cpu()
            for _ in range(count):
                message = session.receive_message(30)
                assert message is not None
                session.complete_message(message)
            spent = time.process_time() - began
            self.client[name].append(spent / count)
            spent += self._gateway_cpu() - gateway_began
            self._spans.clear()
            return spent / float(count)

        run()
        return run

    def close(self) -> None:
        """Release the sessions."""
        for session in self._sessions.values():
            session.close()


def main() -> None:
    """Measure and print the results."""
    options = arguments("telemetry", __doc__ or "", rounds=30, messages=50)
    count = (3 * (options.rounds + 1)) * options.messages
    spans = InMemorySpanExporter()
    figures: list[Figure] = []
    with gateway() as server, server.provider() as remote, ServiceBusProvider.embedded(queues=[QUEUE]) as local:
        pairs = {"over HTTP": Pair(remote, count, spans, server.cpu), "in process": Pair(local, count, spans, lambda: 0.0)}

        def add(state: str, targets: dict[str, float]) -> None:
            for place, pair in pairs.items():
                pair.client = {"off": [], "on": []}
                found = interleaved(
                    options.rounds, off=pair.measure("off", options.messages), on=pair.measure("on", options.messages)
                )
                ratio, target = found["on"] / found["off"], targets.get(place)
                alone = {name: statistics.median(values) for name, values in pair.client.items()}
                figures.append(
                    Figure(
                        f"processor time of receive + complete {place}, {state}",
                        f"{found['off'] * 1e6:.0f} us   telemetry off",
                        f"{found['on'] * 1e6:.0f} us; the client alone {alone['on'] / alone['off']:.3g} times",
                        ratio,
                        "" if target is None else f"at most {target:g}",
                        None if target is None else ratio <= target,
                    )
                )

        add("without a provider", {"over HTTP": 1.05})
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        add("with spans", {"over HTTP": 1.15})
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
        add("with spans and metrics", {})
        for pair in pairs.values():
            pair.close()
    show("telemetry", figures)


if __name__ == "__main__":
    main()
