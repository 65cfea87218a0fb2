"""Received transfer frames (AMQP 1.0 §2.7.5): one or more for each message. `performatives` calls this module."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from .decoding import READERS, exactly
from .fields import UINT_MAX, number, optional, optional_number


class Transfer(NamedTuple):
    """One frame of a delivery (§2.7.5). Only the first frame must have the id, tag and format."""

    handle: int
    delivery_id: int | None
    delivery_tag: bytes | None
    message_format: int | None
    settled: bool
    more: bool
    aborted: bool
    payload: bytes


def usual_transfer(buf: bytes, pos: int) -> Transfer | None:
    """Return the transfer in a frame, or `None` if its first fields are not a handle, a delivery id and a tag.

    A frame comes for each message. This takes half of the time of `any_transfer`.

    Args:
        buf: The body of the frame.
        pos: The position behind the code of the short list.
    """
    count, end = buf[pos + 1], pos + 1 + buf[pos]
    if count < 3 or end > len(buf):
        return None
    handle, pos = READERS[buf[pos + 2]](buf, pos + 3, 1)
    delivery, pos = READERS[buf[pos]](buf, pos + 1, 1)
    tag, pos = READERS[buf[pos]](buf, pos + 1, 1)
    if type(handle) is not int or type(delivery) is not int or type(tag) is not bytes or pos > end:
        return None
    if not 0 <= handle <= UINT_MAX or not 0 <= delivery <= UINT_MAX:
        return None
    form, settled, more, aborted = _behind_tag(count - 3, buf[pos:end])
    return Transfer(handle, delivery, tag, form, settled, more, aborted, buf[end:])


@lru_cache(64)
def _behind_tag(count: int, encoded: bytes) -> tuple[int | None, bool, bool, bool]:
    """Return the message format and the flags of a transfer. They are the same in most transfers of a link."""
    fields, _ = READERS[0xC0](bytes((0xC0, len(encoded) + 1, count)) + encoded, 1, 0)
    form, settled, more, _, _, _, aborted = exactly(fields, 7)
    return optional_number(form), bool(settled), bool(more), bool(aborted)


def any_transfer(fields: list[Any], payload: bytes) -> Transfer:
    """Return the transfer with these fields, in a frame of any form.

    Raises:
        MalformedFrameError: A field has a wrong type, or is out of its range.
    """
    handle, delivery, tag, form, settled, more, _, _, _, aborted = exactly(fields, 10)
    return Transfer(
        number(handle),
        optional_number(delivery),
        optional(tag, bytes),
        optional_number(form),
        bool(settled),
        bool(more),
        bool(aborted),
        payload,
    )
