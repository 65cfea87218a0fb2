"""The bytes of AMQP values as Python values (AMQP 1.0 §1.6). `performatives` and `message` build on this module.

The official SDK's decoder does not fit: it gives strings, symbols and binary the same type, and timestamps and numbers,
and it accepts values that are cut short.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from .types import Described, MalformedFrameError, Timestamp

#: How deeply values may be nested.
_MAX_DEPTH = 32
#: How many elements of width zero an array may have, so that few bytes cannot become very many values.
_MAX_EMPTY_ELEMENTS = 64

# A reader takes the bytes, the position behind the constructor and the depth. It returns the value and the position behind
# the value.

_Reader = Callable[[bytes, int, int], tuple[Any, int]]


def _unknown(buf: bytes, pos: int, depth: int) -> tuple[Any, int]:
    raise MalformedFrameError(f"0x{buf[pos - 1]:02x} is not the code of an AMQP type")


def _constant(value: Any) -> _Reader:
    return lambda buf, pos, depth: (value, pos)


def _fixed(form: str) -> _Reader:
    packed = struct.Struct(form)
    unpack, size = packed.unpack_from, packed.size

    def read(buf: bytes, pos: int, depth: int) -> tuple[Any, int]:
        return unpack(buf, pos)[0], pos + size

    return read


def _octet(buf: bytes, pos: int, depth: int) -> tuple[int, int]:
    return buf[pos], pos + 1


def _boolean(buf: bytes, pos: int, depth: int) -> tuple[bool, int]:
    return buf[pos] != 0, pos + 1


def _timestamp(buf: bytes, pos: int, depth: int) -> tuple[Timestamp, int]:
    return Timestamp(_LONG.unpack_from(buf, pos)[0]), pos + 8


def _character(buf: bytes, pos: int, depth: int) -> tuple[str, int]:
    number = _UINT.unpack_from(buf, pos)[0]
    # Half of a surrogate pair is not a character, and could not be encoded again.
    return "\ufffd" if 0xD800 <= number < 0xE000 else chr(number), pos + 4


def _uuid(buf: bytes, pos: int, depth: int) -> tuple[uuid.UUID, int]:
    return uuid.UUID(bytes=buf[pos : pos + 16]), pos + 16


def _decimal(size: int, exponent_bits: int, bias: int) -> _Reader:
    """Return the reader of an IEEE 754 decimal in the binary integer encoding."""
    digits_bits = size * 8 - 1 - exponent_bits

    def read(buf: bytes, pos: int, depth: int) -> tuple[Decimal, int]:
        end = _within(buf, pos + size)
        bits = int.from_bytes(buf[pos:end], "big")
        sign = "-" if bits >> (size * 8 - 1) else ""
        kind = (bits >> (size * 8 - 6)) & 0b11111
        if kind >= 0b11110:
            return Decimal(sign + ("NaN" if kind == 0b11111 else "Infinity")), end
        if kind >= 0b11000:
            exponent = (bits >> (digits_bits - 2)) & ((1 << exponent_bits) - 1)
            digits = (0b100 << (digits_bits - 2)) | (bits & ((1 << (digits_bits - 2)) - 1))
        else:
            exponent = (bits >> digits_bits) & ((1 << exponent_bits) - 1)
            digits = bits & ((1 << digits_bits) - 1)
        return Decimal(f"{sign}{digits}E{exponent - bias}"), end

    return read


def _within(buf: bytes, end: int) -> int:
    if end > len(buf):
        raise MalformedFrameError(f"a value ends at byte {end}, behind the {len(buf)} bytes there are")
    return end


def _binary8(buf: bytes, pos: int, depth: int) -> tuple[bytes, int]:
    start = pos + 1
    end = start + buf[pos]
    if end > len(buf):
        _within(buf, end)
    return buf[start:end], end


def _binary32(buf: bytes, pos: int, depth: int) -> tuple[bytes, int]:
    start = pos + 4
    end = _within(buf, start + _UINT.unpack_from(buf, pos)[0])
    return buf[start:end], end


def _text8(buf: bytes, pos: int, depth: int) -> tuple[str, int]:
    start = pos + 1
    end = start + buf[pos]
    if end > len(buf):
        _within(buf, end)
    return buf[start:end].decode("utf-8", "replace"), end


def _text32(buf: bytes, pos: int, depth: int) -> tuple[str, int]:
    start = pos + 4
    end = _within(buf, start + _UINT.unpack_from(buf, pos)[0])
    return buf[start:end].decode("utf-8", "replace"), end


def _size8(buf: bytes, pos: int) -> tuple[int, int, int]:
    """Return the count, the start of the elements and the end of a compound value."""
    return buf[pos + 1], pos + 2, pos + 1 + buf[pos]


def _size32(buf: bytes, pos: int) -> tuple[int, int, int]:
    size, count = _TWO_UINTS.unpack_from(buf, pos)
    return count, pos + 8, pos + 4 + size


def _not_fitting(count: int, depth: int) -> MalformedFrameError:
    if depth >= _MAX_DEPTH:
        return MalformedFrameError(f"values are nested more than {_MAX_DEPTH} deep")
    return MalformedFrameError(f"a list, map or array of {count} elements does not fit into the bytes there are")


def _list(bounds: Callable[[bytes, int], tuple[int, int, int]]) -> _Reader:
    def read(buf: bytes, pos: int, depth: int) -> tuple[list[Any], int]:
        count, pos, end = bounds(buf, pos)
        if end > len(buf) or count > end - pos or depth >= _MAX_DEPTH:
            raise _not_fitting(count, depth)
        values: list[Any] = []
        depth += 1
        for _ in range(count):
            code = buf[pos]
            if code == 0x40:
                # A shortcut without a call: most fields that Azure sends are null.
                values.append(None)
                pos += 1
                continue
            if code == 0xA1:
                # A shortcut for short strings; the check after the loop finds a string that is too long.
                start = pos + 2
                pos = start + buf[pos + 1]
                values.append(buf[start:pos].decode("utf-8", "replace"))
                continue
            value, pos = READERS[code](buf, pos + 1, depth)
            values.append(value)
        if pos > end:
            raise MalformedFrameError("the elements of a list are longer than the list")
        return values, end

    return read


def _map(bounds: Callable[[bytes, int], tuple[int, int, int]]) -> _Reader:
    unpack_long = struct.Struct(">q").unpack_from

    def read(buf: bytes, pos: int, depth: int) -> tuple[dict[Any, Any], int]:
        count, pos, end = bounds(buf, pos)
        if end > len(buf) or count > end - pos or depth >= _MAX_DEPTH:
            raise _not_fitting(count, depth)
        if count % 2:
            raise MalformedFrameError(f"a map has {count} items: its last key has no value")
        values = {}
        depth += 1
        for _ in range(count // 2):
            code = buf[pos]
            if code == 0xA1 or code == 0xA3:
                start = pos + 2
                pos = start + buf[pos + 1]
                key = buf[start:pos].decode("utf-8", "replace")
            else:
                key, pos = READERS[code](buf, pos + 1, depth)
            code = buf[pos]
            if code == 0x83 or code == 0x81:
                # A shortcut without a call: most annotations that Azure sets are timestamps and longs.
                number = unpack_long(buf, pos + 1)[0]
                values[key] = Timestamp(number) if code == 0x83 else number
                pos += 9
            else:
                values[key], pos = READERS[code](buf, pos + 1, depth)
        if pos > end:
            raise MalformedFrameError("the entries of a map are longer than the map")
        return values, end

    return read


def _array(bounds: Callable[[bytes, int], tuple[int, int, int]]) -> _Reader:
    def read(buf: bytes, pos: int, depth: int) -> tuple[list[Any], int]:
        count, pos, end = bounds(buf, pos)
        if end > len(buf) or min(count, 1) > end - pos or depth >= _MAX_DEPTH:
            raise _not_fitting(count, depth)
        if not count:
            return [], end
        descriptor, described = None, buf[pos] == 0
        if described:
            descriptor, pos = READERS[buf[pos + 1]](buf, pos + 2, depth + 1)
        code, pos = buf[pos], pos + 1
        # All elements have this type; only elements of width zero (codes 0x4?) need no bytes.
        if count > (_MAX_EMPTY_ELEMENTS if code >> 4 == 4 else end - pos):
            raise MalformedFrameError(f"an array of {count} elements does not fit into the bytes there are")
        reader, values = READERS[code], []
        for _ in range(count):
            value, pos = reader(buf, pos, depth + 1)
            values.append(Described(descriptor, value) if described else value)
        if pos > end:
            raise MalformedFrameError("the elements of an array are longer than the array")
        return values, end

    return read


def _described(buf: bytes, pos: int, depth: int) -> tuple[Described, int]:
    if depth >= _MAX_DEPTH:
        raise MalformedFrameError(f"values are nested more than {_MAX_DEPTH} deep")
    descriptor, pos = READERS[buf[pos]](buf, pos + 1, depth + 1)
    value, pos = READERS[buf[pos]](buf, pos + 1, depth + 1)
    return Described(descriptor, value), pos


_UINT = struct.Struct(">I")
_LONG = struct.Struct(">q")
_TWO_UINTS = struct.Struct(">II")

READERS: list[_Reader] = [_unknown] * 256
for _code, _reader in {
    0x00: _described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(0),
    0x44: _constant(0),
    0x45: lambda buf, pos, depth: ([], pos),
    0x50: _octet,
    0x51: _fixed(">b"),
    0x52: _octet,
    0x53: _octet,
    0x54: _fixed(">b"),
    0x55: _fixed(">b"),
    0x56: _boolean,
    0x60: _fixed(">H"),
    0x61: _fixed(">h"),
    0x70: _fixed(">I"),
    0x71: _fixed(">i"),
    0x72: _fixed(">f"),
    0x73: _character,
    0x74: _decimal(4, 8, 101),
    0x80: _fixed(">Q"),
    0x81: _fixed(">q"),
    0x82: _fixed(">d"),
    0x83: _timestamp,
    0x84: _decimal(8, 10, 398),
    0x94: _decimal(16, 14, 6176),
    0x98: _uuid,
    0xA0: _binary8,
    0xA1: _text8,
    0xA3: _text8,
    0xB0: _binary32,
    0xB1: _text32,
    0xB3: _text32,
    0xC0: _list(_size8),
    0xC1: _map(_size8),
    0xD0: _list(_size32),
    0xD1: _map(_size32),
    0xE0: _array(_size8),
    0xF0: _array(_size32),
}.items():
    READERS[_code] = _reader

#: The errors that readers raise for malformed bytes, besides `MalformedFrameError`.
NONSENSE = (IndexError, KeyError, TypeError, ValueError, OverflowError, ArithmeticError, RecursionError, struct.error)

#: Descriptors may also be symbols (§1.2); Service Bus sends numbers.
_SYMBOLS = {
    "amqp:open:list": 0x10,
    "amqp:begin:list": 0x11,
    "amqp:attach:list": 0x12,
    "amqp:flow:list": 0x13,
    "amqp:transfer:list": 0x14,
    "amqp:disposition:list": 0x15,
    "amqp:detach:list": 0x16,
    "amqp:end:list": 0x17,
    "amqp:close:list": 0x18,
    "amqp:sasl-mechanisms:list": 0x40,
    "amqp:sasl-outcome:list": 0x44,
    "amqp:coordinator:list": 0x30,
    "amqp:sasl-init:list": 0x41,
    "amqp:received:list": 0x23,
    "amqp:accepted:list": 0x24,
    "amqp:rejected:list": 0x25,
    "amqp:released:list": 0x26,
    "amqp:modified:list": 0x27,
    "amqp:header:list": 0x70,
    "amqp:delivery-annotations:map": 0x71,
    "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73,
    "amqp:application-properties:map": 0x74,
    "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": 0x78,
}


def read_descriptor(buf: bytes, pos: int) -> tuple[int, int]:
    """Return the descriptor at `pos` as a number, and the position behind the descriptor.

    Raises:
        MalformedFrameError: There is no descriptor at `pos`.
    """
    if buf[pos] != 0:
        raise MalformedFrameError(f"a performative or section begins with 0x{buf[pos]:02x}, not with a descriptor")
    if buf[pos + 1] == 0x53:
        return buf[pos + 2], pos + 3
    descriptor, pos = READERS[buf[pos + 1]](buf, pos + 2, 0)
    return code_of(descriptor), pos


def code_of(descriptor: Any) -> int:
    """Return a descriptor as a number, -1 if it is unknown."""
    return descriptor if isinstance(descriptor, int) else _SYMBOLS.get(descriptor, -1)


def exactly(values: Sequence[Any], count: int) -> Sequence[Any]:
    """Return exactly `count` fields: fields missing at the end are null (§1.4)."""
    length = len(values)
    if length >= count:
        return values if length == count else values[:count]
    return [*values, *_NULLS[length:count]]


#: As many nulls as a performative or section has fields at most.
_NULLS = (None,) * 16
