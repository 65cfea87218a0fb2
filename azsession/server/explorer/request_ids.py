"""Ids of the requests that forms make. A form that is submitted twice, for example by a double click, takes effect once."""

from __future__ import annotations

import re
import uuid

from .page_request import PageRequest


def new_request_id() -> str:
    """Return an id for a form."""
    return str(uuid.uuid4())


def request_id_of(request: PageRequest) -> str:
    """Return the id in a form; a new one if the form has none."""
    given = request.form.get("request_id", "")
    return given if re.fullmatch(r"[0-9a-f-]{36}", given) else new_request_id()
