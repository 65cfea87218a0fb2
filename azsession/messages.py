"""The values that pass through a session: messages, as sent, received and peeked, and the receipts to settle them.

All are frozen attrs classes. The client and the brokers make them; `protocol` turns them into bytes and back.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs

from .errors import InvalidReceiptError, ValidationError
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

AttributeValue = str | int | float | bool

#: What a portable receipt begins with; the digit is the version of its form.
_RECEIPT_PREFIX = "azs1."
_ROUTE = re.compile(r"[A-Za-z0-9-]{0,64}\Z")


def _to_bytes(body: Any) -> Any:
    return body.encode() if isinstance(body, str) else body


def _to_timedelta(value: Any) -> Any:
    if value is None:
        return None
    lasts = seconds(value, "time_to_live", positive=True, highest=float("inf"))
    try:
        return timedelta(seconds=lasts)
    except OverflowError:
        raise ValidationError("time_to_live is longer than a timedelta can be; leave it out for no end") from None


def _to_utc(value: Any) -> Any:
    return None if value is None else check_instant(value, "scheduled_enqueue_time").astimezone(timezone.utc)


def _body_repr(body: bytes) -> str:
    return f"<{len(body)} bytes>"


@attrs.frozen(kw_only=True)
class Message:
    """A message to send.

    Args:
        body: The content, bytes or text (sent as UTF-8).
        session_id: The session it belongs to, 1 to 128 characters. Needed to send it.
        message_id: Up to 128 characters; made up when it is sent, if absent. Queues with duplicate detection go by it.
        subject: What it is about; Azure also calls it the label.
        content_type: The MIME type of the body.
        correlation_id: Whatever ties it to other messages.
        reply_to: The queue to answer to.
        reply_to_session_id: The session to answer to.
        to: Where it is meant to go; kept, but not acted on.
        time_to_live: Seconds or a timedelta after which nobody needs it any more.
        scheduled_enqueue_time: When it shall become visible, a timezone-aware datetime.
        attributes: Further properties by name: str, int, float or bool. A gateway takes 65,536 characters of them together.

    Raises:
        ValidationError: An argument is not of these forms.
    """

    body: bytes = attrs.field(converter=_to_bytes, repr=_body_repr, kw_only=False)
    session_id: str | None = None
    message_id: str | None = None
    subject: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    to: str | None = None
    time_to_live: timedelta | None = attrs.field(default=None, converter=_to_timedelta)
    scheduled_enqueue_time: datetime | None = attrs.field(default=None, converter=_to_utc)
    attributes: dict[str, AttributeValue] = attrs.field(factory=dict, converter=check_attributes, hash=False)

    @body.validator
    def _check_body(self, _: Any, value: object) -> None:
        if not isinstance(value, bytes):
            raise ValidationError(f"a message's body is bytes or str, not {type(value).__name__}")

    def __attrs_post_init__(self) -> None:
        if self.session_id is not None:
            check_session_id(self.session_id)
        for name, limit in _TEXT_LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                check_text(value, name, limit)


#: The text properties of a message and the characters that each may have (Azure's quotas).
_TEXT_LIMITS: dict[str, int] = {
    "message_id": MAX_MESSAGE_ID_LENGTH,
    "subject": 4096,
    "content_type": 256,
    "correlation_id": MAX_MESSAGE_ID_LENGTH,
    "reply_to": 4096,
    "reply_to_session_id": MAX_SESSION_ID_LENGTH,
    "to": 4096,
}


@attrs.frozen(kw_only=True)
class ReceiptHandle:
    """The right to settle one message.

    `str()` gives its portable text, which other processes turn back with `ReceiptHandle.parse`, or settle with through
    `ServiceBusProvider.session_from_receipt`. Who has it can settle that one message, and nothing else.

    Attributes:
        handle: The message's lock token.
        expires_at: When the lock ends unless it is renewed, as known when the message was received; aware, UTC.
        queue_name: The queue it came from.
        session_id: The session it came from.
        route: Which of several gateways has its holder; no secret.
    """

    handle: str = attrs.field(repr=False, kw_only=False)
    expires_at: datetime | None = attrs.field(default=None, kw_only=False)
    queue_name: str = ""
    session_id: str = ""
    route: str = ""

    def __str__(self) -> str:
        expires = None if self.expires_at is None else round(self.expires_at.timestamp(), 3)
        fields = [self.queue_name, self.session_id, self.handle, expires]
        packed = json.dumps([*fields, self.route] if self.route else fields, separators=(",", ":"))
        return _RECEIPT_PREFIX + base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> ReceiptHandle:
        """Return the receipt that `text` is the portable form of.

        Raises:
            InvalidReceiptError: It is not the text of a receipt.
        """
        if not isinstance(text, str) or not text.startswith(_RECEIPT_PREFIX) or len(text) > 4096:
            raise InvalidReceiptError("this is not the text of a receipt, which str(message.receipt) gives")
        packed = text[len(_RECEIPT_PREFIX) :]
        try:
            fields = json.loads(base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True))
            # A receipt of an earlier release, or of no route, has four fields.
            queue_name, session_id, handle, expires, route = fields if len(fields) == 5 else [*fields, ""]
            check_queue_name(queue_name)
            check_session_id(session_id)
            check_lock_token(handle)
            if not _ROUTE.match(route):
                raise ValidationError("a route goes into a header")
            expires_at = None if expires is None else datetime.fromtimestamp(expires, timezone.utc)
        except (ValueError, TypeError, OverflowError, OSError, RecursionError, binascii.Error):
            raise InvalidReceiptError("this text of a receipt is damaged") from None
        return cls(handle, expires_at, queue_name=queue_name, session_id=session_id, route=route)


@attrs.frozen(kw_only=True)
class PeekedMessage:
    """A message that was looked at, not received: it has no lock, and cannot be settled.

    Attributes:
        state: ``"Active"``, ``"Deferred"``, ``"Scheduled"``, or ``"DeadLettered"`` in the dead-letter queue.
        sequence_number: Its number in the queue, rising in the order of acceptance.
        delivery_count: How often it was delivered so far.
        enqueued_at: When the server accepted it; aware, UTC.
        expires_at: When its time to live ends, where it has one.
        dead_letter_reason: Why it was dead-lettered, where it was.
        dead_letter_description: More about that.

    The other attributes are those of `Message`.
    """

    body: bytes = attrs.field(repr=_body_repr)
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
    sequence_number: int | None = None
    delivery_count: int = 0
    enqueued_at: datetime | None = None
    dead_letter_reason: str | None = None
    dead_letter_description: str | None = None
    state: str = "Active"

    @property
    def expires_at(self) -> datetime | None:
        """When its time to live ends (aware, UTC), or `None` where it has none."""
        if self.enqueued_at is None or self.time_to_live is None:
            return None
        try:
            return self.enqueued_at + self.time_to_live
        except OverflowError:
            return None

    def text(self, encoding: str = "utf-8") -> str:
        """Return the body decoded; raises `UnicodeDecodeError` where it is not such text."""
        return self.body.decode(encoding)

    def json(self) -> Any:
        """Return what the body says as JSON; raises `json.JSONDecodeError` where it is none."""
        return json.loads(self.body)


@attrs.frozen(kw_only=True)
class ReceivedMessage(PeekedMessage):
    """A message that was received under a session's lock, to be settled with its receipt.

    Attributes:
        receipt: What settles it, here or, as text, in another process.
        delivery_count: How often it was delivered, this time included: 1 at the first.
        delivered_at: When this process received it; aware, UTC.

    The other attributes are those of `PeekedMessage` and `Message`. It can be pickled.
    """

    receipt: ReceiptHandle
    delivered_at: datetime


@attrs.frozen
class SessionInfo:
    """A session of a queue, as `ServiceBusProvider.list_sessions` tells of it.

    Attributes:
        session_id: Its id.
        message_count: Its active messages, those in a holder's hands included; `None` where Azure keeps them, which does not
            tell.
        locked_until: When its lock ends unless it is renewed (aware, UTC); `None` where nobody holds it.
    """

    session_id: str
    message_count: int | None
    locked_until: datetime | None = None
