"""The official SDK as a client of the stand-in: helpers for the tests that check the stand-in with it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiver
from proton import Message

from tests.conftest import eventually

if TYPE_CHECKING:
    from tests.standin import StandIn

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


def put(namespace: StandIn, queue: str, *messages: tuple[str, str | None]) -> None:
    """Add messages to a queue without the SDK: pairs of a body, which is also the message id, and a session id."""
    made = [Message(body.encode(), id=body, group_id=session_id, inferred=True) for body, session_id in messages]
    namespace.put(queue, [each.encode() for each in made])


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
