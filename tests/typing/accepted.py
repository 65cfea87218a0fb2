"""Code that mypy (strict) and pyright must accept. `test_typing` checks this file with both; nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import attrs
import pydantic
from azure.core.credentials import TokenCredential

from azsession import (
    ConnectionFailedError,
    DeadLetter,
    Message,
    MessageTooLargeError,
    PeekedMessage,
    ProviderError,
    QueueError,
    QueueSettings,
    ReceiptHandle,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
    SessionProcessor,
)
from azsession.config import ConfigFields, ConfigOptions
from azsession.messages import AttributeValue, JSONValue


@dataclass
class Order:
    """A dataclass."""

    amount: float


@attrs.frozen
class Payment:
    """An attrs class."""

    amount: float


class Item(pydantic.BaseModel):
    """A pydantic model."""

    price: float


def messages(counts: dict[str, int]) -> Iterator[Message]:
    yield Message(b"paid")
    yield Message("paid", session_id="order-42", message_id=None, subject="payment", content_type="text/plain")
    yield Message("paid", correlation_id="c", reply_to="q", reply_to_session_id="s", to="t")
    yield Message("paid", time_to_live=60)
    yield Message("paid", time_to_live=0.5)
    yield Message("paid", time_to_live=timedelta(hours=1), scheduled_enqueue_time=datetime.now(timezone.utc))
    yield Message("paid", time_to_live=None, scheduled_enqueue_time=None)
    yield Message("paid", attributes={"text": "a", "int": 1, "float": 1.5, "bool": True})
    yield Message("paid", attributes=counts)


def attributes_of_a_message(message: Message) -> None:
    body: bytes = message.body
    time_to_live: timedelta | None = message.time_to_live
    enqueue_time: datetime | None = message.scheduled_enqueue_time
    attributes: dict[str, AttributeValue] = message.attributes
    print(body, time_to_live, enqueue_time, attributes)


def attributes_of_a_received_message(message: ReceivedMessage) -> None:
    receipt: ReceiptHandle = message.receipt
    sequence_number: int = message.sequence_number
    enqueued_at: datetime | None = message.enqueued_at
    text: str = message.text()
    value: JSONValue = message.json()
    if isinstance(value, dict):
        print(value["order"])
    order: Order = message.json(Order)
    item: Item = message.json(Item)
    payment: Payment = message.json(Payment)
    orders: list[Order] = message.json(list[Order])
    print(order.amount, item.price, payment.amount, orders)
    peeked: PeekedMessage = message
    print(receipt, sequence_number, enqueued_at, text, peeked)


def configurations() -> Iterator[ServiceBusConfig]:
    fields: ConfigFields = {"namespace": "myns", "session_timeout": timedelta(minutes=1)}
    yield ServiceBusConfig(**fields)
    yield ServiceBusConfig(connection_string="Endpoint=sb://h/", request_timeout=10, retry_attempts=0, retry_deadline=1.5)
    yield ServiceBusConfig(gateway_url="https://h", pool_connections=8, ca_bundle="ca.pem", transport="http")
    yield ServiceBusConfig.from_env(allow_insecure_http=True)
    yield ServiceBusConfig.from_env({"AZSESSION_GATEWAY_URL": "https://h"}, namespace="myns")


def providers(credential: TokenCredential) -> Iterator[ServiceBusProvider]:
    options: ConfigOptions = {"retry_attempts": 2}
    yield ServiceBusProvider(ServiceBusConfig(namespace="myns"), credential=credential)
    yield ServiceBusProvider.from_connection_string("Endpoint=sb://h/", **options)
    yield ServiceBusProvider.from_connection_string("Endpoint=sb://h/", credential=credential, session_timeout=30)
    yield ServiceBusProvider.from_namespace("myns", credential, transport="amqp-websockets")
    yield ServiceBusProvider.from_env(session_timeout=timedelta(minutes=1), gateway_url="https://h")
    yield ServiceBusProvider.embedded("data.db", queues=["orders"])


def settings() -> Iterator[QueueSettings]:
    yield QueueSettings()
    yield QueueSettings(lock_duration=30, duplicate_detection_window=timedelta(hours=1), requires_duplicate_detection=True)
    yield QueueSettings(lock_duration=timedelta(minutes=1), max_delivery_count=3)
    yield QueueSettings(default_time_to_live=None, dead_letter_on_expiration=True)


def durations_of_settings(settings: QueueSettings) -> tuple[float, float | None]:
    return settings.lock_duration, settings.default_time_to_live


def lost(client: SessionClient, error: SessionNotFoundError) -> None:
    print(client.session_id, error.code)


def settlement(provider: ServiceBusProvider, receipt: str) -> None:
    with provider.create_session_client("orders", "order-42", on_lock_lost=lost, max_renewal=600) as session:
        message = session.receive_message(timeout=5)
        if message is not None:
            session.complete_message(message)
            session.abandon_message(message.receipt)
            session.defer_message(str(message.receipt))
            session.dead_letter_message(receipt, "unreadable", "the body is not JSON")
            session.receive_deferred_messages([message.sequence_number])
            session.set_session_state("paid")
            provider.send_messages("orders", Message("x", session_id="s"))
        for each in session.messages(timeout=1):
            session.complete_messages([each, each.receipt, receipt])
        expires_at: datetime = session.renew_session_lock()
        state: bytes | None = session.get_session_state()
        print(expires_at, state)


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    if not message.body:
        raise DeadLetter("empty")


def processing(provider: ServiceBusProvider) -> None:
    with SessionProcessor(provider, "orders", handle, max_concurrent_sessions=4) as processor:
        print(processor.stats.messages_done)


def errors() -> Iterator[QueueError]:
    now = datetime.now(timezone.utc)
    yield QueueError("m", code="c", is_transient=True, retry_after=1.0, accepted=3)
    yield ProviderError("m", code="c", status=500, provider="azure-servicebus", is_transient=False)
    yield ConnectionFailedError("m", maybe_delivered=True, code="c", status=502)
    yield SessionLockedError("m", locked_until=now, retry_after=2.0)
    yield MessageTooLargeError("m", size=2, limit=1, code="c")
