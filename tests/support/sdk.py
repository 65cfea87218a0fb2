"""The official SDK as a client: helpers for the tests that use it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiver
from azure.servicebus._pyamqp._transport import SSLTransport

from tests.conftest import eventually

# The SDK takes up to a second to close a link, so links are closed in other threads.
_closing_threads = ThreadPoolExecutor(8, thread_name_prefix="closing")
_closings: list[Future[None]] = []


def close_aside(link: Any) -> Future[None]:
    """Close a sender or receiver in another thread."""
    closing = _closing_threads.submit(link.close)
    _closings.append(closing)
    return closing


def wait_for_closings() -> None:
    """Wait until all links of `close_aside` are closed."""
    wait(_closings)
    _closings.clear()


def send(client: ServiceBusClient, queue: str, *messages: ServiceBusMessage) -> None:
    """Send messages with the SDK."""
    sender = client.get_queue_sender(queue)
    sender.send_messages(list(messages))
    close_aside(sender)


def message(body: Any, session_id: str | None = "s", **properties: Any) -> ServiceBusMessage:
    """Return a message of the SDK."""
    return ServiceBusMessage(body, session_id=session_id, **properties)


@contextmanager
def session(
    client: ServiceBusClient, queue: str, session_id: Any = "s", *, wait_for_close: bool = False, **options: Any
) -> Iterator[ServiceBusReceiver]:
    """Open a receiver of a session during the `with` block."""
    receiver = client.get_queue_receiver(queue, session_id=session_id, **options)
    receiver.__enter__()
    try:
        yield receiver
    finally:
        closing = close_aside(receiver)
        if wait_for_close:
            closing.result()


def receive(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """Receive exactly this many messages."""
    found: list[ServiceBusReceivedMessage] = []
    eventually(lambda: found.extend(receiver.receive_messages(count - len(found), max_wait_time=1)) or len(found) >= count)
    return found


@contextmanager
def sockets_closed() -> Iterator[None]:
    """Close the sockets that the SDK leaks: it forgets the socket of a connection whose close fails."""
    transports: list[Any] = []
    connect = SSLTransport.connect

    def noting(transport: Any) -> None:
        transports.append(transport)
        connect(transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SSLTransport, "connect", noting)
        yield
    for transport in transports:
        transport.close()
