"""The values that pass through a session: messages as sent, received and peeked, and the receipts that settle them.

All are frozen attrs classes. The client and the brokers create them; `azsession.protocol.wire` encodes and decodes them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import TypeAlias, overload

import attrs

from .azure_names import explain_azure_names
from .display import html_table, short_repr
from .errors import InvalidReceiptError, ValidationError
from .json_models import Model, from_json
from .validation import (
    MAX_MESSAGE_ID_LENGTH,
    MAX_SESSION_ID_LENGTH,
    check_attributes,
    check_instant,
    check_lock_token,
    check_queue_name,
    check_session_id,
    check_text,
    seconds,
)
from .validation import AttributeValue as AttributeValue

#: A value that JSON can express.
JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

#: The holder of a session whose client did not say who it is.
UNKNOWN_CLIENT = "unknown client"
#: The first characters of a portable receipt. The digit is the version of the format.
_RECEIPT_PREFIX = "azs1."
_MAX_RECEIPT_LENGTH = 4096
_ROUTE = r"[A-Za-z0-9-]{0,64}\Z"

#: The text properties of a message with the most characters of each (quotas of Azure Service Bus).
_TEXT_LIMITS: dict[str, int] = {
    "message_id": MAX_MESSAGE_ID_LENGTH,
    "subject": 4096,
    "content_type": 256,
    "correlation_id": MAX_MESSAGE_ID_LENGTH,
    "reply_to": 4096,
    "reply_to_session_id": MAX_SESSION_ID_LENGTH,
    "to": 4096,
}


# The converters of `Message` have exact parameter types, because type checkers take the types of its arguments from them.


def _body(body: bytes | str) -> bytes:
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError:
            raise ValidationError("a message's body has a lone surrogate, which UTF-8 cannot encode") from None
    if not isinstance(body, bytes):
        raise ValidationError(f"a message's body must be bytes or str, not {type(body).__name__}")
    return body


def _time_to_live(value: float | timedelta | None) -> timedelta | None:
    if value is None:
        return None
    duration = seconds(value, "time_to_live", positive=True, highest=float("inf"))
    try:
        return timedelta(seconds=duration)
    except OverflowError:
        raise ValidationError(
            f"time_to_live must be at most {timedelta.max.days} days, not {value!r}; leave it out if it is infinite"
        ) from None


def _scheduled_enqueue_time(value: datetime | None) -> datetime | None:
    return None if value is None else check_instant(value, "scheduled_enqueue_time")


def _show_body(body: bytes) -> str:
    return f"<{len(body)} bytes>"


@explain_azure_names
@attrs.frozen(kw_only=True)
class Message:
    """A message to send.

    Args:
        body: The content: bytes, or a str that is encoded as UTF-8.
        session_id: The id of its session, 0 to 128 characters of any kind. Required for sending.
        message_id: Up to 128 characters. Without one, sending creates a UUID. Duplicate detection compares it.
        subject: A label for the application, up to 4,096 characters. Azure also calls it the label.
        content_type: The MIME type of the body, up to 256 characters, for example ``"application/json"``.
        correlation_id: An id that relates this message to another, up to 128 characters.
        reply_to: The queue for replies, up to 4,096 characters.
        reply_to_session_id: The session for replies, up to 128 characters.
        to: The intended destination, up to 4,096 characters. It is stored and not evaluated.
        time_to_live: Seconds or a timedelta after which the message expires, more than 0. `None`: the queue's default.
        scheduled_enqueue_time: The time at which the message becomes available, a timezone-aware datetime. `None`: at once.
        attributes: Application properties. A name has 1 to 128 characters. A value is a str, an int of 64 bits, a finite
            float, a bool, bytes, a timezone-aware datetime (Azure keeps its milliseconds), a UUID or `None`. A gateway
            accepts 65,536 characters in all.

    Raises:
        ValidationError: An argument has a wrong type or is out of its range.
        TypeError: There is no such argument. For a name of azure-servicebus, the error has the right one.

    Example:
        >>> from azsession import Message
        >>> message = Message("paid", session_id="order-42", time_to_live=3600, attributes={"amount": 12.5})
        >>> message.body
        b'paid'
        >>> message.time_to_live
        datetime.timedelta(seconds=3600)
    """

    body: bytes = attrs.field(converter=_body, repr=_show_body, kw_only=False)
    session_id: str | None = None
    message_id: str | None = None
    subject: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    to: str | None = None
    time_to_live: timedelta | None = attrs.field(default=None, converter=_time_to_live)
    scheduled_enqueue_time: datetime | None = attrs.field(default=None, converter=_scheduled_enqueue_time)
    attributes: dict[str, AttributeValue] = attrs.field(factory=dict, converter=check_attributes, hash=False)

    __repr__ = short_repr
    _repr_html_ = html_table

    def __attrs_post_init__(self) -> None:
        if self.session_id is not None:
            check_session_id(self.session_id)
        for name, limit in _TEXT_LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                check_text(value, name, limit)


@attrs.frozen(kw_only=True)
class ReceiptHandle:
    """The right to settle one received message.

    ``str(receipt)`` is its portable text. Another process can settle the message with it
    (`ServiceBusProvider.session_from_receipt`). Treat the text as a secret: it lets its bearer settle this message.

    Args:
        handle: The message's lock token.
        expires_at: When the lock expires unless it is renewed (timezone-aware, UTC), as known at the time of the receive.
        queue_name: The queue of the message.
        session_id: The session of the message.
        route: A name for load balancers: all requests about one holder's session carry the same. Not a secret.

    Example:
        >>> from azsession import ReceiptHandle
        >>> receipt = ReceiptHandle("6d1c", queue_name="orders", session_id="order-42")
        >>> ReceiptHandle.parse(str(receipt)) == receipt
        True
    """

    handle: str = attrs.field(repr=False, kw_only=False)
    expires_at: datetime | None = attrs.field(default=None, kw_only=False)
    queue_name: str = ""
    session_id: str = ""
    route: str = ""

    __repr__ = short_repr
    _repr_html_ = html_table

    def __str__(self) -> str:
        expires = None if self.expires_at is None else round(self.expires_at.timestamp(), 3)
        fields = [self.queue_name, self.session_id, self.handle, expires]
        packed = json.dumps([*fields, self.route] if self.route else fields, separators=(",", ":"))
        return _RECEIPT_PREFIX + base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> ReceiptHandle:
        """Return the receipt from its portable text, ``str(receipt)``.

        Args:
            text: The text, up to 4,096 characters.

        Raises:
            InvalidReceiptError: The text is not a receipt, or is damaged.
        """
        if not isinstance(text, str) or not text.startswith(_RECEIPT_PREFIX) or len(text) > _MAX_RECEIPT_LENGTH:
            raise InvalidReceiptError("this is not the text of a receipt: use str(message.receipt)")
        receipt = _unpack(text[len(_RECEIPT_PREFIX) :])
        if receipt is None:
            # Not raised while the cause is handled: the error of the JSON would show the lock token.
            raise InvalidReceiptError("the text of the receipt is damaged: pass str(message.receipt) unchanged")
        return receipt


def _unpack(packed: str) -> ReceiptHandle | None:
    """Return the receipt in base64url without padding, or `None` if it is damaged."""
    try:
        fields = json.loads(base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True))
        # The text of a receipt without a route has four fields.
        queue_name, session_id, handle, expires, route = fields if len(fields) == 5 else [*fields, ""]
        check_queue_name(queue_name)
        check_session_id(session_id)
        check_lock_token(handle)
        if not re.match(_ROUTE, route):
            return None
        expires_at = None if expires is None else datetime.fromtimestamp(expires, timezone.utc)
    except (ValueError, TypeError, OverflowError, OSError, RecursionError, binascii.Error):
        return None
    return ReceiptHandle(handle, expires_at, queue_name=queue_name, session_id=session_id, route=route)


@explain_azure_names
@attrs.frozen(kw_only=True)
class PeekedMessage:
    """A message that was peeked at: it is not locked and cannot be settled.

    Attributes:
        state: ``"Active"``, ``"Deferred"`` or ``"Scheduled"``; ``"DeadLettered"`` in the dead-letter queue.
        sequence_number: The number that the queue gave the message; later messages have higher numbers. 0: the server did
            not say.
        delivery_count: How many deliveries there were.
        enqueued_at: When the server accepted the message (timezone-aware, UTC).
        dead_letter_reason: The reason for dead-lettering, or `None`.
        dead_letter_description: The description of that reason, or `None`.

    The other attributes are those of `Message`.
    """

    body: bytes = attrs.field(repr=_show_body)
    session_id: str | None = None
    message_id: str | None = None
    subject: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    to: str | None = None
    time_to_live: timedelta | None = None
    scheduled_enqueue_time: datetime | None = None
    attributes: dict[str, AttributeValue] = attrs.field(factory=dict, hash=False)
    sequence_number: int = 0
    delivery_count: int = 0
    enqueued_at: datetime | None = None
    dead_letter_reason: str | None = None
    dead_letter_description: str | None = None
    state: str = "Active"

    __repr__ = short_repr
    _repr_html_ = html_table

    @property
    def expires_at(self) -> datetime | None:
        """When the message expires (timezone-aware, UTC), or `None` if it does not."""
        if self.enqueued_at is None or self.time_to_live is None:
            return None
        try:
            return self.enqueued_at + self.time_to_live
        except OverflowError:
            return None

    def text(self, encoding: str = "utf-8") -> str:
        """Return the body as text.

        Raises:
            UnicodeDecodeError: The body is not text in this encoding.
        """
        return self.body.decode(encoding)

    @overload
    def json(self) -> JSONValue: ...

    @overload
    def json(self, model: type[Model]) -> Model: ...

    def json(self, model: type[Model] | None = None) -> Model | JSONValue:
        """Return the value that the body expresses in JSON.

        Args:
            model: The class to build: a pydantic model (version 2), a dataclass, an attrs class, or ``list[Order]`` and the
                like. Fields can be of such classes, too, and of datetime, date, Decimal, UUID, Enum, unions and Literal.
                `None`: return dicts, lists, text and numbers.

        Raises:
            ValidationError: With a model: the body is not JSON or does not fit the model. The error names the field and not
                its value.
            json.JSONDecodeError, UnicodeDecodeError: Without a model: the body is not JSON. Both are a `ValueError`, as is
                `ValidationError`.
            TypeError: A field of a dataclass or attrs class has a type that is not supported.

        Example:
            >>> from dataclasses import dataclass
            >>> from azsession import PeekedMessage
            >>> @dataclass
            ... class Order:
            ...     id: int
            ...     amount: float
            >>> PeekedMessage(body=b'{"id": 42, "amount": 12.5}').json(Order)
            Order(id=42, amount=12.5)
            >>> PeekedMessage(body=b'{"id": 42, "amount": "much"}').json(Order)
            Traceback (most recent call last):
            azsession.errors.ValidationError: the body does not fit Order: amount: expected a number, found a string
        """
        if model is not None:
            return from_json(self.body, model)
        value: JSONValue = json.loads(self.body)
        return value


@attrs.frozen(kw_only=True, repr=False)
class ReceivedMessage(PeekedMessage):
    """A message that was received under a session's lock. Settle it with its receipt. It can be pickled.

    Attributes:
        receipt: Settles the message: here, or as text in another process.
        delivery_count: How many deliveries there were, this one included: 1 for the first.
        delivered_at: When this process received the message (timezone-aware, UTC).

    The other attributes are those of `PeekedMessage` and `Message`.

    Example:
        >>> from azsession import Message, ServiceBusProvider
        >>> with ServiceBusProvider.embedded() as provider:
        ...     _ = provider.send_message("orders", Message('{"paid": 12.5}', session_id="order-42"))
        ...     with provider.create_session_client("orders", "order-42") as session:
        ...         message = session.receive_message(timeout=5)
        ...         session.complete_message(message.receipt)
        >>> message.json(), message.delivery_count
        ({'paid': 12.5}, 1)
    """

    receipt: ReceiptHandle = attrs.field(repr=False)
    delivered_at: datetime


class UndecodedMessages(Sequence[ReceivedMessage]):
    """Received messages of a broker that makes the objects when they are first read."""

    def received_as(
        self, receipt: Callable[[str], ReceiptHandle], session_id: str, delivered_at: datetime
    ) -> list[ReceivedMessage]:
        """Return the messages with the receipts of their receiver.

        Args:
            receipt: Returns the receipt for a lock token.
            session_id: The session, as the receiver names it.
            delivered_at: When the receiver got the messages (timezone-aware, UTC).
        """
        raise NotImplementedError


@attrs.frozen
class SessionInfo:
    """A session of a queue, from `ServiceBusProvider.list_sessions`.

    Attributes:
        session_id: The session's id.
        message_count: The number of active messages, including those that a holder has not settled. `None` on Azure, which
            does not report it.
        locked_until: When the session's lock expires unless it is renewed, or when a delay after an abandon ends
            (timezone-aware, UTC). `None`: the session is free, or, on Azure, not held through this process or gateway.
        holder: Who holds the session, for people: the host name and process id of the client, and the name of its key if it
            uses a gateway, for example ``"worker-7:4711, key app"``. `None`: nobody holds it, or the server does not say.
        deferred_count: The number of deferred messages. `None`: the server does not say.
        has_state: Whether the session has a state. `None`: the server does not say.
        oldest_enqueued_at: When the oldest active message was enqueued (timezone-aware, UTC). `None`: there is none, or the
            server does not say.
    """

    session_id: str
    message_count: int | None
    locked_until: datetime | None = None
    holder: str | None = attrs.field(default=None, kw_only=True)
    deferred_count: int | None = attrs.field(default=None, kw_only=True)
    has_state: bool | None = attrs.field(default=None, kw_only=True)
    oldest_enqueued_at: datetime | None = attrs.field(default=None, kw_only=True)

    __repr__ = short_repr
    _repr_html_ = html_table
