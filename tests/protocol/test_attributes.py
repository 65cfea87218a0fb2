"""Attributes as JSON, and JSON as attributes."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from azsession.protocol.attributes import from_json, to_json

ATTRIBUTES: dict[str, Any] = {
    "text": "5",
    "number": 5,
    "part": 0.5,
    "yes": True,
    "none": None,
    "bytes": b"\x00\xff",
    "time": datetime(2024, 2, 29, 23, 59, 59, 999, tzinfo=timezone.utc),
    "id": UUID(int=7),
}


def test_every_type_survives_json() -> None:
    values, types = to_json(ATTRIBUTES)
    back = from_json(json.loads(json.dumps(values)), json.loads(json.dumps(types)))
    assert back == ATTRIBUTES
    assert [type(value) for value in back.values()] == [type(value) for value in ATTRIBUTES.values()]


def test_only_types_that_json_does_not_have_are_named() -> None:
    assert to_json(ATTRIBUTES)[1] == {"bytes": "bytes", "time": "datetime", "id": "uuid"}
    assert to_json({"a": 1, "b": None}) == ({"a": 1, "b": None}, {})


def test_times_are_written_in_utc() -> None:
    at = datetime(2024, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=1)))
    assert to_json({"at": at})[0] == {"at": "2024-01-01T00:30:00Z"}


@pytest.mark.parametrize(
    ("values", "types"),
    [
        ({}, {"a": "uuid"}),
        ({"a": 5}, {"a": "uuid"}),
        ({"a": "5"}, {"a": "uuid"}),
        ({"a": "2024-01-01T00:00:00"}, {"a": "datetime"}),
        ({"a": "0001-01-01T00:00:00+14:00"}, {"a": "datetime"}),
        ({"a": "tomorrow"}, {"a": "datetime"}),
        ({"a": "ä"}, {"a": "bytes"}),
        ({"a": "5"}, {"a": "number"}),
        ({"a": "5"}, {"a": [1]}),
    ],
)
def test_values_that_are_not_of_their_type_are_refused(values: dict[str, Any], types: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attribute 'a'"):
        from_json(values, types)
