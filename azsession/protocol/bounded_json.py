"""A JSON parser for large texts that stops early when a text has too many values. `wire` uses it.

The time to parse JSON depends on the number of its values more than on its length: 16 MB of empty arrays take seconds, 16 MB
of text take milliseconds. `json` parses a text in one step that no other thread can interrupt.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

#: The most values in a text: strings, numbers, constants, arrays and objects.
MAX_VALUES = 65_536
#: The most arrays and objects inside each other.
MAX_DEPTH = 100

_BLANKS = re.compile(r"[ \t\n\r]*")


#: Characters from which the number of values is limited.
_LARGE = 256 * 1024
#: Characters of a text that may be parsed in one step if it has few values.
_WHOLE = 4 * _LARGE
#: Characters in which an element is looked for as a whole. They hold too few values to take long.
_WINDOW = 8 * 1024
#: The most digits of a whole number. Python needs quadratic time to parse a number.
_MAX_DIGITS = 400


def _whole_number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


#: Parses JSON of RFC 8259: no NaN or Infinity, and no number that takes long to parse.
_JSON = json.JSONDecoder(parse_int=_whole_number, parse_constant=_no_constant)


def parse_json(data: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, or it is large and has more than `MAX_VALUES` values.
        RecursionError: The text has too many arrays or objects inside each other.
    """
    text = data if isinstance(data, str) else _decode(data)
    return _JSON.decode(text) if _is_quick(text) else _BoundedParser(text).value()


def json_items(data: bytes) -> Iterator[Any]:
    """Return the elements of a JSON array one by one. In a large text, each may have `MAX_VALUES` values.

    Raises:
        ValueError: The text is not a JSON array, or an element has too many values.
        RecursionError: The text has too many arrays or objects inside each other.
    """
    text = _decode(data)
    if not _is_quick(text):
        yield from _BoundedParser(text).items()
        return
    items = _JSON.decode(text)
    if not isinstance(items, list):
        raise ValueError("the text is not an array")
    yield from items


def json_object_with_items(data: bytes, items: str) -> Any:
    """Return the value of a JSON text. If it is an object, each element of its member `items` may have `MAX_VALUES` values.

    Raises:
        ValueError: The text is not JSON, or it is large and has too many values.
        RecursionError: The text has too many arrays or objects inside each other.
    """
    text = _decode(data)
    return _JSON.decode(text) if _is_quick(text) else _BoundedParser(text, items).value()


def _is_quick(text: str) -> bool:
    """Return whether a text may be parsed in one step: it is short, or surely has at most `MAX_VALUES` values."""
    if len(text) <= _LARGE:
        return True
    # Each value but the first comes behind one of these characters. Those inside strings count, too.
    return len(text) <= _WHOLE and text.count(",") + text.count("[") + text.count("{") < MAX_VALUES


def _decode(data: bytes) -> str:
    # Not the codec "utf-8-sig": its first use imports a module, and a process that is forked meanwhile can deadlock.
    return data.removeprefix(codecs.BOM_UTF8).decode()


class _BoundedParser:
    """Parses a text.

    Args:
        text: The text.
        items: The member of the outermost object whose elements are counted one by one; `None` if there is no such member.
    """

    def __init__(self, text: str, items: str | None = None) -> None:
        self._text = text
        self._items_name = items
        self._left = MAX_VALUES

    def value(self) -> Any:
        """Return the value of the whole text."""
        value, at = self._value(self._skip(0), 0)
        self._expect_end(at)
        return value

    def items(self) -> Iterator[Any]:
        """Return the elements of the array in the text one by one."""
        at = self._skip(0)
        if self._text[at : at + 1] != "[":
            raise ValueError("the text is not an array")
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "]":
            self._expect_end(at + 1)
            return
        while True:
            self._left = MAX_VALUES
            value, at = self._element(at, 1)
            yield value
            at, ends = self._next(at, "]")
            if ends:
                self._expect_end(at)
                return

    def _element(self, at: int, depth: int) -> tuple[Any, int]:
        """Return an element whose values are counted for itself. A short one, such as a usual message, is not counted."""
        if self._text[at : at + 1] in ("{", '"'):
            # Only of these, the beginning is never a value of its own.
            try:
                value, length = _JSON.raw_decode(self._text[at : at + _WINDOW])
            except (ValueError, RecursionError):
                pass  # The element is longer, or malformed.
            else:
                return value, at + length
        return self._value(at, depth)

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise ValueError("the text has too many values")
        first = self._text[at : at + 1]
        if first == "{":
            return self._object(self._skip(at + 1), depth + 1)
        if first == "[":
            return self._array(self._skip(at + 1), depth + 1)
        return _JSON.raw_decode(self._text, at)

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        text = self._text
        if text[at : at + 1] == "}":
            return found, at + 1
        while True:
            if text[at : at + 1] != '"':
                raise ValueError("a name is missing")
            name, at = _JSON.raw_decode(text, at)
            at = self._skip(at)
            if text[at : at + 1] != ":":
                raise ValueError("a colon is missing")
            at = self._skip(at + 1)
            if depth == 1 and name == self._items_name and text[at : at + 1] == "[":
                found[name], at = self._array(self._skip(at + 1), depth + 1, by_element=True)
            else:
                found[name], at = self._value(at, depth)
            at, ends = self._next(at, "}")
            if ends:
                return found, at

    def _array(self, at: int, depth: int, *, by_element: bool = False) -> tuple[list[Any], int]:
        """Return an array. `by_element`: each element may have `MAX_VALUES` values."""
        found: list[Any] = []
        if self._text[at : at + 1] == "]":
            return found, at + 1
        left = self._left
        while True:
            if by_element:
                self._left = MAX_VALUES
            value, at = self._element(at, depth) if by_element else self._value(at, depth)
            found.append(value)
            at, ends = self._next(at, "]")
            if ends:
                if by_element:
                    self._left = left
                return found, at

    def _next(self, at: int, end: str) -> tuple[int, bool]:
        """Skip the comma after an element, or the end of the array or object. Return where, and whether it was the end."""
        at = self._skip(at)
        found = self._text[at : at + 1]
        if found == ",":
            return self._skip(at + 1), False
        if found == end and end:
            return at + 1, True
        raise ValueError("a comma is missing")

    def _skip(self, at: int) -> int:
        if self._text[at : at + 1] > " ":
            return at  # The usual case: programs write few blanks.
        match = _BLANKS.match(self._text, at)
        return at if match is None else match.end()

    def _expect_end(self, at: int) -> None:
        if self._skip(at) != len(self._text):
            raise ValueError("the text goes on after its value")
