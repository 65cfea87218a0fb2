"""The JSON parser: large and small texts are parsed alike, and very many values are refused soon."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.protocol.bounded_json import MAX_VALUES, json_items, json_object_with_items, parse_json
from tests.cpu_time import cpu_seconds

#: White space that makes any text a large one.
BLANKS = " " * 300_000

FAULT = "missing|Invalid|Unterminated|Extra|Expecting|too many|goes on|not JSON|not an array"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([None, 1]))
def test_a_large_text_has_the_same_value_as_a_small_one(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert parse_json(text) == parse_json(text + BLANKS) == parse_json(BLANKS.encode() + text.encode()) == value


@given(st.text(alphabet='[]{},:" \\ntrue1-.eE', max_size=30))
def test_a_large_text_is_refused_if_the_standard_library_refuses_it(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=FAULT):
            parse_json(text + BLANKS)
    else:
        assert parse_json(text + BLANKS) == expected


@given(st.lists(VALUES, max_size=5))
def test_the_items_of_a_large_array_are_those_of_a_small_one(values: list[object]) -> None:
    text = json.dumps(values).encode()
    assert list(json_items(text)) == list(json_items(text + BLANKS.encode())) == values


BROKEN = ["[{]", '[{"a"}]', '[{"a":1,}]', '[{"a":1}', "[1,]", "[{1:2}]", "[1 2]", "[1] 2", "[NaN]", "[", "x", "", "[" * 200]


@pytest.mark.parametrize("text", BROKEN)
def test_a_large_text_that_is_not_json_is_refused(text: str) -> None:
    for large in (text + BLANKS, BLANKS + text):
        with pytest.raises(ValueError, match=FAULT):
            parse_json(large)
        with pytest.raises(ValueError, match=FAULT):
            list(json_items(large.encode()))


def test_the_items_of_an_object_are_refused() -> None:
    for text in (b"{}", b"{}" + BLANKS.encode()):
        with pytest.raises(ValueError, match="array"):
            list(json_items(text))


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""', "null", "[[[]]]", '{"a":1}'])
def test_very_many_values_are_refused_soon(value: str) -> None:
    def seconds_for(size: int) -> float:
        text = f"[{value}" + f",{value}" * (size // (len(value) + 1)) + "]"

        def refuse() -> None:
            with pytest.raises(ValueError, match="too many values"):
                parse_json(text)

        return cpu_seconds(refuse)

    # Parsing the whole text would take 16 times as long.
    assert seconds_for(16_000_000) < 5 * seconds_for(1_000_000)


def test_a_usual_message_takes_as_long_in_a_large_array_as_in_a_small_one() -> None:
    item = json.dumps({"Body": "x" * 256, "BrokerProperties": {f"Name{number}": str(number) for number in range(9)}})
    small, large = (f"[{','.join([item] * count)}]".encode() for count in (100, 1000))

    def read(text: bytes, times: int) -> None:
        for _ in range(times):
            assert list(json_items(text))

    assert cpu_seconds(lambda: read(large, 10)) < 8 * cpu_seconds(lambda: read(small, 100))


def test_an_item_of_any_length_is_read_in_a_large_array() -> None:
    items = [{"Body": "x" * length} for length in (0, 8_000, 8_181, 8_192, 100_000)]
    assert list(json_items(json.dumps(items * 3).encode())) == items * 3


def test_each_item_of_a_large_array_may_have_many_values() -> None:
    item = json.dumps(dict.fromkeys(map(str, range(MAX_VALUES // 2)), 0))
    assert len(list(json_items(f"[{item},{item},{item}]".encode()))) == 3


@given(VALUES)
def test_the_items_of_an_object_are_parsed_like_other_values(value: object) -> None:
    text = json.dumps({"before": value, "Items": [value, {"Items": [value]}], "after": value}).encode()
    expected = json.loads(text)
    assert json_object_with_items(text, "Items") == json_object_with_items(text + BLANKS.encode(), "Items") == expected


def test_the_values_of_items_are_counted_one_by_one() -> None:
    half = "[" + ",".join("0" * (MAX_VALUES // 2)) + "]"
    assert len(json_object_with_items(f'{{"Items": [{half}, {half}, {half}]}}{BLANKS}'.encode(), "Items")["Items"]) == 3
    for text in (
        f'{{"Items": [[{half}, {half}]]}}',
        f'{{"Other": [{half}, {half}]}}',
        f'{{"In": {{"Items": [{half}, {half}]}}}}',
    ):
        with pytest.raises(ValueError, match="too many"):
            json_object_with_items(f"{text}{BLANKS}".encode(), "Items")
