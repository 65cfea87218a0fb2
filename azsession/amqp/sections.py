"""The sections of encoded messages (AMQP 1.0 §3.2): the form in which a server keeps a message, and the form for receivers.

The sender's parts stay the same, byte by byte. `server.amqp` uses this module, and `resending` its first half.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .decoding import NONSENSE, READERS, exactly, read_descriptor
from .encoding import NULL, compound, descriptor, encode_value, fields_of, sized, string
from .message import ANNOTATIONS, APPLICATION_PROPERTIES, DATA, DELIVERY_ANNOTATIONS, HEADER, NULL_BODY, PROPERTIES
from .types import MalformedFrameError, Symbol, Uint

#: The annotations that only a broker sets; a sender's values are dropped.
BROKERS_ANNOTATIONS = frozenset({
    "x-opt-sequence-number",
    "x-opt-enqueued-time",
    "x-opt-enqueue-sequence-number",
    "x-opt-locked-until",
    "x-opt-lock-token",
    "x-opt-deadletter-source",
    "x-opt-message-state",
})  # fmt: skip


#: The last section, and the sections that a message may have more than once.
_FOOTER, _REPEATED = 0x78, frozenset({DATA, DATA + 1})


class Section(NamedTuple):
    """A section's code, its first byte, the first byte of its value, the byte behind it, and its content."""

    code: int
    start: int
    value: int
    end: int
    content: Any


def each_section(buf: bytes) -> Iterator[Section]:
    """Yield the sections of a message. Malformed bytes raise one of `decoding.NONSENSE`, or `MalformedFrameError`."""
    pos = 0
    while pos < len(buf):
        code, value = read_descriptor(buf, pos)
        content, end = READERS[buf[value]](buf, value + 1, 0)
        yield Section(code, pos, value, end, content)
        pos = end


def data_sections(buf: bytes) -> list[bytes]:
    """Return the contents of the data sections: the messages of a batch of the format `frames.BATCH_FORMAT`.

    Raises:
        MalformedFrameError: The bytes are not an AMQP 1.0 message.
    """
    try:
        found = [each.content for each in each_section(buf) if each.code == DATA]
    except NONSENSE as error:
        raise MalformedFrameError(f"a batch is malformed: {error}") from error
    if not all(isinstance(each, bytes) for each in found):
        raise MalformedFrameError("a data section of a batch is not binary")
    return found


def parts_of(buf: bytes, value: int) -> list[bytes]:
    """Return the encoded items of the list or map at `value`; a map's items are its keys and values in turn."""
    code = buf[value]
    if code in (0x40, 0x45):
        return []
    wide = code in (0xD0, 0xD1)
    count = int.from_bytes(buf[value + 5 : value + 9], "big") if wide else buf[value + 2]
    pos, parts = value + (9 if wide else 3), []
    for _ in range(count):
        start = pos
        _, pos = READERS[buf[pos]](buf, pos + 1, 1)
        parts.append(buf[start:pos])
    return parts


def pairs_without(buf: bytes, value: int, removed: Container[str]) -> list[bytes]:
    """Return the encoded keys and values of the map at `value`, without some keys."""
    return _without(parts_of(buf, value), removed)


def _without(parts: Sequence[bytes], removed: Container[str]) -> list[bytes]:
    kept: list[bytes] = []
    for key, item in zip(parts[::2], parts[1::2], strict=True):
        name, _ = READERS[key[0]](key, 1, 0)
        if name not in removed:
            kept += [key, item]
    return kept


def stored(payload: bytes) -> bytes:
    """Return the form in which a broker keeps a message, beside its body.

    Annotations of brokers and the delivery count are left out. So is the body, if it is one data section and the last one:
    then it is the message's body in bytes. A message without a body gets the value null. Delivery annotations may stand
    anywhere, since the Python SDK puts them behind the body.

    Raises:
        MalformedFrameError: The payload is not an AMQP 1.0 message.
    """
    try:
        noted, sections = _divided(list(each_section(payload)))
        is_plain = [each.code for each in sections[-1:]] == [DATA] and sum(each.code == DATA for each in sections) == 1
        if is_plain:
            return b"".join(_stored(payload, [*noted, *sections[:-1]]))
        footers = [each for each in sections if each.code == _FOOTER]
        before = sections[: len(sections) - len(footers)]
        has_body = any(each.code >= DATA for each in before)
        return b"".join(
            [
                *_stored(payload, [*noted, *before]),
                *([] if has_body else [NULL_BODY]),
                *_stored(payload, footers),
            ]
        )
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error


def _divided(sections: Sequence[Section]) -> tuple[list[Section], list[Section]]:
    """Return the delivery annotations, and the other sections, whose order is checked."""
    noted = [each for each in sections if each.code == DELIVERY_ANNOTATIONS]
    others = [each for each in sections if each.code != DELIVERY_ANNOTATIONS]
    if len(noted) > 1:
        raise MalformedFrameError(f"a message has {len(noted)} sections of delivery annotations")
    _check_order([each.code for each in others])
    return noted, others


