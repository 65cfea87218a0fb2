"""Frames read and written by the official SDK's private AMQP layer, which is the oracle of the tests here."""

from __future__ import annotations

from typing import Any

from azure.servicebus._pyamqp import _decode as sdk
from azure.servicebus._pyamqp._encode import encode_frame, encode_value

from azsession.amqp import decode_frame


def body(frame: bytes, channel: int = 0, kind: int = 0) -> bytes:
    """Return a frame's body after a check of its header (AMQP 1.0 §2.3.1)."""
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert frame[4] == 2
    assert frame[5] == kind
    assert int.from_bytes(frame[6:8], "big") == channel
    return frame[8:]


def read(frame: bytes, channel: int = 0, kind: int = 0) -> Any:
    """Return the performative of a frame, read by azsession."""
    return decode_frame(memoryview(body(frame, channel, kind)))[1]


def by_the_sdk(frame: bytes) -> list[Any]:
    """Return a frame's fields, read by the SDK, without trailing nulls: a missing field is null."""
    return _plain(sdk.decode_frame(memoryview(frame)[8:])[1])


def _plain(fields: Any) -> Any:
    if isinstance(fields, memoryview):
        return bytes(fields)
    if isinstance(fields, dict):
        return {name: _plain(value) for name, value in fields.items()}
    if not isinstance(fields, list):
        return fields
    found = [_plain(field) for field in fields]
    while found and found[-1] in (None, b""):
        del found[-1]
    return found


def from_the_sdk(performative: Any, kind: bytes = b"\x00") -> bytes:
    """Return a performative as a frame, written by the SDK."""
    head, data = encode_frame(performative, kind)
    return bytes(head) + b"\x00\x00" + bytes(data or b"")


def value_from_the_sdk(value: Any) -> bytes:
    """Return an AMQP value, written by the SDK. A `dict` with the keys TYPE and VALUE names its AMQP type."""
    output = bytearray()
    encode_value(output, value)
    return bytes(output)


def described(code: int, *fields: Any) -> bytes:
    """Return a list with a numeric descriptor, written by the SDK."""
    return value_from_the_sdk({"TYPE": "DESCRIBED", "VALUE": ({"TYPE": "ULONG", "VALUE": code}, list(fields))})


def symbol(text: str) -> Any:
    """Return a symbol as the SDK's encoder takes it."""
    return {"TYPE": "SYMBOL", "VALUE": text}
