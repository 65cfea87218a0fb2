"""How the public value classes show themselves: a short `repr`, and a table for notebooks. Neither shows a body or a key.

`plural` is for all texts with a number.
"""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The most characters of one value.
_MAX_SHOWN = 80


def _shown(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z").replace(".000", "")
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _fields(instance: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each field of an attrs instance that differs from the field's default."""
    for field in attrs.fields(type(instance)):
        value = getattr(instance, field.name)
        # The default of an empty dict is a factory.
        if field.repr is False or value in (field.default, {}):
            continue
        yield field.name, field.repr(value) if callable(field.repr) else _shown(value)


def short_repr(instance: object) -> str:
    """Return the class and the fields that differ from their defaults. An attrs class can have it as ``__repr__``."""
    return f"{type(instance).__name__}({', '.join(f'{name}={text}' for name, text in _fields(instance))})"


def html_table(instance: object) -> str:
    """Return the same as a table. An attrs class can have it as ``_repr_html_``, which notebooks call."""
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in _fields(instance))
    caption = f"<caption>{escape(type(instance).__name__)}</caption>"
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, for example ``1 message`` or ``2 messages``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
