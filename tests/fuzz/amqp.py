"""Parsers of data from Azure: frames, messages, management responses, WebSocket frames. Each function is one of `targets`."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from azsession import amqp
from azsession.amqp.message_mapping import peeked, received, token_of
from azsession.broker.azure.browsing import messages_of
from azsession.broker.azure.error_mapping import error_of, refusal_of
from azsession.broker.azure.transport.stream import _WebSocket
from azsession.errors import QueueError
from azsession.messages import ReceiptHandle
from azsession.protocol.wire import decode_envelope, decode_single, encode_envelope, encode_single

TOKEN = "6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"


def frame(data: bytes) -> None:
    """Parse a frame without its header."""
    code, fields = amqp.decode_frame(data)
    error = getattr(fields, "error", None)
    if error is not None:
        assert isinstance(error_of(error, entity="q"), QueueError)
    if code == amqp.TRANSFER and fields.delivery_tag is not None and len(fields.delivery_tag) == 16:
        assert len(token_of(fields.delivery_tag)) == 36


def message(data: bytes) -> None:
    """Parse a message, and convert it into both HTTP representations."""
    read = amqp.decode_message(data)
    assert isinstance(read.body, bytes)
    receipt = ReceiptHandle(TOKEN, None, queue_name="q", session_id="s")
    given = received(read, receipt, session_id="s", delivered_at=datetime.now(timezone.utc))
    envelope = encode_envelope([given, peeked(read, dead_letter=True)])
    assert decode_envelope(envelope)[0]["body"] == given.body
    headers, body = encode_single(given)
    for name, value in headers.items():
        assert name, "a header has a name"
        assert f"{name}{value}".isascii(), "headers are ASCII"
        assert f"{name}{value}".isprintable(), "a header is one line"
    assert decode_single(headers.items(), body)["lock_token"] == TOKEN
    assert amqp.decode_message(amqp.resent(data, 0)).body == read.body


def response(data: bytes) -> None:
    """Parse a response of ``$management``."""
    read = amqp.decode_response(data)
    condition = refusal_of(read)
    if condition is not None:
        assert isinstance(error_of(condition, entity="q"), QueueError)
    for one in messages_of(read):
        assert isinstance(one, bytes)


def websocket(data: bytes) -> None:
    """Parse WebSocket frames that arrive in pieces."""
    stream: Any = _WebSocket.__new__(_WebSocket)
    stream._in, stream._replies, stream._ended = bytearray(), b"", False
    whole = b""
    for start in range(0, len(data), 7 if len(data) < 4096 else 4099):
        stream._in += data[start : start + (7 if len(data) < 4096 else 4099)]
        whole += stream._take_frames()
    assert len(whole) <= len(data)
