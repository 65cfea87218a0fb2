"""Texts for pages: every character can be seen, and numbers are for people."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.server.explorer import shown_text
from azsession.server.explorer.shown_text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("a\nb\tc\r", "a␊b␉c␍"),
        ("\x7f\x9f", "␡⟨U+009F⟩"),
        ("\u202egnp.exe", "⟨U+202E⟩gnp.exe"),
        ("\u2066a\u2069\u200f\u061c", "⟨U+2066⟩a⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("\ufeff\u200b\u2028", "⟨U+FEFF⟩⟨U+200B⟩⟨U+2028⟩"),
        ("שלום", "שלום"),
        ("👩\u200d🔧", "👩\u200d🔧"),
        ("\ud800", "⟨U+D800⟩"),
        (5, "5"),
    ],
)
def test_characters_without_a_shape_are_shown(text: object, shown: str) -> None:
    assert visible(text) == shown


def test_lines_of_a_body_stay_lines() -> None:
    assert visible("a\r\nb\n\tc\rd\x00", lines=True) == "a\nb\n\tc␍d␀"


@given(st.text(), st.booleans())
def test_no_control_character_and_no_direction_is_left(text: str, lines: bool) -> None:
    left = set(visible(text, lines=lines)) - ({"\n", "\t"} if lines else set())
    assert not [char for char in left if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [
        char for char in left if unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI")
    ]


def test_numbers_and_sizes() -> None:
    assert [shown_text.count(number) for number in (None, 0, 1234567)] == ["–", "0", "1,234,567"]
    sizes = [shown_text.size(number) for number in (0, 999, 1000, 12_345, 999_949, 999_950, 1_048_576)]
    assert sizes == ["0 B", "999 B", "1.0 KB", "12.3 KB", "999.9 KB", "1.0 MB", "1.0 MB"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (599, "9 min 59 s"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
        (864000, "10 d"),
        (86400 * 5000, "5,000 d"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert shown_text.duration(seconds) == shown
    assert shown_text.span(timedelta(seconds=seconds)) == shown


def test_times() -> None:
    moment = datetime(2026, 3, 1, 14, 30, 5, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert shown_text.instant(moment) == "2026-03-01 12:30:05 UTC"
    assert shown_text.age(datetime.now(timezone.utc) - timedelta(hours=3)) == "3 h"
    assert shown_text.left(datetime.now(timezone.utc) + timedelta(seconds=45.4)) == "45 s"


@pytest.mark.parametrize(
    ("value", "shown", "kind"),
    [
        ("a", "a", "text"),
        (True, "true", "boolean"),
        (7, "7", "integer"),
        (1.5, "1.5", "number"),
        (b"\x00\xff", "00 ff", "bytes"),
        (b"x" * 2000, "78 " * 999 + "78 …", "bytes"),
        (None, "null", "null"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "2026-01-02T03:04:05.000Z", "time"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001", "UUID"),
    ],
)
def test_attributes(value: object, shown: str, kind: str) -> None:
    assert shown_text.attribute(value) == shown
    assert shown_text.attribute_type(value) == kind


def test_errors_become_sentences() -> None:
    assert [shown_text.sentence(text) for text in ("", "a queue is full", "Wait!")] == ["", "A queue is full.", "Wait!"]
