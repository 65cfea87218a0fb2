"""Parsers of messages and responses. Each function is one of `targets`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from requests.structures import CaseInsensitiveDict

from azsession.client import combined_operations, operations
from azsession.client.call import ServerResponse, SessionTarget
from azsession.client.responses import LockGrant, read_queue, read_queues
from azsession.errors import ValidationError
from azsession.messages import ReceiptHandle, ReceivedMessage
from azsession.protocol.routes import message_path, session_path
from azsession.protocol.wire import (
    MalformedError,
    decode_envelope,
    decode_single,
    encode_envelope,
    encode_single,
    message_to_send,
)

SESSION = SessionTarget("q", "s", "lock", "route")


def headers_of(head: bytes) -> list[tuple[str, str]]:
    """Return the headers in lines."""
    pairs = [line.decode("latin-1").partition(":") for line in head.split(b"\n") if line]
    return [(name.strip(), value.strip()) for name, _, value in pairs if name.strip()]


def single(data: bytes) -> None:
    """Parse one message as headers and body. A message that can be sent survives conversion and back."""
    head, _, body = data.partition(b"\n\n")
    sent = message_to_send(decode_single(headers_of(head), body))
    fields = {name: getattr(sent, name) for name in type(sent).__slots__ if not name.startswith("_")}
    headers, written = encode_single(ReceivedMessage(**fields, receipt=ReceiptHandle("t"), delivered_at=_now()))
    again = decode_single(headers.items(), written)
    assert again.pop("lock_token") == "t"
    for name in ("delivery_count", "state"):
        del again[name]
    if sent.content_type is not None and not (sent.content_type.isascii() and sent.content_type.isprintable()):
        again["content_type"] = sent.content_type
    assert {name: value for name, value in fields.items() if value is not None} == {
        name: value for name, value in again.items() if value is not None
    }


def envelope(data: bytes) -> None:
    """Parse an envelope. Messages that can be sent survive conversion and back."""
    messages = [message_to_send(fields) for fields in decode_envelope(data)]
    again = [message_to_send(fields) for fields in decode_envelope(encode_envelope(messages))]
    assert again == messages


def _now() -> Any:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)


#: The types that attributes can have.
ATTRIBUTE_TYPES = (str, int, float, bool, bytes, datetime, uuid.UUID, type(None))


def _check_message(message: ReceivedMessage) -> None:
    text = str(message.receipt)
    assert ReceiptHandle.parse(text).handle == message.receipt.handle
    message_path(message.receipt.handle)
    assert all(type(value) in ATTRIBUTE_TYPES for value in message.attributes.values())


def _locked(answer: LockGrant | None) -> None:
    if answer is not None:
        session_path("q", answer.session_id)
        assert answer.waited <= time.monotonic() - answer.sent_at
        for message in answer.messages:
            _check_message(message)


def _peeked(messages: list[Any]) -> None:
    for message in messages:
        repr(message)
        assert message.expires_at is None or message.expires_at.tzinfo is not None
        assert all(type(value) in ATTRIBUTE_TYPES for value in message.attributes.values())


def _sessions(found: list[Any]) -> None:
    for session in found:
        assert operations.list_sessions("q", session.session_id, 10).query is not None


#: The parser of the response to each operation, and a function that uses its result.
READERS: dict[str, tuple[Callable[[ServerResponse], Any], Callable[[Any], object]]] = {
    "receive": (operations.receive(SESSION, None, 1.0, 60.0, "request").read, _locked),
    "receive many": (operations.receive(SESSION, 10, 1.0, 60.0, "request").read, _locked),
    "accept": (operations.accept("q", None, "lock", 1.0, 60.0).read, _locked),
    "accept with messages": (operations.accept("q", None, "lock", 1.0, 60.0, max_count=5).read, _locked),
    "settle and receive": (
        combined_operations.settle_and_receive(SESSION, {"complete": ["t"]}, 5, 60.0, "request").read,
        lambda result: _locked(result[1]),
    ),
    "settle and release": (combined_operations.settle_and_release(SESSION, {"complete": ["t"]}).read, repr),
    "renew": (operations.renew(SESSION).read, _locked),
    "settle": (operations.settle(SESSION, {"complete": ["t"]}).read, lambda failed: [str(code) for code in failed.values()]),
    "receive deferred": (
        operations.receive_deferred(SESSION, [1], 60.0).read,
        lambda messages: [_check_message(message) for message in messages],
    ),
    "dead-letter session": (operations.dead_letter_session(SESSION, "why", None).read, repr),
    "state": (operations.get_state(SESSION).read, repr),
    "peek": (operations.peek("q", "s", 0, 10).read, _peeked),
    "dead letters": (operations.dead_letters("q", 0, 10).read, _peeked),
    "list sessions": (operations.list_sessions("q", "", 10).read, _sessions),
    "queue": (read_queue, repr),
    "queues": (read_queues, repr),
}
_NAMES = tuple(READERS)


def read_answer(name: str, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """Parse the response to an operation, and use the result."""
    read, use = READERS[name]
    found = read(ServerResponse(status, CaseInsensitiveDict(headers), body, time.monotonic()))
    use(found)


def answer(data: bytes) -> None:
    """Parse a response. The first byte chooses operation and status; headers, an empty line and the body follow."""
    choice, rest = (data[0], data[1:]) if data else (0, b"")
    head, _, body = rest.partition(b"\n\n")
    read_answer(_NAMES[choice % len(_NAMES)], (200, 201, 204, 202)[choice // 64], headers_of(head), body)


#: The exceptions that a parser may raise.
ALLOWED = (MalformedError, ValidationError)
