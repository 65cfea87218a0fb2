"""Texts of messages as a page can show them. The filters of the templates use it.

The templates escape every text for HTML, and isolate its direction with `<bdi>`. This module replaces the characters that
would stay invisible, or that would change the order of other characters.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

#: Characters that set the direction of text: Unicode's explicit formatting characters (UAX #9), and marks.
_DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
#: Other characters without a shape. U+200C and U+200D are not among them: words and emoji need them.
_SHAPELESS = [0x00AD, 0x200B, 0x2028, 0x2029, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF]
_REPLACED: dict[int, str] = {
    **{number: chr(0x2400 + number) for number in range(0x20)},
    0x7F: "\u2421",
    **{number: f"⟨U+{number:04X}⟩" for number in [*range(0x80, 0xA0), *_DIRECTIONS, *_SHAPELESS, *range(0xD800, 0xE000)]},
}
_REPLACED_IN_LINES = {number: text for number, text in _REPLACED.items() if number not in (0x09, 0x0A)}


def visible(text: object, *, lines: bool = False) -> str:
    """Return a text in which every character can be seen.

    Args:
        text: The text.
        lines: Keep tabs and line feeds, and write CR LF as a line feed. For bodies.
    """
    found = str(text)
    return found.replace("\r\n", "\n").translate(_REPLACED_IN_LINES) if lines else found.translate(_REPLACED)


def count(number: int | None) -> str:
    """Return a whole number with separators, for example ``1,204``; a dash if it is not known."""
    return "–" if number is None else f"{number:,}"


def size(number: int) -> str:
    """Return a size in bytes for people, for example ``12.4 KB``."""
    if number < 1000:
        return f"{number} B"
    amount, unit = number / 1000, "KB"
    if amount >= 999.95:
        amount, unit = amount / 1000, "MB"
    return f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time in seconds for people, in its largest units, for example ``2 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 >= 60 else f"{whole // 3600} h"
    if whole < 10 * 86400:
        return f"{whole // 86400} d {whole % 86400 // 3600} h" if whole % 86400 >= 3600 else f"{whole // 86400} d"
    return f"{whole // 86400:,} d"


def age(since: datetime) -> str:
    """Return how long ago a time was, for example ``5 min``."""
    return duration((_now() - since).total_seconds())


def left(until: datetime) -> str:
    """Return how long it is until a time, for example ``45 s``."""
    return duration((until - _now()).total_seconds())


def instant(moment: datetime) -> str:
    """Return a time in UTC, for example ``2026-03-01 12:30:05 UTC``."""
    return f"{moment.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def attribute(value: object) -> str:
    """Return the value of a message's attribute as text."""
    if isinstance(value, bytes):
        return value[:1000].hex(" ") + (" …" if len(value) > 1000 else "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return "null" if value is None else str(value)


def attribute_type(value: object) -> str:
    """Return the name of the type of a message's attribute, for example ``text``."""
    names = {str: "text", bool: "boolean", int: "integer", float: "number", bytes: "bytes", datetime: "time"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def span(value: timedelta) -> str:
    """Return a timedelta for people."""
    return duration(value.total_seconds())


def sentence(text: str) -> str:
    """Return the text of an error as a sentence: with a capital letter and a full stop."""
    if not text:
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _now() -> datetime:
    return datetime.now(timezone.utc)
