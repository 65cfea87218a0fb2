"""Checks an answer against the OpenAPI description. `raw` checks every answer that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.message import Message as Headers
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import jsonschema_rs

import azsession.server
from azsession.errors import ValidationError
from azsession.protocol.routes import NoRouteError, Operation, parse_route

DOCUMENT = Path(azsession.server.__file__).with_name("openapi.json").read_bytes()
DESCRIPTION: dict[str, Any] = json.loads(DOCUMENT)
_COMPONENTS = DESCRIPTION["components"]
#: The suffix of the operation id of a HEAD request.
HEAD_SUFFIX = "-head"


@attrs.frozen
class Described:
    """An operation in the description: its method in lower case, its path, and its object."""

    method: str
    path: str
    object: dict[str, Any]

    @property
    def query(self) -> set[str]:
        """The names of the parameters in the query."""
        parameters = map(resolve, self.object["parameters"])
        return {parameter["name"] for parameter in parameters if parameter["in"] == "query"}


def all_described() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Return method, path and object of everything that is described, HEAD requests included."""
    for path, at in DESCRIPTION["paths"].items():
        for method, found in at.items():
            yield method, path, found


#: The described operations by their ids, without HEAD requests.
DESCRIBED = {
    found["operationId"]: Described(method, path, found)
    for method, path, found in all_described()
    if not found["operationId"].endswith(HEAD_SUFFIX)
}


def described(operation: Operation) -> Described:
    return DESCRIBED[operation.value]


def resolve(value: dict[str, Any]) -> dict[str, Any]:
    """Return the target of a reference; any other value as it is."""
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
    """Fail if a value does not match a schema."""
    error = next(_validator(json.dumps(schema)).iter_errors(value), None)
    assert error is None, f"{what}: {error}"


def _from_text(schema: dict[str, Any], text: str) -> Any:
    kind = schema.get("type")
    return int(text) if kind == "integer" else float(text) if kind == "number" else text


def answers_of(method: str, target: str) -> dict[str, Any]:
    """Return the described answers to a request; all errors, if the request is not in the protocol."""
    path = target.partition("?")[0]
    try:
        operation = parse_route(method, path, encoded=True).operation
    except (NoRouteError, ValidationError):
        return {name.removeprefix("Error"): answer for name, answer in _COMPONENTS["responses"].items()}
    found = described(operation)
    at = DESCRIPTION["paths"][found.path]
    return at["head" if method == "HEAD" else found.method]["responses"]  # type: ignore[no-any-return]


def check_answer(method: str, target: str, status: int, headers: Headers, body: bytes) -> None:
    """Fail if the status, a header, the content type or the body of an answer is not as described."""
    answers = answers_of(method, target)
    what = f"{method} {target} answered {status}"
    assert str(status) in answers, f"{what}, which is not described"
    answer = resolve(answers[str(status)])
    for name, reference in answer["headers"].items():
        header, found = resolve(reference), headers.get(name)
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
