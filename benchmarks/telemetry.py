"""Processor time of receive + complete with OpenTelemetry: off, without a provider, with spans, and with spans and metrics.

The messages were sent without telemetry, so a span has no link, and with it, so a span has one. The SDK exports into memory.
"""

from __future__ import annotations

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

#: The context of a message that a traced sender has sent.
CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def fill(provider: ServiceBusProvider, session_id: str, count: int) -> None:
    """Send messages with a trace context into a session."""
    attributes = {"traceparent": CONTEXT, "Diagnostic-Id": CONTEXT}
    for start in range(0, count, 1000):
        number = min(1000, count - start)
        message = Message(b"x" * 256, session_id=session_id, attributes=attributes)
        provider.send_messages(QUEUE, [message] * number)


class Pair:
    """Two sessions of one provider: the operations of one are not described to OpenTelemetry.

    Args:
        provider: The provider.
        count: Messages of each session.
        spans: The exporter. It is emptied after each measurement, like one that sends its spans away.
    """

    def __init__(self, provider: ServiceBusProvider, count: int, spans: InMemorySpanExporter) -> None:
        self._spans = spans
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
            began = time.process_time()
            for _ in range(count):
                message = session.receive_message(30)
                assert message is not None
                session.complete_message(message)
            spent = (time.process_time() - began) / float(count)
            self._spans.clear()
            return spent

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
        pairs = {"over HTTP": Pair(remote, count, spans), "in process": Pair(local, count, spans)}

        def add(state: str, targets: dict[str, float]) -> None:
            for place, pair in pairs.items():
                found = interleaved(
                    options.rounds, off=pair.measure("off", options.messages), on=pair.measure("on", options.messages)
                )
                ratio, target = found["on"] / found["off"], targets.get(place)
                figures.append(
                    Figure(
                        f"processor time of receive + complete {place}, {state}",
                        f"{found['off'] * 1e6:.0f} us   telemetry off",
                        f"{found['on'] * 1e6:.0f} us",
                        ratio,
                        "" if target is None else f"at most {target:g}",
                        None if target is None else ratio <= target,
                    )
                )

        add("without a provider", {"over HTTP": 1.02})
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
