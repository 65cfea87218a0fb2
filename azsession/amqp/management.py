"""Requests to ``$cbs`` and ``$management``, and their responses, as messages.

`broker.azure.transport.request_response` sends requests, and `server.amqp.requests` answers them. Sources: "AMQP
Claims-based Security" and "AMQP Management" (OASIS working drafts), and Microsoft's "AMQP 1.0 in Azure Service Bus:
request-response-based operations".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .message import NULL_BODY, AmqpMessage, decode_message, encode_message
from .types import MalformedFrameError


class Response(NamedTuple):
    """The answer of ``$cbs`` or ``$management`` to the request whose message id is `correlation_id`."""

    correlation_id: Any
    status: int
    description: str
    condition: str | None
    body: Any


class Request(NamedTuple):
    """A request to ``$cbs`` or ``$management``. `reply_to` names the target of the link for the response."""

    message_id: Any
    reply_to: str | None
    properties: dict[str, Any]
    body: Any


def decode_request(payload: bytes | memoryview) -> Request:
    """Return the request in the payload of a delivery.

    Raises:
        MalformedFrameError: The payload is not an AMQP 1.0 message.
    """
    message = decode_message(payload)
    number = message.correlation_id if message.message_id is None else message.message_id
    reply_to = message.reply_to if isinstance(message.reply_to, str) else None
    body = message.data if message.data is not None else message.value
    return Request(number, reply_to, message.application_properties, body)


def encode_response(correlation_id: Any, properties: Mapping[str, Any], body: Any) -> bytes:
    """Return the response to the request with an id as a message.

    Raises:
        TypeError: A property or the body has a type that AMQP does not have.
        ValueError: A property or the body does not fit its AMQP type.
    """
    message = AmqpMessage(correlation_id=correlation_id, application_properties=dict(properties), value=body)
    # A message needs a body (§3.2), so null is one here.
    return encode_message(message) + (NULL_BODY if body is None else b"")


def encode_request(message_id: Any, reply_to: str, properties: Mapping[str, Any], body: Any) -> bytes:
    """Return a request to ``$cbs`` or ``$management`` as a message.

    Args:
        message_id: The id of the request, which becomes `Response.correlation_id`.
        reply_to: The target address of the link that the response comes by.
        properties: The application properties, for example ``operation`` and ``type``.
        body: An AMQP value that is not null.

    Raises:
        TypeError: A property or the body has a type that AMQP does not have.
        ValueError: A property or the body does not fit its AMQP type.
    """
    return encode_message(
        AmqpMessage(message_id=message_id, reply_to=reply_to, application_properties=dict(properties), value=body)
    )


def decode_response(payload: bytes | memoryview) -> Response:
    """Return the response in the payload of a delivery.

    ``$management`` spells the properties in camel case ("statusCode"), ``$cbs`` with hyphens ("status-code").

    Raises:
        MalformedFrameError: The payload is not an AMQP 1.0 message, or has no status.
    """
    message = decode_message(payload)
    given = message.application_properties

    def either(one: str, other: str) -> Any:
        return given.get(one, given.get(other))

    status, condition = either("statusCode", "status-code"), either("errorCondition", "error-condition")
    if not isinstance(status, int):
        raise MalformedFrameError(f"the status of a response is a {type(status).__name__}, not an int")
    description = either("statusDescription", "status-description")
    body = message.data if message.data is not None else message.value
    return Response(
        message.correlation_id, status, str(description or ""), None if condition is None else str(condition), body
    )