def _check_order(codes: Sequence[int]) -> None:
    """Check that sections are known, in their order, and there once, except for data and sequences (§3.2)."""
    for code, following in zip(codes, [*codes[1:], _FOOTER + 1], strict=True):
        if not HEADER <= code <= _FOOTER:
            raise MalformedFrameError(f"a message has no section 0x{code & 0xFF:02x}")
        if code > following or (code == following and code not in _REPEATED):
            raise MalformedFrameError(f"section 0x{following:02x} of a message comes after section 0x{code:02x}")


def _stored(buf: bytes, sections: Iterable[Section]) -> Iterator[bytes]:
    for section in sections:
        if section.code == HEADER:
            yield descriptor(HEADER) + fields_of(parts_of(buf, section.value)[:3])
        elif section.code in (ANNOTATIONS, DELIVERY_ANNOTATIONS):
            kept = pairs_without(buf, section.value, BROKERS_ANNOTATIONS)
            if kept:
                yield descriptor(section.code) + compound(0xC1, kept)
        else:
            yield buf[section.start : section.end]


def delivered(
    kept: bytes,
    body: bytes,
    *,
    failed_deliveries: int,
    annotations: Mapping[str, Any],
    properties: Mapping[str, str],
    message_id: str | None = None,
    lock_token: uuid.UUID | None = None,
) -> bytes:
    """Return the payload that delivers a message.

    Args:
        kept: The message as `stored` returned it, or a whole message.
        body: The message's body; used if `kept` has none.
        failed_deliveries: The number for the header's delivery count (§3.2.1).
        annotations: The annotations that the broker adds.
        properties: The application properties that the broker sets.
        message_id: The id that the broker gave the message; used if `kept` has none.
        lock_token: The token of the message's lock, if it is locked.

    Raises:
        MalformedFrameError: `kept` is not an AMQP 1.0 message.
    """
    try:
        sections = list(each_section(kept))
        codes = (HEADER, DELIVERY_ANNOTATIONS, ANNOTATIONS, APPLICATION_PROPERTIES)
        fields, carried, noted, applied = (_items(kept, sections, code) for code in codes)
        if properties:
            applied = _without(applied, properties)
        identified = _identified(kept, sections, message_id)
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error
    noted += [part for name, value in annotations.items() for part in (encode_value(Symbol(name)), encode_value(value))]
    applied += [part for name, value in properties.items() for part in (string(name), string(value))]
    durable, priority, ttl = exactly(fields, 3)
    count = encode_value(Uint(failed_deliveries))
    out = [descriptor(HEADER), compound(0xC0, [durable or NULL, priority or NULL, ttl or NULL, NULL, count])]
    if lock_token is not None:
        carried += [encode_value(Symbol("x-opt-lock-token")), encode_value(lock_token)]
    if carried:
        out += [descriptor(DELIVERY_ANNOTATIONS), compound(0xC1, carried)]
    out += [descriptor(ANNOTATIONS), compound(0xC1, noted)]
    out.append(identified)
    if properties:
        out += [descriptor(APPLICATION_PROPERTIES), compound(0xC1, applied)]
    else:
        out += [kept[each.start : each.end] for each in sections if each.code == APPLICATION_PROPERTIES]
    bodies = [kept[each.start : each.end] for each in sections if each.code >= DATA]
    return b"".join([*out, *(bodies or [descriptor(DATA), sized(0xA0, body)])])


def _identified(kept: bytes, sections: Sequence[Section], message_id: str | None) -> bytes:
    """Return the section "properties" (§3.2.4), whose first field is the message's id, with an id if it has none."""
    given = next((each for each in sections if each.code == PROPERTIES), None)
    if message_id is None or (given is not None and given.content and given.content[0] is not None):
        return b"" if given is None else kept[given.start : given.end]
    fields = [] if given is None else parts_of(kept, given.value)
    return descriptor(PROPERTIES) + fields_of((string(message_id), *fields[1:]))


def with_properties(kept: bytes, properties: Mapping[str, Any]) -> bytes:
    """Return a message as `stored` returned it, with further application properties, or other values of those that it has.

    Raises:
        MalformedFrameError: `kept` is not an AMQP 1.0 message.
    """
    try:
        sections = list(each_section(kept))
        applied = _without(_items(kept, sections, APPLICATION_PROPERTIES), properties)
    except NONSENSE as error:
        raise MalformedFrameError(f"a message is malformed: {error}") from error
    applied += [part for name, value in properties.items() for part in (string(name), encode_value(value))]
    before = [kept[each.start : each.end] for each in sections if each.code < APPLICATION_PROPERTIES]
    behind = [kept[each.start : each.end] for each in sections if each.code > APPLICATION_PROPERTIES]
    return b"".join([*before, descriptor(APPLICATION_PROPERTIES), compound(0xC1, applied), *behind])


def _items(buf: bytes, sections: Iterable[Section], code: int) -> list[bytes]:
    """Return the encoded items of the first section with a code."""
    return next((parts_of(buf, each.value) for each in sections if each.code == code), [])
