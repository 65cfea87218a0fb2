"""Attributes of messages as JSON. `wire`, the embedded broker and the command line use this module.

JSON has no times, UUIDs and bytes. They become text, and a second object says which attributes these are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

from ..validation import AttributeValue

#: The object with the types: in an element of an envelope, and as a header of a single message.
TYPES_NAME, TYPES_HEADER = "UserPropertyTypes", "Azsession-Attribute-Types"
#: The types that JSON does not have, and the type of an attribute without a value, which a header cannot express.
DATETIME, UUID_TYPE, BYTES, NULL = "datetime", "uuid", "bytes", "null"

_JSON_TYPES = (str, int, float, bool, type(None))


def to_json(attributes: Mapping[str, AttributeValue]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return attributes as values that JSON can express, and the types of those that it cannot, by name."""
    if all(type(value) in _JSON_TYPES for value in attributes.values()):
        return attributes, {}
    values: dict[str, Any] = {}
    types: dict[str, str] = {}
    for name, value in attributes.items():
        if isinstance(value, datetime):
            values[name], types[name] = value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z"), DATETIME
        elif isinstance(value, UUID):
            values[name], types[name] = str(value), UUID_TYPE
        elif isinstance(value, bytes):
            values[name], types[name] = base64.b64encode(value).decode(), BYTES
        else:
            values[name] = value
    return values, types


def to_headers(attributes: Mapping[str, AttributeValue]) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return attributes as `to_json` does, but without names that are empty, and with a type for those without a value."""
    values, types = to_json(attributes)
    types.update((name, NULL) for name, value in values.items() if value is None)
    types.pop("", None)
    return {name: value for name, value in values.items() if name and value is not None}, types


def from_json(values: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes from values that JSON can express, and from the types of some of them.

    Raises:
        ValueError: A type is unknown, or its value is not of this type.
    """
    attributes = dict(values)
    for name, kind in types.items():
        value = attributes.get(name)
        if kind == NULL and value is None:
            attributes[name] = None
            continue
        if not isinstance(value, str):
            raise ValueError(f"the attribute {name[:80]!r} has the type {str(kind)[:80]!r}, so its value must be text")
        try:
            attributes[name] = _read(value, kind)
        except (ValueError, OverflowError, binascii.Error):
            raise ValueError(f"the attribute {name[:80]!r} is not a {str(kind)[:80]}") from None
    return attributes


def _read(text: str, kind: Any) -> AttributeValue:
    if kind == DATETIME:
        # Python 3.10 does not parse "Z".
        instant = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        if instant.tzinfo is None:
            raise ValueError("no time zone")
        return instant.astimezone(timezone.utc)
    if kind == UUID_TYPE:
        return UUID(text)
    if kind == BYTES:
        return base64.b64decode(text, validate=True)
    raise ValueError("unknown type")
