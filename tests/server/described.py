"""Whether an answer is as the protocol's description in OpenAPI has it: `raw` holds every answer against it."""

from __future__ import annotations

import json
from email.message import Message as Headers
from functools import cache
from typing import Any

import jsonschema_rs

from azsession.errors import ValidationError
from azsession.protocol.routes import NoRouteError, parse_route
from azsession.server.openapi import DESCRIBED, describe

DESCRIPTION = describe()
_COMPONENTS = DESCRIPTION["components"]


def resolve(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference leads to; anything else as it is."""
    found: Any = value
    if "$ref" in value:
        found = DESCRIPTION
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    return found  # type: ignore[no-any-return]


@cache
def _validator(schema: str) -> Any:
    return jsonschema_rs.validator_for({**json.loads(schema), "components": _COMPONENTS})


def check(schema: dict[str, Any], value: Any, what: str) -> None:
    """Fail where a value is not as a schema has it."""
    error = next(_validator(json.dumps(schema)).iter_errors(value), None)
    assert error is None, f"{what}: {error}"


def _from_text(schema: dict[str, Any], text: str) -> Any:
    kind = schema.get("type")
    return int(text) if kind == "integer" else float(text) if kind == "number" else text


def answers_of(method: str, target: str) -> dict[str, Any]:
    """Return the answers that the description has for a request; all errors, where it is none of the protocol's."""
    path = target.partition("?")[0]
    try:
        operation = parse_route(method, path, encoded=True).operation
    except (NoRouteError, ValidationError):
        return {name.removeprefix("Error"): answer for name, answer in _COMPONENTS["responses"].items()}
    described = DESCRIBED[operation]
    at = DESCRIPTION["paths"][described.path]
    return at["head" if method == "HEAD" else described.method]["responses"]  # type: ignore[no-any-return]


def check_answer(method: str, target: str, status: int, headers: Headers, body: bytes) -> None:
    """Fail where an answer is not as described: its status, its headers, its type, its body."""
    answers = answers_of(method, target)
    what = f"{method} {target} answered {status}"
    assert str(status) in answers, f"{what}, which is not described"
    answer = resolve(answers[str(status)])
    for name, described in answer["headers"].items():
        header, found = resolve(described), headers.get(name)
        assert found is not None or not header["required"], f"{what} without {name}"
        if found is not None:
            check(header["schema"], _from_text(header["schema"], found), f"{name} of {what}")
    content = answer.get("content")
    if content is None:
        assert not body, f"{what} with a body"
        return
    kind = headers.get("Content-Type", "").partition(";")[0]
    assert kind in content or "*/*" in content, f"{what} with a body of type {kind!r}"
    schema = content.get(kind, content.get("*/*"))["schema"]
    if schema:
        check(schema, json.loads(body), f"the body of {what}")
