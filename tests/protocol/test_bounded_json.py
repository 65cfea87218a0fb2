"""The JSON parser for large texts, compared with the parser of the standard library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession.protocol.bounded_json import MAX_DEPTH, MAX_VALUES, STRICT_JSON, BoundedParser

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def parse(text: str) -> object:
    return BoundedParser(text, STRICT_JSON).value()


@given(VALUES, st.sampled_from([None, 2]))
def test_a_value_is_parsed_as_by_the_standard_library(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    assert parse(text) == json.loads(text)


@given(st.lists(VALUES))
def test_the_items_of_an_array_are_parsed_one_by_one(values: list[object]) -> None:
    text = json.dumps(values)
    assert list(BoundedParser(text, STRICT_JSON).items()) == json.loads(text)


@given(st.text(alphabet='[]{},:" \\ntrue1-.eE', max_size=30))
def test_a_text_is_refused_if_the_standard_library_refuses_it(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError, match=r".*"):
            parse(text)
    else:
        assert parse(text) == expected


def test_a_text_with_too_many_values_is_refused() -> None:
    assert len(parse(json.dumps([0] * (MAX_VALUES - 1)))) == MAX_VALUES - 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too many values"):
        parse(json.dumps([0] * MAX_VALUES))


def test_a_text_that_is_nested_too_deeply_is_refused() -> None:
    parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="too many values"):
        parse("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "[-Infinity]", "1" * 401, "[1] x"])
def test_constants_and_numbers_that_are_not_strict_json_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
