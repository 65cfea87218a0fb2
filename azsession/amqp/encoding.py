"""Python values as the bytes of AMQP values (AMQP 1.0 §1.6). `frames`, `outcomes` and `message` build on this module."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .types import Array, Long, Symbol, Timestamp, Uint, Ulong

#: The encoded null, false and true.
NULL, FALSE, TRUE = b"\x40", b"\x42", b"\x41"

_CODE_AND_UINT, _CODE_AND_INT = struct.Struct(">BI"), struct.Struct(">Bi")
_CODE_AND_ULONG, _CODE_AND_LONG = struct.Struct(">BQ"), struct.Struct(">Bq")
_CODE_AND_DOUBLE = struct.Struct(">Bd")
_SIZE_AND_COUNT = struct.Struct(">BII")


def sized(code: int, data: bytes) -> bytes:
    """Return a binary (`code` is 0xA0), string (0xA1) or symbol (0xA3)."""
    if len(data) < 256:
        return bytes((code, len(data))) + data
    return _CODE_AND_UINT.pack(code + 0x10, len(data)) + data


def compound(code: int, items: Sequence[bytes]) -> bytes:
    """Return a list (`code` is 0xC0) or map (0xC1) of encoded items; a map's items are its keys and values in turn."""
    content, count = b"".join(items), len(items)
    if len(content) < 255 and count < 256:
        return bytes((code, len(content) + 1, count)) + content
    return _SIZE_AND_COUNT.pack(code + 0x10, len(content) + 4, count) + content


def fields_of(values: Iterable[bytes]) -> bytes:
    """Return the list of a composite type's encoded fields, without the nulls at its end (§1.4)."""
    fields = list(values)
    while fields and fields[-1] == NULL:
        fields.pop()
    return compound(0xC0, fields)


def descriptor(code: int) -> bytes:
    """Return a numeric descriptor below 256, which comes before the value that it describes (§1.2)."""
    return bytes((0x00, 0x53, code))


def described(code: int, value: bytes) -> bytes:
    """Return an encoded value with its descriptor."""
    return descriptor(code) + value


def string(value: str | None) -> bytes:
    """Return a string or null. `encode_value` gives the same bytes; this function is faster."""
    return NULL if value is None else sized(0xA1, value.encode())


def ubyte(value: int) -> bytes:
    """Return an unsigned 8-bit number."""
    return bytes((0x50, value))


def ushort(value: int) -> bytes:
    """Return an unsigned 16-bit number."""
    return b"\x60" + value.to_bytes(2, "big")


def symbol_map(entries: Mapping[str, Any]) -> bytes:
    """Return a map whose keys are symbols: the types "fields" and "annotations" (§2.8.13, §3.2.10)."""
    return compound(0xC1, [part for key, value in entries.items() for part in (_symbol(key), encode_value(value))])


def string_map(entries: Mapping[str, Any]) -> bytes:
    """Return a map whose keys are strings."""
    return compound(0xC1, [part for key, value in entries.items() for part in (string(key), encode_value(value))])


def encode_value(value: Any) -> bytes:
    """Return a value as AMQP bytes; its Python type decides the AMQP type.

    Raises:
        TypeError: AMQP has no type for it, or an array mixes types.
        ValueError: It does not fit its AMQP type.
    """
    encode = _ENCODERS.get(type(value))
    if encode is None:
        encode = next((_ENCODERS[kind] for kind in type(value).__mro__ if kind in _ENCODERS), None)
        if encode is None:
            raise TypeError(f"AMQP has no type for a {type(value).__name__}")
    try:
        return encode(value)
    except struct.error as error:
        raise ValueError(f"{value} does not fit the AMQP type of a {type(value).__name__}") from error


def _boolean(value: bool) -> bytes:
    return TRUE if value else FALSE


def _symbol(value: str) -> bytes:
    return sized(0xA3, value.encode())


def _int(value: int) -> bytes:
    return bytes((0x54, value & 0xFF)) if -128 <= value < 128 else _CODE_AND_INT.pack(0x71, value)


def _long(value: int) -> bytes:
    return bytes((0x55, value & 0xFF)) if -128 <= value < 128 else _CODE_AND_LONG.pack(0x81, value)


def _uint(value: int) -> bytes:
    if value == 0:
        return b"\x43"
    return bytes((0x52, value)) if 0 < value < 256 else _CODE_AND_UINT.pack(0x70, value)


def _ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    return bytes((0x53, value)) if 0 < value < 256 else _CODE_AND_ULONG.pack(0x80, value)


def _list(values: Sequence[Any]) -> bytes:
    return compound(0xC0, [encode_value(value) for value in values]) if values else b"\x45"


def _map(entries: Mapping[Any, Any]) -> bytes:
    return compound(0xC1, [encode_value(one) for entry in entries.items() for one in entry])


def _array(values: Array) -> bytes:
    """Return an array: one constructor for all elements, then their data (§1.6.24)."""
    kinds = {type(value) for value in values}
    if len(kinds) != 1 or not kinds <= _ARRAY_ELEMENTS.keys():
        found, known = (", ".join(sorted(kind.__name__ for kind in some)) for some in (kinds, _ARRAY_ELEMENTS))
        raise TypeError(f"an array needs elements of one type of {known}; it has {found or 'no elements'}")
    constructor, data_of = _ARRAY_ELEMENTS[kinds.pop()]
    content, count = constructor + b"".join([data_of(value) for value in values]), len(values)
    if len(content) < 255 and count < 256:
        return bytes((0xE0, len(content) + 1, count)) + content
    return _SIZE_AND_COUNT.pack(0xF0, len(content) + 4, count) + content


#: For each type that may be in an array, its constructor and the encoder of an element.
_ARRAY_ELEMENTS: dict[type, tuple[bytes, Callable[[Any], bytes]]] = {
    Long: (b"\x81", struct.Struct(">q").pack),
    Symbol: (b"\xb3", lambda value: len(value).to_bytes(4, "big") + value.encode("ascii")),
    str: (b"\xb1", lambda value: len(data := value.encode()).to_bytes(4, "big") + data),
    Timestamp: (b"\x83", struct.Struct(">q").pack),
    uuid.UUID: (b"\x98", lambda value: value.bytes),
}

_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: NULL,
    bool: _boolean,
    int: _int,
    float: lambda value: _CODE_AND_DOUBLE.pack(0x82, value),
    str: string,
    bytes: lambda value: sized(0xA0, value),
    bytearray: lambda value: sized(0xA0, value),
    uuid.UUID: lambda value: b"\x98" + value.bytes,
    list: _list,
    dict: _map,
    Uint: _uint,
    Ulong: _ulong,
    Long: _long,
    Timestamp: lambda value: _CODE_AND_LONG.pack(0x83, value),
    Symbol: _symbol,
    Array: _array,
}
