"""The metrics of processors."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from azsession import DeadLetter, Message, ReceivedMessage, ServiceBusProvider, SessionClient, SessionProcessor
from azsession.processor.collector import ProcessorCollector


def values(*processors: SessionProcessor) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(ProcessorCollector(*processors))
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    names = [one.name.removeprefix("azsession_processor_") for one in samples]
    keys = [f"{name} {one.labels['queue']} {one.labels.get('le', '')}" for name, one in zip(names, samples, strict=True)]
    return {key.strip(): one.value for key, one in zip(keys, samples, strict=True)}


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    if message.text() == "dead":
        raise DeadLetter("because")
    if message.text() == "fail" and message.delivery_count == 1:
        raise ValueError("once")
    time.sleep(0.02)


def test_the_work_of_processors_is_reported_by_queue() -> None:
    with ServiceBusProvider.embedded() as provider:
        for queue in ("orders", "bills"):
            provider.send_messages(queue, [Message(body, session_id=body) for body in ("done", "dead", "fail")])
        processors = [
            SessionProcessor(provider, queue, handle, until_empty=True, on_error=lambda *_: None)
            for queue in ("orders", "bills")
        ]
        before = values(*processors)
        for processor in processors:
            processor.run()
        found = values(*processors)
    assert before["messages_handled_total orders"] == before["handler_duration_seconds_count orders"] == 0
    for queue in ("orders", "bills"):
        counted = [found[f"messages_{name}_total {queue}"] for name in ("handled", "failed", "dead_lettered")]
        assert counted == [2, 1, 1]
        assert found[f"sessions_handled_total {queue}"] == 4
        assert found[f"sessions_open {queue}"] == found[f"sessions_parked {queue}"] == 0
        assert found[f"handler_duration_seconds_count {queue}"] == found[f"handler_duration_seconds_bucket {queue} +Inf"] == 4
        assert found[f"handler_duration_seconds_sum {queue}"] >= 0.04
        # The two calls that wait are above the first bound; on a busy machine, the others can be, too.
        assert found[f"handler_duration_seconds_bucket {queue} 0.01"] <= 2
        assert found[f"handler_duration_seconds_bucket {queue} 300.0"] == 4


def test_sessions_in_progress_are_reported() -> None:
    open_sessions = []
    with ServiceBusProvider.embedded() as provider:
        provider.send_message("orders", Message("x", session_id="s"))

        def look(message: ReceivedMessage, session: SessionClient) -> None:
            open_sessions.append(values(processor)["sessions_open orders"])

        processor = SessionProcessor(provider, "orders", look, until_empty=True)
        processor.run()
    assert open_sessions == [1]
