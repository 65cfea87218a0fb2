"""The description in OpenAPI is of this gateway: `raw` holds every answer of these and all other tests against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis

from azsession import ValidationError
from azsession.protocol.error_codes import STATUS_OF
from azsession.protocol.routes import NoRouteError, Operation, parse_route
from azsession.server.authorization import OPEN
from azsession.server.openapi import DESCRIBED, document

from .described import DESCRIPTION, check, resolve
from .raw import KEYS, LISTEN, SEND, Gateway

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
ALL = pytest.mark.parametrize("operation", list(Operation), ids=[one.value for one in Operation])


def filled(path: str, **values: str) -> str:
    """Return a path of the description with values for its parameters, percent-encoded as OpenAPI has it."""
    usual = {"entity": "orders", "sid": "a/b", "token": "x/$deadletter", "number": "7", **values}
    for name, value in usual.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


def described() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, at in DESCRIPTION["paths"].items():
        for method, operation in at.items():
            yield method, path, operation


@ALL
def test_every_operation_is_described_where_it_is(operation: Operation) -> None:
    found = DESCRIBED[operation]
    at = DESCRIPTION["paths"][found.path][found.method]
    assert at["operationId"] == operation.value
    for entity in ("orders", "events/subscriptions/audit"):
        assert parse_route(found.method.upper(), filled(found.path, entity=entity), encoded=True).operation is operation


def test_nothing_else_is_described() -> None:
    names = [operation["operationId"] for _, _, operation in described()]
    assert len(names) == len(set(names))
    assert set(names) == {one.value for one in Operation} | {f"{one.value}-head" for one in OPEN}
    for method, path, operation in described():
        route = parse_route(method.upper(), filled(path), encoded=True)
        assert operation["operationId"].removesuffix("-head") == route.operation.value


def test_what_is_not_described_is_no_operation() -> None:
    known = {(method, path) for method, path, _ in described()}
    for path in DESCRIPTION["paths"]:
        for method in METHODS:
            try:
                route = parse_route(method.upper(), filled(path), encoded=True)
            except (NoRouteError, ValidationError):
                assert (method, path) not in known
                continue
            # A path with a name in it may be one of those with a parameter in its place.
            found = DESCRIBED[route.operation]
            assert found.path == path or "{" in found.path, (method, path)


def test_what_needs_no_token_is_what_the_description_says() -> None:
    for _, _, operation in described():
        is_open = operation.get("security") == []
        assert is_open == (Operation(operation["operationId"].removesuffix("-head")) in OPEN)
        assert is_open == ("401" not in operation["responses"])


def test_every_code_of_an_error_is_described_with_its_status() -> None:
    for code, status in STATUS_OF.items():
        answer = DESCRIPTION["components"]["responses"][f"Error{status}"]
        body = {"error": {"code": code, "message": "why"}}
        check(answer["content"]["application/json"]["schema"], body, code)
        with pytest.raises(AssertionError):
            check(answer["content"]["application/json"]["schema"], {"error": {"code": "Other", "message": "why"}}, code)


def test_it_is_served_without_a_token(gateway: Gateway) -> None:
    reply = gateway.ask("GET", "/openapi.json", token="")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.body == document()
    assert reply.json == DESCRIPTION
    head = gateway.ask("HEAD", "/openapi.json", token="")
    assert (head.status, head.body) == (200, b"")


def test_it_says_nothing_about_any_queue(gateway: Gateway) -> None:
    before = gateway.ask("GET", "/openapi.json", token="").body
    queue = gateway.queue()
    gateway.send(queue, "a-session-of-its-own", "x")
    after = gateway.ask("GET", "/openapi.json", token="").body
    assert after == before
    assert b"a-session-of-its-own" not in after
    assert not any(key.key.encode() in after for key in KEYS)


def test_it_is_openapi_3_1() -> None:
    schema = schemathesis.openapi.from_dict(json.loads(document()))
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(list(described()))
    assert DESCRIPTION["openapi"].startswith("3.1.")


def examples(media: dict[str, Any]) -> list[Any]:
    return [one["value"] for one in media.get("examples", {}).values()] + [media[key] for key in ("example",) if key in media]


@ALL
def test_every_example_is_accepted(gateway: Gateway, operation: Operation) -> None:
    found = DESCRIBED[operation]
    at = DESCRIPTION["paths"][found.path][found.method]
    path, headers = found.path, {}
    for parameter in map(resolve, at["parameters"]):
        media = next(iter(parameter.get("content", {}).values()), parameter)
        for example in examples(media):
            check(media["schema"], example, parameter["name"])
            text = example if isinstance(example, str) else json.dumps(example)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(text, safe=""))
            else:
                headers[parameter["name"]] = text
    if "timeout" in found.query:
        path += "?timeout=0"
    bodies: list[tuple[str, Any]] = []
    for kind, media in at.get("requestBody", {"content": {}})["content"].items():
        for example in examples(media):
            check(media["schema"], example, kind)
            bodies.append((kind, json.dumps(example).encode()))
        if not examples(media):
            bodies.append(("text/plain" if kind == "*/*" else kind, b"anything"))
    for kind, body in bodies or [("", None)]:
        # The one in the examples may be gone with that of another test.
        gateway.ask("PUT", "/orders", {})
        reply = gateway.ask(found.method.upper(), path, body, {**headers, **({"Content-Type": kind} if kind else {})})
        # There is no message that the token of an example is of.
        assert reply.status < 300 or reply.code in ("MessageLockLost", "MessageNotFound", "SessionLockLost", "Conflict"), (
            reply
        )
    gateway.ask("DELETE", "/orders")


@ALL
def test_the_right_that_is_described_is_the_one_it_takes(gateway: Gateway, operation: Operation) -> None:
    if operation in OPEN:
        return
    found = DESCRIBED[operation]
    told = DESCRIPTION["paths"][found.path][found.method]["description"]
    path = filled(found.path, entity="no-such-queue") + ("?timeout=0" if "timeout" in found.query else "")
    for key in (LISTEN, SEND):
        (right,) = key.rights
        refused = gateway.ask(found.method.upper(), path, b"", key=key).status == 403
        assert refused != (f"the right {right.value}." in told)
