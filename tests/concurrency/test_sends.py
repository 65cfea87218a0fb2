"""Single sends of many threads at the same time, which share requests: each message is stored once, in its thread's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from azsession import Message, MessageTooLargeError, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.client import shared_sends
from azsession.server import AccessKey, GatewayService
from tests.broker.embedded.helpers import Background

THREADS, COUNT = 16, 20
#: Bytes of a message that the gateway of these tests accepts.
LIMIT = 100


@contextmanager
def gateway() -> Iterator[ServiceBusProvider]:
    with (
        EmbeddedBroker(queues=["q"]) as broker,
        GatewayService(broker, [AccessKey.generate()], max_message_size=LIMIT) as service,
        ServiceBusProvider.from_connection_string(service.connection_string()) as provider,
    ):
        yield provider


def in_process() -> ServiceBusProvider:
    return ServiceBusProvider.embedded(queues=["q"])


def together(send: Callable[[int], None]) -> None:
    """Call `send` with a number in each of some threads, when all have started."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait(20)
        send(number)

    for call in [Background(lambda number=number: run(number)) for number in range(THREADS)]:
        call.result(60)


def stored(provider: ServiceBusProvider, session_id: str) -> list[str]:
    return [message.text() for message in provider.peek_messages("q", session_id, COUNT)]


@pytest.mark.parametrize("connect", [in_process, gateway])
@pytest.mark.parametrize("running", [1, 2])
def test_each_message_is_stored_once_and_in_the_order_of_its_thread(
    connect: Callable[[], ServiceBusProvider], running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_sends, "MAX_RUNNING", running)
    with connect() as provider:

        def send(number: int) -> None:
            for index in range(COUNT):
                provider.send_messages("q", Message(f"{index}", session_id=f"s{number}"))

        together(send)
        for number in range(THREADS):
            assert stored(provider, f"s{number}") == [f"{index}" for index in range(COUNT)]


def test_a_message_that_is_refused_fails_no_send_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sends, "MAX_RUNNING", 1)
    with gateway() as provider:

        def send(number: int) -> None:
            for index in range(COUNT):
                if number % 4:
                    provider.send_messages("q", Message(f"{index}", session_id=f"s{number}"))
                else:
                    with pytest.raises(MessageTooLargeError, match=f"has {LIMIT + 1} bytes"):
                        provider.send_messages("q", Message("x" * (LIMIT + 1), session_id=f"s{number}"))

        together(send)
        for number in range(THREADS):
            assert stored(provider, f"s{number}") == ([f"{index}" for index in range(COUNT)] if number % 4 else [])
