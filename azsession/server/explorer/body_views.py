"""The body of a message as text, as formatted JSON, and as hexadecimal bytes. `message_pages` shows one of them.

The work and the result are bounded, however large or strange the body is: the rest of a large body can be downloaded.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

import attrs

from .shown_text import visible

#: Bytes of a body that are shown as text or JSON, and as hexadecimal numbers.
MAX_SHOWN = 64 * 1024
MAX_HEX = 4 * 1024
#: Characters of formatted JSON: indentation makes a text longer.
MAX_FORMATTED = 256 * 1024
#: Parts of formatted JSON with a colour of their own.
MAX_PARTS = 8_000
#: Levels that are indented; deeper ones are not indented further.
MAX_INDENTED = 40
#: Bytes in a row of hexadecimal numbers.
_ROW = 16

_TOKEN = re.compile(
    r'\s*(?:(?P<text>"[^"\\]*(?:\\.[^"\\]*)*"?)|(?P<mark>[{}\[\],:])|(?P<word>[^\s{}\[\],:"]+))',
    re.DOTALL,
)
_COLON = re.compile(r"\s*:")
_OPENING, _CLOSING = {"{", "["}, {"}", "]"}


@attrs.frozen
class Part:
    """A part of formatted JSON.

    Attributes:
        kind: ``"key"``, ``"text"``, ``"number"``, ``"word"`` (true, false, null) or ``""`` for everything else.
        text: The characters.
    """

    kind: str
    text: str


@attrs.frozen
class BodyView:
    """A body that is prepared for a page.

    Attributes:
        kind: ``"json"``, ``"text"`` or ``"hex"``.
        kinds: The kinds that make sense for this body.
        parts: The JSON, for the kind ``"json"``.
        text: The text, for the kind ``"text"``.
        rows: The offset, the bytes and the characters of each row, for the kind ``"hex"``.
        shown: Bytes of the body that are shown.
        size: Bytes of the body.
        is_damaged: Whether bytes that are not UTF-8 were replaced in the text.
    """

    kind: str
    kinds: tuple[str, ...]
    shown: int
    size: int
    parts: tuple[Part, ...] = ()
    text: str = ""
    rows: tuple[tuple[str, str, str], ...] = ()
    is_damaged: bool = False


def view_body(body: bytes, wanted: str = "") -> BodyView:
    """Return a view of a body.

    Args:
        body: The body.
        wanted: The kind; another text chooses the kind that suits the body.
    """
    text = decoded(body[:MAX_SHOWN], is_complete=len(body) <= MAX_SHOWN)
    kinds: tuple[str, ...] = ("text", "hex")
    if text is not None and is_json(text, is_complete=len(body) <= MAX_SHOWN):
        kinds = ("json", *kinds)
    kind = wanted if wanted in kinds else ("hex" if text is None else kinds[0])
    shown = min(len(body), MAX_HEX if kind == "hex" else MAX_SHOWN)
    if kind == "hex":
        return BodyView(kind, kinds, shown, len(body), rows=tuple(_hex_rows(body[:shown])))
    if kind == "json" and text is not None:
        return BodyView(kind, kinds, shown, len(body), parts=tuple(format_json(text)))
    is_damaged = text is None
    readable = body[:shown].decode("utf-8", "replace") if text is None else text
    return BodyView(kind, kinds, shown, len(body), text=visible(readable, lines=True), is_damaged=is_damaged)


def preview(body: bytes, length: int = 120) -> str:
    """Return the first characters of a body in one line, or ``""`` if it is not text."""
    text = decoded(body[: length * 4], is_complete=len(body) <= length * 4)
    if text is None or "\x00" in text:
        return ""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "…"


def decoded(start: bytes, *, is_complete: bool) -> str | None:
    """Return the text of a body or of its start; `None` if it is not UTF-8."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(start, is_complete)
    except UnicodeDecodeError:
        return None


def is_json(text: str, *, is_complete: bool) -> bool:
    """Return whether a text is an object or an array of JSON, or may be the start of one."""
    if not re.match(r"\s*[{\[]", text):
        return False
    if not is_complete:
        return re.match(r'\s*(\{\s*"|\[\s*["{\[\d\-tfn])', text) is not None
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def format_json(text: str) -> Iterator[Part]:
    """Yield a text of JSON with line breaks and indentation.

    The strings and numbers are exactly those of the text: they are not parsed and written again.
    """
    plain, size, parts = "", 0, 0
    for kind, token in _laid_out(text):
        size += len(token)
        if size > MAX_FORMATTED:
            plain += "\n…"
            break
        if not kind or parts >= MAX_PARTS:
            plain += token
            continue
        parts += 1
        if plain:
            yield Part("", plain)
            plain = ""
        yield Part(kind, token)
    if plain:
        yield Part("", plain)


def _laid_out(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kinds and texts of all tokens, with the line breaks and spaces between them."""
    level, at, is_empty = 0, 0, False
    while (found := _TOKEN.match(text, at)) is not None:
        at = found.end()
        mark = found["mark"]
        if mark in _CLOSING:
            level = max(0, level - 1)
            yield "", mark if is_empty else _line(level) + mark
            is_empty = False
            continue
        if is_empty:
            yield "", _line(level)
        is_empty = mark in _OPENING
        if mark in _OPENING:
            level += 1
            yield "", mark
        elif mark is not None:
            yield "", "," + _line(level) if mark == "," else ": "
        else:
            yield _kind(found, text), visible(found["text"] or found["word"])


def _kind(found: re.Match[str], text: str) -> str:
    if found["text"] is not None:
        return "key" if _COLON.match(text, found.end()) else "text"
    return "number" if re.match(r"[-\d]", found["word"]) else "word"


def _line(level: int) -> str:
    return "\n" + "  " * min(level, MAX_INDENTED)


def _hex_rows(body: bytes) -> Iterator[tuple[str, str, str]]:
    for start in range(0, len(body), _ROW):
        row = body[start : start + _ROW]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in row)
        yield f"{start:06x}", row.hex(" ").ljust(_ROW * 3 - 1), shown
