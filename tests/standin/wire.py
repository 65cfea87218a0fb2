"""The AMQP bytes that proton hides or would change: messages, frame headers and SASL."""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

HEADER, DELIVERY_ANNOTATIONS, ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES, DATA = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75
NULL = b"\x40"
#: Annotations that only the broker sets; a sender's values are dropped.
OWNED = {
    "x-opt-sequence-number",
    "x-opt-enqueued-time",
    "x-opt-locked-until",
    "x-opt-message-state",
    "x-opt-enqueue-sequence-number",
    "x-opt-deadletter-source",
}

_FIXED = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_NUMBERS = {
    0x50: ">B", 0x51: ">b", 0x52: ">B", 0x53: ">B", 0x54: ">b", 0x55: ">b", 0x56: ">?", 0x60: ">H", 0x61: ">h",
    0x70: ">I", 0x71: ">i", 0x72: ">f", 0x80: ">Q", 0x81: ">q", 0x82: ">d", 0x83: ">q",
}  # fmt: skip


def skip(data: bytes, at: int) -> int:
    """Return the end of the value that begins at `at`."""
    code = data[at]
    if code == 0:
        return skip(data, skip(data, at + 1))
    width = _FIXED.get(code >> 4)
    if width is not None:
        return at + 1 + width
    if code >> 4 in (0xA, 0xC, 0xE):
        return at + 2 + data[at + 1]
    return at + 5 + int(struct.unpack_from(">I", data, at + 1)[0])


def scalar(data: bytes, at: int) -> Any:
    """Return the value at `at`, which must not be a list, map or array."""
    code = data[at]
    if code in (0x40, 0x41, 0x42):
        return {0x40: None, 0x41: True, 0x42: False}[code]
    if code in (0x43, 0x44):
        return 0
    if code in _NUMBERS:
        return struct.unpack_from(_NUMBERS[code], data, at + 1)[0]
    if code == 0x98:
        return uuid.UUID(bytes=bytes(data[at + 1 : at + 17]))
    start = at + (2 if code >> 4 == 0xA else 5)
    raw = bytes(data[start : skip(data, at)])
    return raw if code in (0xA0, 0xB0) else raw.decode()


def items(data: bytes, at: int) -> list[tuple[int, int]]:
    """Return the begin and end of each item of the list or map at `at`."""
    code = data[at]
    if code == 0x45:
        return []
    if code in (0xC0, 0xC1):
        count, at = data[at + 2], at + 3
    else:
        count, at = struct.unpack_from(">I", data, at + 5)[0], at + 9
    found = []
    for _ in range(count):
        end = skip(data, at)
        found.append((at, end))
        at = end
    return found


def sections(data: bytes) -> list[tuple[int, int, int, int]]:
    """Return the code, begin, begin of the value, and end of each section of an encoded message."""
    found, at = [], 0
    while at < len(data):
        value = skip(data, at + 1)
        end = skip(data, value)
        found.append((scalar(data, at + 1), at, value, end))
        at = end
    return found


def string(text: str) -> bytes:
    raw = text.encode()
    return bytes((0xA1, len(raw))) + raw if len(raw) < 256 else b"\xb1" + struct.pack(">I", len(raw)) + raw


def symbol(text: str) -> bytes:
    return bytes((0xA3, len(text))) + text.encode("ascii")


def long(value: int) -> bytes:
    return b"\x81" + struct.pack(">q", value)


def timestamp(value: int) -> bytes:
    return b"\x83" + struct.pack(">q", value)


_SEQUENCE_NUMBER = symbol("x-opt-sequence-number")
_ENQUEUED = symbol("x-opt-enqueued-time")
_LOCKED_UNTIL = symbol("x-opt-locked-until")
_STATE = symbol("x-opt-message-state")
_ENQUEUE_NUMBER = symbol("x-opt-enqueue-sequence-number")
_SOURCE = symbol("x-opt-deadletter-source")
#: The delivery annotations up to the UUID: a map with one pair.
_TOKEN_KEY = symbol("x-opt-lock-token")
_TOKEN_SECTION = b"\x00\x53\x71\xc1" + bytes((1 + len(_TOKEN_KEY) + 17, 2)) + _TOKEN_KEY + b"\x98"


