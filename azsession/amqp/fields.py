"""Checks for the fields of received performatives. `performatives` and `transfers` use them."""

from __future__ import annotations

from typing import Any

from .types import MalformedFrameError

#: The largest number of the AMQP type "uint".
UINT_MAX = 0xFFFFFFFF


def number(value: Any, default: int | None = None, highest: int = UINT_MAX) -> int:
    """Return a number from 0 to `highest`, or `default` for null.

    Raises:
        MalformedFrameError: The field is no such number.
    """
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise MalformedFrameError(f"a mandatory number is a {type(value).__name__}")
    if not 0 <= value <= highest:
        raise MalformedFrameError(f"a number is {value}, not 0 to {highest}")
    return value


def optional_number(value: Any, highest: int = UINT_MAX) -> int | None:
    """Return a number from 0 to `highest`, or `None` for null. Raises what `number` does."""
    return None if value is None else number(value, highest=highest)


def optional(value: Any, kind: type) -> Any:
    """Return a value of a Python type, or `None` for null.

    Raises:
        MalformedFrameError: The field has another type.
    """
    if value is not None and not isinstance(value, kind):
        raise MalformedFrameError(f"a field is a {type(value).__name__}, not a {kind.__name__}")
    return value
