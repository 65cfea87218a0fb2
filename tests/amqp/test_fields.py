"""The checks for the fields of performatives."""

from __future__ import annotations

from typing import Any

import pytest

from azsession.amqp import MalformedFrameError
from azsession.amqp.fields import UINT_MAX, number, optional, optional_number


@pytest.mark.parametrize("value", [-1, UINT_MAX + 1, None, "1", 1.0])
def test_a_number_that_is_none_of_its_range_is_refused(value: Any) -> None:
    with pytest.raises(MalformedFrameError, match="number"):
        number(value)


def test_a_refused_number_is_described() -> None:
    with pytest.raises(MalformedFrameError, match="a mandatory number is a str"):
        number("1")
    with pytest.raises(MalformedFrameError, match="a number is 256, not 0 to 255"):
        optional_number(256, highest=255)


def test_a_number_may_be_missing_where_it_has_a_default_or_is_optional() -> None:
    assert (number(None, 3), number(7, 3), optional_number(None), optional_number(7)) == (3, 7, None, 7)
    with pytest.raises(MalformedFrameError):
        optional_number(UINT_MAX + 1)


def test_an_optional_field_has_its_type_or_is_missing() -> None:
    assert (optional(None, bytes), optional(b"x", bytes)) == (None, b"x")
    with pytest.raises(MalformedFrameError, match="a field is a str, not a bytes"):
        optional("x", bytes)
