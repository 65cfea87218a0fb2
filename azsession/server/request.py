"""A request as the handlers see it: its route, query, headers and body, and functions that read them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..broker.calls import CallContext, Disposition, Settlement
from ..errors import MessageTooLargeError, ValidationError
from ..messages import UNKNOWN_CLIENT, Message
from ..protocol import CLIENT_HEADER, ENVELOPE_TYPE, LOCK_ID_HEADER, REQUEST_ID_HEADER
from ..protocol.routes import Route
from ..protocol.wire import (
    BatchTooLargeError,
    base64_size,
    decode_item,
    decode_single,
    envelope_items,
    json_object,
    message_to_send,
)
from ..validation import (
    MAX_ATTRIBUTES_SIZE,
    MAX_BATCH,
    MAX_LOCK_TOKEN_LENGTH,
    MAX_REASON_LENGTH,
    MAX_SECONDS,
    MAX_SEQUENCE_NUMBER,
    attributes_size,
    check_count,
    check_text,
)
from .access_keys import AccessKey

#: The longest time, in seconds, that a receive or an accept may ask to wait.
MAX_TIMEOUT = 86400.0
#: Seconds that a receive or an accept waits if the query has no timeout.
DEFAULT_TIMEOUT = 60.0
#: Bytes of a JSON body that does not describe messages.
MAX_JSON_SIZE = 256 * 1024
#: The form of a lock id or a request id: a UUID in any notation.
IDENTIFIER = r"[A-Za-z0-9._{}-]{0,64}"
#: The form of the name that a client gives itself: printable ASCII.
CLIENT_NAME = r"[!-~]([ -~]{0,126}[!-~])?"

# Compiled here: each request uses them, and the cache of `re` takes longer than most of these matches.
_is_identifier = re.compile(IDENTIFIER).fullmatch
_is_client_name = re.compile(CLIENT_NAME).fullmatch
_is_timeout = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?").fullmatch
_is_delay = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?").fullmatch
_is_number = re.compile(r"[0-9]{1,19}").fullmatch


class Headers:
    """The headers of a request.

    Args:
        fields: Names and values. A transport that knows the case of the names keeps it: attributes of a message can be
            headers.
    """

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = list(fields)
        self._values = {name.lower(): value for name, value in self._fields}

    def get(self, name: str) -> str | None:
        """Return the value of a header, or `None`. The case of the name does not matter."""
        return self._values.get(name.lower())

    def items(self) -> list[tuple[str, str]]:
        """Return all names and values, in the order and case of the transport."""
        return self._fields


@attrs.frozen
class Request:
    """A request that is authorized and read.

    Attributes:
        route: The operation, and the queue, session or message that it is about.
        query: The parameters of the query, decoded.
        headers: The headers.
        body: The body.
        context: How the broker is called.
        messages: The messages to send, if the body is read already: see `iter_messages`.
        key: The key of the request's token; `None` if the request needed no token.
    """

    route: Route
    query: Mapping[str, str]
    headers: Headers
    body: bytes
    context: CallContext
    messages: Sequence[Message] | None = None
    key: AccessKey | None = None

    def identifier(self, name: str) -> str:
        """Return a header that holds a UUID, or ``""`` if the request does not have it.

        Raises:
            ValidationError: The header has another form.
        """
        value = self.headers.get(name) or ""
        if not _is_identifier(value):
            # The value is not shown: a lock id is enough to use a session.
            raise ValidationError(f"the header {name} must be a UUID, not a text of {len(value)} characters")
        return value

    @property
    def lock_id(self) -> str:
        return self.identifier(LOCK_ID_HEADER)

    @property
    def request_id(self) -> str:
        return self.identifier(REQUEST_ID_HEADER)

    @property
    def client(self) -> str:
        """Who makes the request, for people: what the client says of itself, and the name of its key."""
        name = self.headers.get(CLIENT_HEADER) or ""
        # As with unknown headers, a malformed one changes nothing else.
        named = name if _is_client_name(name) else UNKNOWN_CLIENT
        return named if self.key is None else f"{named}, key {self.key.name}"

    @property
    def timeout(self) -> float:
        """The seconds to wait that the query asks for, shortened to the caller's deadline.

        Raises:
            ValidationError: The timeout is not a number of seconds, or too large.
        """
        text = self.query.get("timeout")
        seconds = DEFAULT_TIMEOUT
        if text is not None:
            if not _is_timeout(text) or float(text) > MAX_TIMEOUT:
                raise ValidationError(f"timeout must be a number of seconds from 0 to {MAX_TIMEOUT:.0f}, not {text[:80]!r}")
            seconds = float(text)
        deadline = self.context.deadline
        return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))

    @property
    def delay(self) -> float:
        """The seconds of the query for which an abandoned message and its session are held back.

        Raises:
            ValidationError: The delay is not a number of seconds, or too large.
        """
        text = self.query.get("delay", "0")
        if not _is_delay(text) or float(text) > MAX_SECONDS:
            raise ValidationError(f"delay must be a number of seconds from 0 to {MAX_SECONDS:.0f}, not {text[:80]!r}")
        return float(text)

    def number(self, name: str, default: int, highest: int, *, lowest: int = 0) -> int:
        """Return a whole number of the query.

        Raises:
            ValidationError: The parameter is not a whole number from `lowest` to `highest`.
        """
        text = self.query.get(name)
        if text is None:
            return default
        if not _is_number(text) or not lowest <= int(text) <= highest:
            raise ValidationError(f"{name} must be a whole number from {lowest} to {highest}, not {text[:80]!r}")
        return int(text)

    def taken(self, max_count: int) -> int | None:
        """Return the number of messages that the client uses at once, of those that it receives; `None` for all.

        Args:
            max_count: The largest number of messages that the client receives.

        Raises:
            ValidationError: It is not a whole number from 1 to `max_count`.
        """
        return self.number("taken", 1, max_count, lowest=1) if "taken" in self.query else None

    def json(self) -> Mapping[str, Any]:
        """Return the body as a JSON object. For bodies that do not describe messages.

        Raises:
            MessageTooLargeError: The body is larger than `MAX_JSON_SIZE`.
            MalformedError: The body is not a JSON object.
        """
        check_size(len(self.body), "the body", MAX_JSON_SIZE)
        return json_object(self.body)


def iter_messages(headers: Headers, body: bytes, max_size: int) -> Iterator[Message]:
    """Read the messages to send one by one: of an envelope, or one message as headers and body.

    Args:
        headers: The headers of the request.
        body: The body of the request.
        max_size: Bytes of a message's body at most.

    Raises:
        ValidationError: A message is malformed, or there is none.
        MalformedError: The body is malformed.
        MessageTooLargeError: The envelope has too many messages, or a message is too large.
    """
    content_type = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if content_type != ENVELOPE_TYPE:
        yield _checked(message_to_send(decode_single(headers.items(), body)), 1, max_size)
        return
    number = 0
    try:
        for number, item in enumerate(envelope_items(body), 1):
            check_size(base64_size(item), f"the body of message {number}", max_size)
            yield _checked(message_to_send(decode_item(item)), number, max_size)
    except BatchTooLargeError as error:
        raise MessageTooLargeError(str(error)) from None
    if not number:
        raise ValidationError("the envelope has no message; it must have at least one")


def check_size(size: int, described: str, limit: int, *, unit: str = "bytes") -> None:
    """Raise `MessageTooLargeError` if a size is over its limit."""
    if size > limit:
        raise MessageTooLargeError(f"{described} has {size} {unit}; the limit is {limit}", size=size, limit=limit)


def _checked(message: Message, number: int, max_size: int) -> Message:
    if message.session_id is None:
        raise ValidationError(f"message {number} has no SessionId; all queues need one")
    check_size(len(message.body), f"the body of message {number}", max_size)
    size = attributes_size(message.attributes)
    check_size(size, f"the set of attributes of message {number}", MAX_ATTRIBUTES_SIZE, unit="characters")
    return message


def read_reason(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the reason and the description of a dead-lettering.

    Raises:
        ValidationError: One of them is not text, or too long.
    """
    reason, description = data.get("DeadLetterReason"), data.get("DeadLetterErrorDescription")
    if reason is not None:
        check_text(reason, "DeadLetterReason", MAX_REASON_LENGTH)
    if description is not None:
        check_text(description, "DeadLetterErrorDescription", MAX_REASON_LENGTH)
    return reason, description


