"""The views of bodies: text, JSON and hexadecimal, all of them bounded."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.server.explorer import body_views
from azsession.server.explorer.body_views import (
    MAX_FORMATTED,
    MAX_HEX,
    MAX_PARTS,
    MAX_SHOWN,
    format_json,
    preview,
    view_body,
)
from tests.cpu_time import cpu_seconds


def laid_out(text: str) -> str:
    return "".join(part.text for part in format_json(text))


def test_the_kind_suits_the_body() -> None:
    bodies = {"json": b' {"a": 1}', "text": b"plain", "hex": b"\xff\x00"}
    assert {kind: view_body(body).kind for kind, body in bodies.items()} == {kind: kind for kind in bodies}
    assert view_body(b"[1,2]").kinds == ("json", "text", "hex")
    assert view_body(b"[1,2").kinds == ("text", "hex")
    assert view_body(b"1").kinds == ("text", "hex")
    assert view_body(b"").kind == "text"


@pytest.mark.parametrize("wanted", ["json", "nonsense", "", "../x"])
def test_a_kind_that_does_not_fit_is_not_used(wanted: str) -> None:
    assert view_body(b"plain", wanted).kind == "text"


def test_json_is_indented() -> None:
    assert laid_out('{"a":1,"b":[],"c":[true,{"d":"x"}],"e":{}}') == (
        '{\n  "a": 1,\n  "b": [],\n  "c": [\n    true,\n    {\n      "d": "x"\n    }\n  ],\n  "e": {}\n}'
    )


def test_json_keeps_what_a_parser_would_change() -> None:
    text = '{"big": 12345678901234567890.1234567890123456789, "twice": 1, "twice": 2, "e": 1E+2, "u": "\\u00e9\\/"}'
    assert laid_out(text) == text.replace("{", "{\n  ").replace(", ", ",\n  ").replace("}", "\n}")


def test_parts_of_json_have_kinds() -> None:
    parts = [(part.kind, part.text) for part in format_json('{"k": "v", "n": -1.5, "w": null}') if part.kind]
    assert parts == [("key", '"k"'), ("text", '"v"'), ("key", '"n"'), ("number", "-1.5"), ("key", '"w"'), ("word", "null")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(json_values) | st.dictionaries(st.text(), json_values), st.booleans())
def test_formatted_json_is_the_same_json(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if not any(ord(char) > 126 for char in text):
        assert json.loads(laid_out(text)) == value
        assert laid_out(text) == json.dumps(value, indent=2, ensure_ascii=ascii_only)


@given(st.text(alphabet='{}[],:"\\ a1\n', max_size=200))
def test_formatting_ends_for_every_text_and_keeps_its_characters(text: str) -> None:
    kept = laid_out(text).replace(" ", "").replace("\n", "").replace("␊", "")
    assert text.replace(" ", "").replace("\n", "").startswith(kept) or kept


def test_a_large_json_body_is_formatted_up_to_a_bound() -> None:
    body = json.dumps({"rows": [{"id": number, "name": "x" * 30} for number in range(20_000)]}).encode()
    view = view_body(body)
    assert (view.kind, view.shown, view.size) == ("json", MAX_SHOWN, len(body))
    assert sum(len(part.text) for part in view.parts) < MAX_FORMATTED
    assert len(view.parts) <= 2 * MAX_PARTS + 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 500_000,
        b'{"a":' * 200_000,
        b"[" * 30_000 + b"]" * 30_000,
        b"[" + b"0," * 500_000 + b"0]",
        b"[" + b"0," * 30_000 + b"0]",
        b"[" + b'"' * 1_000_000,
        b'["' + b"\\" * 1_000_000,
        b"[" + b"1" * 1_000_000 + b"]",
        b"[" + b"[],{}," * 160_000,
        b"\x00" * 1_000_000,
        b"{" + b"\xe2\x80\xae" * 300_000,
        b" " * 1_000_000,
        b"[" + b" " * 1_000_000,
        random.Random(7).randbytes(1_000_000),
    ],
    ids=lambda body: repr(body[:8]),
)
@pytest.mark.parametrize("wanted", ["", "json", "text", "hex"])
def test_a_hostile_body_takes_little_time_and_space(body: bytes, wanted: str) -> None:
    view = view_body(body, wanted)
    size = sum(len(part.text) for part in view.parts) + len(view.text) + sum(len("".join(row)) for row in view.rows)
    assert size < 700_000
    assert len(view.parts) <= 2 * MAX_PARTS + 1
    # No body of this size has more values than this one. Work that grew with the square of the size would take minutes.
    ordinary = b"[" + b"0," * (MAX_SHOWN // 2 - 1) + b"0]"
    assert cpu_seconds(lambda: view_body(body, wanted)) < 5 * cpu_seconds(lambda: view_body(ordinary, "json"))
    assert view.size == len(body)
    assert view.shown <= MAX_SHOWN


def test_a_deep_json_text_is_json_and_indented_up_to_a_bound() -> None:
    view = view_body(b"[" * 5000 + b"]" * 5000)
    assert view.kind == "json"
    lines = "".join(part.text for part in view.parts).split("\n")
    assert max(len(line) - len(line.lstrip()) for line in lines) == 2 * body_views.MAX_INDENTED


def test_text_is_cut_between_characters() -> None:
    view = view_body("é".encode() * MAX_SHOWN)
    assert (view.kind, view.text, view.is_damaged) == ("text", "é" * (MAX_SHOWN // 2), False)
    odd = view_body(b"a" + "é".encode() * MAX_SHOWN)
    assert odd.text == "a" + "é" * ((MAX_SHOWN - 1) // 2)


def test_bytes_that_are_not_utf_8_are_replaced_in_text() -> None:
    view = view_body(b"a\xffb", "text")
    assert (view.text, view.is_damaged) == ("a\ufffdb", True)


def test_hexadecimal_rows() -> None:
    view = view_body(bytes(range(40)) + b"<script>", "hex")
    assert view.rows[0] == ("000000", "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f", "·" * 16)
    assert view.rows[2] == ("000020", "20 21 22 23 24 25 26 27 3c 73 63 72 69 70 74 3e", " !\"#$%&'<script>")
    assert len({len(row[1]) for row in view_body(b"x" * 17, "hex").rows}) == 1
    assert view_body(b"x" * 10**6, "hex").shown == MAX_HEX


def test_previews() -> None:
    assert preview(b' {\n "a":\t1}') == '{ "a": 1}'
    assert preview(b"x" * 500) == "x" * 120 + "…"
    assert preview("é".encode() * 10**6) == "é" * 120 + "…"
    assert preview(b"\xff\xfe") == ""
    assert preview(b"a\x00b") == ""
    assert preview(b"") == ""
