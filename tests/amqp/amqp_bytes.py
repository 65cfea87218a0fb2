"""Frames taken apart, by us and by the SDK."""

from __future__ import annotations

from typing import Any

from azure.servicebus._pyamqp import _decode as sdk
from azure.servicebus._pyamqp._encode import encode_frame

from azsession.amqp.codec import (
    decode_frame,
)


def body(frame: bytes, channel: int = 0, kind: int = 0) -> bytes:
    """Return a frame's body; its header is as the standard has it (2.3.1)."""
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert frame[4] == 2
    assert frame[5] == kind
    assert int.from_bytes(frame[6:8], "big") == channel
    return frame[8:]


def read(frame: bytes, channel: int = 0, kind: int = 0) -> Any:
    return decode_frame(memoryview(body(frame, channel, kind)))[1]


def by_the_sdk(frame: bytes) -> list[Any]:
    """Return a frame's fields as the SDK reads them; trailing nulls are the same as none."""
    fields: list[Any] = [
        bytes(field) if isinstance(field, memoryview) else field for field in sdk.decode_frame(memoryview(frame)[8:])[1]
    ]
    while fields and fields[-1] in (None, b""):
        del fields[-1]
    return fields


def from_the_sdk(performative: Any, kind: bytes = b"\x00") -> bytes:
    head, data = encode_frame(performative, kind)
    return bytes(head) + b"\x00\x00" + bytes(data or b"")
