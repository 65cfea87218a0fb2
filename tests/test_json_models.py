"""`json(model)` builds pydantic models, dataclasses and attrs classes, and its errors name the field and no value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import pydantic
import pytest

from azsession import PeekedMessage, ValidationError

SECRET = "secret-value"


class Kind(Enum):
    """A kind of order."""

    NEW = "new"
    OLD = 2


@dataclass(frozen=True)
class Line:
    """A line of an order."""

    sku: str
    price: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    """An order."""

    id: int
    lines: list[Line]
    note: str | None = None
    total: float = field(init=False, default=0.0)


@attrs.frozen
class Paid:
    """A payment."""

    order: Order
    _amount: Decimal
    at: datetime = attrs.field(default=datetime(2026, 1, 1, tzinfo=timezone.utc))
    count: int = attrs.field(default=1, validator=attrs.validators.ge(1))


@attrs.frozen
class Everything:
    """A field of each kind."""

    day: date
    uuid: UUID
    kind: Kind
    which: Literal["a", 1]
    either: int | list[int]
    by_name: dict[str, Line]
    anything: Any
    marked: Annotated[int, "metres"]
    nothing: None
    flag: bool
    plain: dict  # type: ignore[type-arg]


class Item(pydantic.BaseModel):
    """A pydantic model."""

    sku: str
    price: float


class Cart(pydantic.BaseModel):
    """A strict pydantic model with another one inside."""

    model_config = pydantic.ConfigDict(strict=True)
    at: datetime
    items: list[Item]


def message(value: object) -> PeekedMessage:
    return PeekedMessage(body=value if isinstance(value, bytes) else json.dumps(value).encode())


ORDER = {"id": 42, "lines": [{"sku": "a", "price": 2, "tags": ["x"]}, {"sku": "b", "price": 1.5}]}


def test_a_dataclass_with_others_inside_is_built() -> None:
    order = message({**ORDER, "added_by_a_newer_sender": 1}).json(Order)
    assert order == Order(42, [Line("a", 2.0, ["x"]), Line("b", 1.5)])
    assert isinstance(order.lines[0].price, float)


def test_an_attrs_class_is_built() -> None:
    paid = message({"order": ORDER, "_amount": "12.50", "at": "2026-03-01T12:00:00Z"}).json(Paid)
    assert paid == Paid(
        Order(42, [Line("a", 2.0, ["x"]), Line("b", 1.5)]), Decimal("12.50"), datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    )


def test_fields_of_every_kind_are_built() -> None:
    value = {
        "day": "2026-03-01",
        "uuid": "12345678123456781234567812345678",
        "kind": 2,
        "which": "a",
        "either": [1],
        "by_name": {"x": {"sku": "a", "price": 1}},
        "anything": {"a": None},
        "marked": 7,
        "nothing": None,
        "flag": True,
        "plain": {"a": 1},
    }
    assert message(value).json(Everything) == Everything(
        date(2026, 3, 1),
        UUID("12345678123456781234567812345678"),
        Kind.OLD,
        "a",
        [1],
        {"x": Line("a", 1.0)},
        {"a": None},
        7,
        None,
        True,
        {"a": 1},
    )


def test_pydantic_models_are_validated_by_pydantic_as_json() -> None:
    cart = {"at": "2026-03-01T12:00:00Z", "items": [{"sku": "a", "price": 1.5}]}
    expected = Cart(at=datetime(2026, 3, 1, 12, tzinfo=timezone.utc), items=[Item(sku="a", price=1.5)])
    assert message(cart).json(Cart) == expected
    assert message([cart]).json(list[Cart]) == [expected]


def test_lists_dicts_and_scalars_are_models_too() -> None:
    assert message([{"sku": "a", "price": 1}]).json(list[Line]) == [Line("a", 1.0)]
    assert message({"a": 1}).json(dict[str, int]) == {"a": 1}
    assert message(3).json(float) == 3.0


@pytest.mark.parametrize(
    ("value", "model", "text"),
    [
        ({"id": SECRET, "lines": []}, Order, "Order: id: expected a whole number, found a string"),
        ({"id": True, "lines": []}, Order, "Order: id: expected a whole number, found true or false"),
        ({"id": 1.5, "lines": []}, Order, "Order: id: expected a whole number, found a number"),
        ({"id": 1}, Order, "Order: there is no field 'lines'"),
        ({}, Order, "Order: there is no field 'id', 'lines'"),
        (
            {"id": 1, "lines": [{"sku": "a", "price": 1}, {"sku": "a", "price": SECRET}]},
            Order,
            r"Order: lines\[1\].price: exp",
        ),
        ({"id": 1, "lines": {}}, Order, "Order: lines: expected an array, found an object"),
        ({"id": 1, "lines": [], "note": 5}, Order, "Order: note: expected a string, found a number"),
        ([], Order, "Order: expected an object, found an array"),
        ({"order": ORDER, "_amount": SECRET}, Paid, "Paid: _amount: Decimal refuses the value"),
        ({"order": ORDER, "_amount": "1", "at": SECRET}, Paid, r"Paid: at: datetime refuses the value \(ValueError\)"),
        ({"order": ORDER, "_amount": "1", "count": 0}, Paid, r"Paid: Paid refuses the value \(ValueError\)"),
        ("x", Kind, "Kind: Kind refuses the value"),
        ("b", Literal["a"], "expected 'a'"),
        (SECRET, int | list[int], "expected a whole number, found a string; or expected an array, found a string"),
        ({"sku": "a", "price": SECRET}, Item, r"Item: price: float_parsing"),
        ({"at": "2026-03-01T12:00:00Z", "items": [{"sku": "a"}]}, Cart, r"Cart: items\[0\].price: missing"),
        (b"{" + SECRET.encode(), Order, r"Order: it is not JSON \(line 1, column 2\)"),
        (b"{" + SECRET.encode(), Item, "Item: it is not JSON"),
        (b"\xff", Order, "Order: it is not JSON in UTF-8, or too deeply nested"),
        (b"[" * 100_000, Order, "Order: it is not JSON"),
    ],
)
def test_a_body_that_does_not_fit_is_an_error_that_names_the_field_and_no_value(value: object, model: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=f"^the body does not fit .*{text}") as caught:
        message(value).json(model)
    assert SECRET not in str(caught.value)
    # Reports of errors print these, too.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_unsupported_annotation_is_the_error_of_the_program() -> None:
    with pytest.raises(TypeError, match=r"json\(\) cannot build .*set"):
        message([1]).json(set[int])


def test_without_a_model_malformed_json_is_the_error_of_the_standard_library() -> None:
    assert message({"a": 1}).json() == {"a": 1}
    for body in (b"{", b"\xff"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - both errors are ValueErrors
            message(body).json()
        assert not isinstance(caught.value, ValidationError)
