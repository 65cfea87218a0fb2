"""Values that azsession encodes have the SDK's bytes; AMQP lets an encoder choose only between long and short forms."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import amqp
from azsession.amqp.decoding import READERS
from azsession.amqp.encoding import encode_value

from .amqp_bytes import value_from_the_sdk


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (amqp.Uint(0), "43"), (amqp.Uint(255), "52ff"), (amqp.Uint(300), "700000012c"),
        (amqp.Ulong(0), "44"), (amqp.Ulong(255), "53ff"), (amqp.Ulong(300), "80000000000000012c"),
        (amqp.Long(-1), "55ff"), (amqp.Long(300), "81000000000000012c"),
        (amqp.Timestamp(5), "830000000000000005"),
        (amqp.Symbol("ab"), "a3026162"), ("ab", "a1026162"), (b"ab", "a0026162"), (bytearray(b"ab"), "a0026162"),
        (Colour.RED, "a103726564"),
        (amqp.Array([amqp.Long(300)]), "e00a0181000000000000012c"),
        (amqp.Array([uuid.UUID(int=1)]), "e0120198" + "00" * 15 + "01"),
        (amqp.Array([amqp.Symbol("ab")]), "e00801b3000000026162"),
        (amqp.Array([amqp.Long(1)] * 256), "f00000080500000100" + "81" + "0000000000000001" * 256),
        (5, "5405"), (-128, "5480"), (128, "7100000080"),
        (True, "41"), (False, "42"), (0.5, "823fe0000000000000"), (None, "40"),
        (uuid.UUID(int=1), "98" + "00" * 15 + "01"),
        ([], "45"), ([1], "c003015401"), ({"a": 1}, "c10602a101615401"),
    ],
)  # fmt: skip
def test_a_value_is_encoded_as_the_type_of_its_class(value: Any, encoded: str) -> None:
    assert encode_value(value).hex() == encoded


scalars = st.one_of(
    st.none(), st.integers(-(2**31), 2**31 - 1), st.floats(), st.uuids(), st.binary(max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=30), st.dictionaries(st.text("abc", max_size=3), inner, max_size=30)),
    max_leaves=40,
)


@given(values)
def test_untyped_values_have_the_sdks_bytes(value: Any) -> None:
    assert encode_value(value) == value_from_the_sdk(value)


@pytest.mark.parametrize(
    ("kind", "name", "numbers"),
    [
        (amqp.Uint, "UINT", [0, 1, 255, 256, 2**32 - 1]),
        (amqp.Ulong, "ULONG", [0, 1, 255, 256, 2**64 - 1]),
        (amqp.Long, "LONG", [0, -128, 127, 128, -(2**63), 2**63 - 1]),
        (amqp.Timestamp, "TIMESTAMP", [0, -(2**63), 2**63 - 1]),
    ],
)
def test_typed_numbers_have_the_sdks_bytes(kind: Any, name: str, numbers: list[int]) -> None:
    for number in numbers:
        assert encode_value(kind(number)) == value_from_the_sdk({"TYPE": name, "VALUE": number})


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=300))
def test_an_array_has_the_sdks_bytes(numbers: list[int]) -> None:
    ours = encode_value(amqp.Array([amqp.Long(number) for number in numbers]))
    assert ours == value_from_the_sdk({"TYPE": "ARRAY", "VALUE": [{"TYPE": "LONG", "VALUE": one} for one in numbers]})


@given(values | st.booleans())
def test_an_encoded_value_is_decoded_to_itself(value: Any) -> None:
    encoded = encode_value(value)
    decoded, end = READERS[encoded[0]](encoded, 1, 0)
    assert end == len(encoded)
    assert repr(decoded) == repr(value)


@pytest.mark.parametrize("value", [2**31, amqp.Uint(-1), amqp.Uint(2**32), amqp.Ulong(-1), amqp.Long(2**63)])
def test_a_number_that_does_not_fit_its_type_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"{int(value)} does not fit"):
        encode_value(value)


def test_a_value_without_an_amqp_type_is_refused() -> None:
    with pytest.raises(TypeError, match="no type for a set"):
        encode_value({1})


@pytest.mark.parametrize("values", [[], [amqp.Long(1), amqp.Symbol("a")], [object()]])
def test_an_array_without_one_known_type_is_refused(values: list[Any]) -> None:
    with pytest.raises(TypeError, match="an array needs elements of one type"):
        encode_value(amqp.Array(values))
