"""Python classes for the AMQP types that Python has no type for (AMQP 1.0 §1.6), and the error for malformed bytes."""

from __future__ import annotations

from typing import Any, NamedTuple


class MalformedFrameError(Exception):
    """The peer sent bytes that are not AMQP 1.0."""


class Uint(int):
    """An unsigned 32-bit number."""

    __slots__ = ()


class Ulong(int):
    """An unsigned 64-bit number."""

    __slots__ = ()


class Long(int):
    """A signed 64-bit number. A plain `int` is sent as a signed 32-bit number."""

    __slots__ = ()


class Timestamp(int):
    """A point in time: milliseconds since 1970, UTC."""

    __slots__ = ()


class Symbol(str):
    """A name from a fixed set, in ASCII. A plain `str` is sent as a string."""

    __slots__ = ()


class Array(list[Any]):
    """Values that all have one type, for example `Array([Long(1), Long(2)])`. A plain `list` may mix types."""

    __slots__ = ()


class Described(NamedTuple):
    """A value with a descriptor, which gives the value its meaning (§1.2)."""

    descriptor: Any
    value: Any