@dataclass(slots=True)
class Content:
    """A message as it was sent, in encoded pieces, so that its own parts are delivered bit for bit."""

    header: tuple[bytes, bytes, bytes]
    annotations: list[bytes]
    properties: bytes
    application: list[bytes]
    #: The section of application properties as it was sent, `None` after a change.
    application_section: bytes | None
    body: bytes
    message_id: Any = None
    session_id: str | None = None
    partition_key: str | None = None
    ttl: int | None = None
    absolute_expiry: int | None = None
    scheduled: int | None = None
    size: int = 0

    def with_application(self, added: dict[str, bytes]) -> Content:
        """Return the content with these application properties, whose values are encoded, set."""
        changed = {scalar(pair, 0): pair for pair in self.application}
        changed.update({name: string(name) + value for name, value in added.items()})
        pieces = {name: getattr(self, name) for name in self.__slots__}
        return Content(**{**pieces, "application": list(changed.values()), "application_section": None})

    def encode(
        self,
        deliveries: int,
        number: int,
        enqueued: int,
        *,
        token: uuid.UUID | None = None,
        locked_until: int | None = None,
        state: int | None = None,
        enqueue_number: int | None = None,
        source: str | None = None,
    ) -> bytes:
        """Return the encoded message for a receiver."""
        fields = b"".join((*self.header, NULL, b"\x43" if not deliveries else b"\x70" + struct.pack(">I", deliveries)))
        pairs = [*self.annotations, _SEQUENCE_NUMBER, long(number), _ENQUEUED, timestamp(enqueued)]
        pairs += _ENQUEUE_NUMBER, long(number if enqueue_number is None else enqueue_number)
        if locked_until is not None:
            pairs += _LOCKED_UNTIL, timestamp(locked_until)
        if state is not None:
            pairs += _STATE, b"\x71" + struct.pack(">i", state)
        if source is not None:
            pairs += _SOURCE, string(source)
        annotated = b"".join(pairs)
        # The sender's annotations are whole pairs; the others are keys and values.
        count = len(pairs) + len(self.annotations)
        application = self.application_section
        if application is None:
            joined = b"".join(self.application)
            application = b"\x00\x53\x74\xd1" + struct.pack(">II", len(joined) + 4, 2 * len(self.application)) + joined
        return b"".join(
            (
                b"\x00\x53\x70\xc0",
                bytes((len(fields) + 1, 5)),
                fields,
                b"" if token is None else _TOKEN_SECTION + token.bytes,
                b"\x00\x53\x72\xd1",
                struct.pack(">II", len(annotated) + 4, count),
                annotated,
                self.properties,
                application,
                self.body,
            )
        )


def parse(data: bytes) -> Content:
    """Return the content of an encoded message."""
    content = Content((NULL, NULL, NULL), [], b"", [], b"", b"", size=len(data))
    for code, start, value, end in sections(data):
        if code == HEADER:
            raw = [data[a:b] for a, b in items(data, value)] + [NULL] * 3
            content.header = (raw[0], raw[1], raw[2])
            content.ttl = scalar(raw[2], 0)
        elif code == ANNOTATIONS:
            places = items(data, value)
            for (key, key_end), (_, value_end) in zip(places[::2], places[1::2], strict=True):
                name = scalar(data, key)
                if name == "x-opt-scheduled-enqueue-time":
                    content.scheduled = scalar(data, key_end)
                elif name == "x-opt-partition-key":
                    content.partition_key = scalar(data, key_end)
                if name not in OWNED:
                    content.annotations.append(data[key:value_end])
        elif code == PROPERTIES:
            fields = items(data, value)
            known = {n: scalar(data, a) for n, (a, _) in enumerate(fields) if n in (0, 8, 10)}
            content.message_id, content.absolute_expiry, content.session_id = known.get(0), known.get(8), known.get(10)
            content.properties = data[start:end]
        elif code == APPLICATION_PROPERTIES:
            places = items(data, value)
            content.application = [data[a:b] for (a, _), (_, b) in zip(places[::2], places[1::2], strict=True)]
            content.application_section = data[start:end]
        elif code >= DATA:
            content.body = data[start:]
            break
    return content