def read_sequence_numbers(data: Mapping[str, Any]) -> list[int]:
    """Return the sequence numbers of deferred or scheduled messages.

    Raises:
        ValidationError: The list is missing or empty, or one item is not a sequence number.
        MessageTooLargeError: The list is longer than a batch.
    """
    numbers = data.get("SequenceNumbers")
    if not isinstance(numbers, list) or not numbers:
        raise ValidationError(f"SequenceNumbers must be a list of 1 to {MAX_BATCH} whole numbers")
    check_size(len(numbers), "SequenceNumbers", MAX_BATCH, unit="items")
    for number in numbers:
        check_count(number, "a sequence number", MAX_SEQUENCE_NUMBER)
    return numbers


def read_settlements(data: Mapping[str, Any]) -> list[Settlement]:
    """Return the messages to settle.

    Raises:
        ValidationError: A name or an item is malformed, or there is no item.
        MessageTooLargeError: There are more items than a batch may have. Items are counted before they are read.
    """
    items: list[tuple[Any, Disposition]] = []
    for name, value in data.items():
        try:
            disposition = Disposition(name)
        except ValueError:
            names = ", ".join(one.value for one in Disposition)
            raise ValidationError(f"{name[:40]!r} is not one of {names}") from None
        if not isinstance(value, list):
            raise ValidationError(f"{name} must be a list")
        check_size(len(items) + len(value), "the list of messages to settle", MAX_BATCH, unit="items")
        items += [(item, disposition) for item in value]
    if not items:
        raise ValidationError(f"there is no message to settle; give 1 to {MAX_BATCH}")
    return [_read_settlement(item, disposition) for item, disposition in items]


def _read_settlement(item: Any, disposition: Disposition) -> Settlement:
    if disposition is Disposition.DEAD_LETTER:
        if not isinstance(item, dict):
            raise ValidationError('deadletter must be a list of objects with "LockToken"')
        token = check_text(item.get("LockToken"), "LockToken", MAX_LOCK_TOKEN_LENGTH)
        return Settlement(token, disposition, *read_reason(item))
    return Settlement(check_text(item, "a lock token", MAX_LOCK_TOKEN_LENGTH), disposition)
