"""The answers of combined requests: a JSON object that has messages beside another result.

An accept with messages answers ``{"SessionId": "..", "Messages": [..]}``, settle and receive answers
``{"failed": [..], "Messages": [..]}``. An element of ``Messages`` is an element of an envelope, see `wire`. The gateway
encodes these answers, and the client decodes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..messages import Message, PeekedMessage
from ..validation import MAX_BATCH
from .bounded_json import json_object_with_items
from .wire import MalformedError, decode_item, encode_item

#: The member with the messages.
MESSAGES = "Messages"


def combined_pieces(result: bytes, messages: Iterable[Message | PeekedMessage]) -> Iterator[bytes]:
    """Return an answer in pieces. Each piece has one message at most.

    Args:
        result: The other result: a JSON object that has at least one member.
        messages: The messages.
    """
    before = result[:-1] + b',"Messages":['
    for message in messages:
        yield before + encode_item(message)
        before = b","
    yield b"]}" if before == b"," else before + b"]}"


def decode_combined(data: bytes) -> tuple[Mapping[str, Any], list[dict[str, Any]] | None]:
    """Return the members of an answer, and the fields of its messages, with ``lock_token``; `None` without messages.

    Raises:
        MalformedError: The bytes are not such an answer, a message in it is malformed, or there are more than `MAX_BATCH`.
    """
    try:
        found = json_object_with_items(data, MESSAGES)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not valid JSON") from None
    if not isinstance(found, dict):
        raise MalformedError("the body must be a JSON object")
    items = found.pop(MESSAGES, None)
    if items is None:
        return found, None
    if not isinstance(items, list) or len(items) > MAX_BATCH:
        raise MalformedError(f"{MESSAGES} must be a list of at most {MAX_BATCH} messages")
    return found, [decode_item(item) for item in items]
