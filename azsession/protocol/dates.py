"""Dates in the form of HTTP (RFC 9110 §5.6.7). `wire` uses them for the times of messages."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}


@lru_cache(256)
def format_date(instant: datetime) -> str:
    """Return a timezone-aware datetime as an RFC 1123 date. The locale does not matter."""
    at = instant.astimezone(timezone.utc)
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    )


@lru_cache(256)
def parse_rfc_1123(text: str) -> datetime:
    """Return the time of a date such as ``Mon, 30 Nov 2026 07:27:02 GMT``. The messages of one receive share few dates.

    Raises:
        ValueError: It is not such a date.
        KeyError: It has no such month.
    """
    day, clock = text[5:16], text[17:25]
    return datetime(
        int(day[7:]),
        _MONTH_NUMBERS[day[3:6]],
        int(day[:2]),
        int(clock[:2]),
        int(clock[3:5]),
        int(clock[6:]),
        tzinfo=timezone.utc,
    )
