"""How a provider sends messages: it divides them among requests by size, and a refused request into halves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

import attrs

from ..errors import MessageTooLargeError, QueueError, ValidationError, revised
from ..messages import Message
from ..protocol.wire import encode_item
from ..telemetry import SendOperation
from ..validation import MAX_BATCH, as_list, check_instant
from . import operations, schedule_operations
from .ids import new_ordered_id
from .provider_core import ProviderCore

#: The largest size, in bytes, of the messages in one request.
MAX_SEND_SIZE = 4 * 1024 * 1024
#: The position of a message in an error of the server, for example "message 4 has no SessionId".
_POSITION = re.compile(r"\bmessage (\d{1,9})(?: of \d{1,9})?\b")


def send_messages(core: ProviderCore, queue_name: str, messages: Iterable[Message] | Message) -> list[str]:
    """Send messages in their order. Return their ids.

    Raises:
        QueueError: `accepted` says how many messages the server accepted before the error.
    """
    named = [with_id(message) for message in _listed(messages)]
    if named:
        core.check_open()
        with core.telemetry.send("send", queue_name, named, is_batch=not isinstance(messages, Message)) as operation:
            core.transport.require_v1("send messages")

            def send(items: Sequence[bytes]) -> int:
                if len(items) == 1 and core.sends is not None and core.sends.send(queue_name, items[0]):
                    return 1
                return _send_part(lambda envelope: core.transport.send(operations.send(queue_name, envelope)), items)

            _send_traced(operation, named, send)
    return [str(message.message_id) for message in named]


def schedule_messages(core: ProviderCore, queue_name: str, messages: Iterable[Message] | Message, at: datetime) -> list[int]:
    """Schedule messages. Return their sequence numbers.

    Raises:
        QueueError: `accepted` says how many messages the server accepted before the error.
    """
    when = check_instant(at, "at")
    named = [attrs.evolve(with_id(message), scheduled_enqueue_time=when) for message in _listed(messages)]
    numbers: list[int] = []
    if named:
        core.check_open()

        def send(envelope: bytes) -> None:
            scheduled: list[int] = core.transport.send(schedule_operations.schedule(queue_name, envelope))
            numbers.extend(scheduled)

        with core.telemetry.send("schedule", queue_name, named, is_batch=not isinstance(messages, Message)) as operation:
            core.transport.require_v1("schedule messages")
            _send_traced(operation, named, lambda items: _send_part(send, items))
    return numbers


def _listed(messages: Iterable[Message] | Message) -> list[Message]:
    return [messages] if isinstance(messages, Message) else as_list(messages, "messages")


def _send_traced(operation: SendOperation, messages: Sequence[Message], send: Callable[[Sequence[bytes]], int]) -> None:
    """Send messages with their trace contexts, or without them if only these make them too large."""
    try:
        _send_all(operation.to_send, send)
    except MessageTooLargeError as error:
        if error.accepted or operation.to_send is messages:
            raise
        _send_all(messages, send)


def _send_all(messages: Sequence[Message], send: Callable[[Sequence[bytes]], int]) -> None:
    items = [encode_item(message) for message in messages]
    accepted = start = 0
    try:
        for part in _divide(items):
            accepted += send(part)
            start += len(part)
    except QueueError as error:
        accepted += error.accepted
        text = _in_list(str(error), start, len(items))
        if not accepted and text == str(error):
            raise
        if accepted:
            text += accepted_note(accepted, len(items))
        raise revised(error, text, accepted=accepted) from error.__cause__


def accepted_note(accepted: int, total: int) -> str:
    """Return the end of an error's text that says how many messages were accepted."""
    return f" ({accepted} of {total} messages were accepted before that)"


def with_id(message: Message) -> Message:
    """Return a message to send, with an id.

    Raises:
        ValidationError: `message` is not a `Message`, or has no session id.
    """
    if not isinstance(message, Message):
        raise ValidationError(f"a message to send must be a Message, not {type(message).__name__}")
    if message.session_id is None:
        raise ValidationError("a message to send needs a session_id")
    return message if message.message_id is not None else attrs.evolve(message, message_id=new_ordered_id())


def _send_part(send: Callable[[bytes], object], items: Sequence[bytes]) -> int:
    """Send messages in one request, or in halves if the server says that it is too large. Return how many."""
    try:
        send(b"[" + b",".join(items) + b"]")
    except MessageTooLargeError as error:
        # A message that is too large by itself is too large in any part. Nothing was sent.
        if len(items) == 1 or _POSITION.search(str(error)):
            raise
    else:
        return len(items)
    middle, accepted = len(items) // 2, 0
    try:
        accepted = _send_part(send, items[:middle])
        return accepted + _send_part(send, items[middle:])
    except QueueError as error:
        text = _in_list(str(error), accepted and middle, None)
        raise revised(error, text, accepted=accepted + error.accepted) from error.__cause__


def _in_list(text: str, offset: int, total: int | None) -> str:
    """Return an error's text with the positions of messages in the caller's list: the server counts in the request."""
    of_total = "" if total is None else f" of {total}"
    return _POSITION.sub(lambda match: f"message {int(match[1]) + offset}{of_total}", text)


def _divide(items: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the messages of each request."""
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and (size + len(item) > MAX_SEND_SIZE or len(part) == MAX_BATCH):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item) + 1
    yield part
