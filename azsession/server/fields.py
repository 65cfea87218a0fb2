"""Reads the fields of a query or a form. The routes of the protocol and the Explorer use it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from ..errors import ValidationError


def read_fields(text: str, most: int, *, place: str, field: str) -> Mapping[str, str]:
    """Return the fields of a query or a form.

    Args:
        text: The fields, percent-encoded.
        most: The largest number of fields.
        place: The place of the fields, for the error.
        field: The name for a field, for the error.

    Raises:
        ValidationError: The text is malformed, has too many fields, or has a field twice.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=most)
    except ValueError:
        raise ValidationError(f"{place} is malformed") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValidationError(f"{place} has the same {field} twice")
    return fields
