"""The dates of HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession.protocol.dates import format_date, parse_rfc_1123

EXAMPLE = datetime(1994, 11, 6, 8, 49, 37, tzinfo=timezone.utc)


def test_a_date_has_the_form_of_http() -> None:
    assert format_date(EXAMPLE) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_date(EXAMPLE.astimezone(timezone(timedelta(hours=-5)))) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_a_date_is_read() -> None:
    assert parse_rfc_1123("Sun, 06 Nov 1994 08:49:37 GMT") == EXAMPLE
    assert parse_rfc_1123("Sun, 06 Nov 1994 08:49:37 GMT").tzinfo is timezone.utc


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:60 GMT", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 nov 1994 08:49:37 GMT", "Sun, 06 Nov"]
)
def test_another_text_is_refused_each_time(text: str) -> None:
    for _ in range(2):
        with pytest.raises((ValueError, KeyError)):
            parse_rfc_1123(text)