def parse_batch(data: bytes) -> list[Content]:
    """Return the messages in a batch (format 0x80013700), in which each data section is an encoded message."""
    return [parse(scalar(data, value)) for code, _, value, _ in sections(data) if code == DATA]


# Frames

NAMES = {
    0x10: "open", 0x11: "begin", 0x12: "attach", 0x13: "flow", 0x14: "transfer",
    0x15: "disposition", 0x16: "detach", 0x17: "end", 0x18: "close",
}  # fmt: skip
BATCHED = 0x80013700


class FrameWatch:
    """Reads the frames of a client for details that proton hides: link handles and message formats."""

    def __init__(self, log: Counter[str]) -> None:
        self._log = log
        self._rest = b""
        self._names: dict[tuple[int, int], str] = {}
        self.highest_handle = -1
        #: The link name and delivery tag of batches that are not read yet.
        self.batches: set[tuple[str, bytes]] = set()

    def feed(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while size - at >= 8:
            length = int.from_bytes(data[at : at + 4], "big")
            if size - at < length or length < 8:
                break
            start = at + data[at + 4] * 4
            if length > 8 and data[start : start + 2] == b"\x00\x53":
                code = data[start + 2]
                self._log[NAMES.get(code, "unknown")] += 1
                if code in (0x12, 0x14):
                    self._look(code, data, start + 3, int.from_bytes(data[at + 6 : at + 8], "big"))
            at += length
        self._rest = data[at:]

    def _look(self, code: int, data: bytes, at: int, channel: int) -> None:
        at += 3 if data[at] == 0xC0 else 9
        first = scalar(data, at)
        at = skip(data, at)
        if code == 0x12:
            handle = scalar(data, at)
            self._names[channel, handle] = first
            self.highest_handle = max(self.highest_handle, handle)
            return
        at = skip(data, at)
        tag_at, at = at, skip(data, at)
        if data[at : at + 5] == b"\x70\x80\x01\x37\x00":
            self.batches.add((self._names.get((channel, first), ""), scalar(data, tag_at)))


def with_handle_max(frames: bytes, handle_max: int) -> bytes:
    """Return whole frames with a handle-max in each begin, which proton leaves out."""
    out, at = [], 0
    while at < len(frames):
        if frames[at : at + 4] == b"AMQP":
            out.append(frames[at : at + 8])
            at += 8
            continue
        length = int.from_bytes(frames[at : at + 4], "big")
        frame = frames[at : at + length]
        start = frame[4] * 4
        if length > 8 and frame[start : start + 3] == b"\x00\x53\x11":
            fields = [frame[a:b] for a, b in items(frame, start + 3)]
            fields = [*fields[:4], b"\x70" + struct.pack(">I", handle_max), *fields[5:]]
            body = b"".join(fields)
            frame = frame[4 : start + 3] + b"\xd0" + struct.pack(">II", len(body) + 4, len(fields)) + body
            frame = struct.pack(">I", len(frame) + 4) + frame
        out.append(frame)
        at += length
    return b"".join(out)


# SASL is hand-written, because proton offers only the mechanisms that it knows.

SASL_HEADER = b"AMQP\x03\x01\x00\x00"
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"


def _sasl_frame(body: bytes) -> bytes:
    return struct.pack(">IBBH", len(body) + 8, 2, 1, 0) + body


def sasl_mechanisms(*names: str) -> bytes:
    joined = b"".join(bytes((len(name),)) + name.encode() for name in names)
    array = b"\xe0" + bytes((len(joined) + 2, len(names), 0xA3)) + joined
    return _sasl_frame(b"\x00\x53\x40\xc0" + bytes((len(array) + 1, 1)) + array)


def sasl_outcome(code: int) -> bytes:
    return _sasl_frame(b"\x00\x53\x44\xc0\x03\x01\x50" + bytes((code,)))


def sasl_mechanism(frame: bytes) -> str:
    """Return the mechanism in a sasl-init frame."""
    return str(scalar(frame, items(frame, frame[4] * 4 + 3)[0][0]))
