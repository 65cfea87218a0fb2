"""The threads of a processor: how many sessions are handled at once, and when the processor stops by itself."""

from __future__ import annotations

import pytest

from azsession import (
    QueueNotFoundError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)

from ..conftest import eventually
from .helpers import QUEUE, Gate, Seen, send


def test_one_slot_handles_many_sessions_with_one_message_each_without_waiting(provider: ServiceBusProvider) -> None:
    for number in range(30):
        send(provider, f"s{number}", ["only"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1):
        eventually(lambda: seen.count == 30)


def test_a_missing_queue_stops_the_processor() -> None:
    from azsession.broker.embedded import EmbeddedBroker
    from azsession.server import AccessKey, GatewayService

    with (
        GatewayService(EmbeddedBroker(), [AccessKey.generate()]) as service,
        ServiceBusProvider.from_connection_string(service.connection_string()) as strict,
    ):
        processor = SessionProcessor(strict, "missing", Seen())
        with pytest.raises(QueueNotFoundError):
            processor.run()
        processor.start()
        eventually(lambda: "stopping" in repr(processor))
        with pytest.raises(QueueNotFoundError):
            processor.stop()


def test_parked_sessions_that_are_due_do_not_exceed_the_number_of_slots(provider: ServiceBusProvider, quick: None) -> None:
    for number in range(12):
        send(provider, f"s{number}", ["1", "2"])
    gate = Gate()
    gate.opened.set()

    def fail_first(message: ReceivedMessage, session: SessionClient) -> None:
        gate()
        if message.delivery_count == 1 and message.text() == "1":
            raise RuntimeError("first time")

    seen = Seen(fail_first)
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=3, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.messages_done == 24)
    assert seen.most_sessions <= 3
    assert all(texts == ["1", "1", "2"] for texts in seen.by_session.values())
