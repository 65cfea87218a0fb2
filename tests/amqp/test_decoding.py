"""The bytes of AMQP values as Python values."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import pytest

from azsession.amqp import Described, MalformedFrameError, Timestamp
from azsession.amqp.decoding import READERS


def value_of(encoded: str) -> Any:
    buf = bytes.fromhex(encoded)
    value, pos = READERS[buf[0]](buf, 1, 0)
    assert pos == len(buf)
    return value


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("40", None), ("41", True), ("42", False), ("5600", False), ("5601", True), ("43", 0), ("44", 0), ("45", []),
        ("50ff", 255), ("51ff", -1), ("52ff", 255), ("53ff", 255), ("54ff", -1), ("55ff", -1),
        ("60ffff", 65535), ("61ffff", -1), ("70ffffffff", 2**32 - 1), ("71ffffffff", -1),
        ("80ffffffffffffffff", 2**64 - 1), ("81ffffffffffffffff", -1), ("723f000000", 0.5), ("823fe0000000000000", 0.5),
        ("730001f600", "\U0001f600"), ("83ffffffffffffffff", Timestamp(-1)),
        ("9800000000000000000000000000000001", uuid.UUID(int=1)),
        ("a0026162", b"ab"), ("a1026162", "ab"), ("a3026162", "ab"),
        ("b0000000026162", b"ab"), ("b1000000026162", "ab"), ("b3000000026162", "ab"), ("a101ff", "\ufffd"),
        ("c00302 5401", None), ("c0050254015402", [1, 2]), ("d000000008000000025401 5402", [1, 2]),
        ("c10702a101615401", None), ("c10602a101615401", {"a": 1}), ("d10000000900000002a101615401", {"a": 1}),
        ("e00402540102", [1, 2]), ("f00000000702000000540102", None), ("f00000000700000002540102", [1, 2]), ("e0020040", []),
        ("e0020340", [None] * 3), ("0053245401", Described(36, 1)),
        ("e0060100531d5401", [Described(29, 1)]),
        ("7432800001", Decimal("1")), ("74b2800001", Decimal("-1")), ("7431 80000f", Decimal("0.15")),
        ("7478000000", Decimal("Infinity")), ("74f8000000", Decimal("-Infinity")),
        ("8431c0000000000001", Decimal("1")),
        ("9430400000000000000000000000000001", Decimal("1")), ("94303c0000000000000000000000000096", Decimal("1.50")),
    ],
)  # fmt: skip
def test_every_type_is_read(encoded: str, value: Any) -> None:
    if value is None and encoded != "40":
        with pytest.raises((MalformedFrameError, IndexError)):
            value_of(encoded)
        return
    got = value_of(encoded)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("encoded", ["c00201a103616263", "c1030243a103616263", "e00301a103616263"])
def test_an_element_longer_than_its_list_map_or_array_is_malformed(encoded: str) -> None:
    with pytest.raises(MalformedFrameError):
        value_of(encoded)


def test_a_decimal_may_be_nan() -> None:
    assert value_of("747c000000").is_nan()
