"""The names of the semantic conventions for messaging, version 1.44, and the attributes that operations share.

https://opentelemetry.io/docs/specs/semconv/messaging/azure-messaging/ has the part about Service Bus.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from ..errors import QueueError
from ..messages import Message, PeekedMessage
from ..protocol.error_codes import code_of

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

OPERATION_NAME, OPERATION_TYPE = "messaging.operation.name", "messaging.operation.type"
MESSAGE_COUNT, MESSAGE_ID = "messaging.batch.message_count", "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
DELIVERY_COUNT = "messaging.servicebus.message.delivery_count"
ENQUEUED_TIME = "messaging.servicebus.message.enqueued_time"
DISPOSITION = "messaging.servicebus.disposition_status"
ERROR_TYPE = "error.type"
#: The conventions have no attribute for the session. Its values are many, so metrics do not have it.
SESSION_ID = "azsession.session_id"

#: The boundaries of the buckets of durations, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

#: Attributes of a span, a link or a measurement.
Attributes: TypeAlias = dict[str, str | int]


@lru_cache(1024)
def operation_attributes(name: str, kind: str, queue_name: str, host: str | None, port: int | None) -> tuple[str, Attributes]:
    """Return the name of a span, and the attributes that all spans and measurements of an operation have.

    The caller must not change the attributes.

    Args:
        name: The name of the operation.
        kind: The type of the operation: ``"create"``, ``"send"``, ``"receive"``, ``"process"`` or ``"settle"``.
        queue_name: The queue or topic, or ``"topic/subscriptions/name"``.
        host: The server, if it is not in this process.
        port: Its port.
    """
    # Azure writes "Subscriptions", too.
    topic, _, subscription = queue_name.replace("/Subscriptions/", "/subscriptions/").partition("/subscriptions/")
    attributes: Attributes = {
        "messaging.system": "servicebus",
        OPERATION_NAME: name,
        OPERATION_TYPE: kind,
        "messaging.destination.name": topic,
    }
    if subscription:
        attributes["messaging.destination.subscription.name"] = subscription
    if host is not None:
        attributes["server.address"] = host
        if port is not None:
            attributes["server.port"] = port
    return f"{name} {topic}", attributes


def identity(message: Message | PeekedMessage) -> Attributes:
    """Return the attributes that name one message."""
    attributes: Attributes = {}
    if message.message_id:
        attributes[MESSAGE_ID] = message.message_id
    if message.correlation_id:
        attributes[CONVERSATION_ID] = message.correlation_id
    return attributes


def message_attributes(message: Message | PeekedMessage) -> Attributes:
    """Return the attributes about one message, for a span of this message or its link."""
    attributes = identity(message)
    if isinstance(message, PeekedMessage):
        if message.delivery_count > 0:
            attributes[DELIVERY_COUNT] = message.delivery_count
        if message.enqueued_at is not None:
            attributes[ENQUEUED_TIME] = int(message.enqueued_at.timestamp())
    return attributes


def error_type(error: BaseException) -> str:
    """Return the type of an error: a code of the protocol, or the name of the exception's class."""
    if isinstance(error, QueueError):
        return code_of(error)
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
