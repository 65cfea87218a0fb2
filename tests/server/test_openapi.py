"""`openapi.json` describes this gateway. `raw` also checks each answer in all other tests against the description."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from azsession import ValidationError, validation
from azsession.protocol import (
    COUNT_HEADER,
    ERROR_CODE_HEADER,
    LOCK_EXPIRES_HEADER,
    LOCK_HELD_HEADER,
    LOCK_ID_HEADER,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    REQUEST_ID_HEADER,
    ROUTE_HEADER,
    WAITED_HEADER,
)
from azsession.protocol.error_codes import STATUS_OF
from azsession.protocol.routes import NoRouteError, Operation, parse_route
from azsession.server import handlers
from azsession.server.authorization import OPEN, right_for
from azsession.server.request import DEFAULT_TIMEOUT, IDENTIFIER, MAX_TIMEOUT

from .described import DESCRIBED, DESCRIPTION, DOCUMENT, HEAD_SUFFIX, all_described, check, described, resolve
from .raw import KEYS, LISTEN, SEND, Gateway

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
PARAMETERS = DESCRIPTION["components"]["parameters"]
SCHEMAS = DESCRIPTION["components"]["schemas"]
ALL = pytest.mark.parametrize("operation", list(Operation), ids=[one.value for one in Operation])


def filled(path: str, **values: str) -> str:
    """Return a described path with values for its parameters, percent-encoded."""
    usual = {"entity": "orders", "sid": "a/b", "token": "x/$deadletter", "number": "7", **values}
    for name, value in usual.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


@ALL
def test_an_operation_is_described_at_the_path_that_leads_to_it(operation: Operation) -> None:
    found = described(operation)
    for entity in ("orders", "events/subscriptions/audit"):
        assert parse_route(found.method.upper(), filled(found.path, entity=entity), encoded=True).operation is operation


def test_only_operations_of_the_protocol_are_described() -> None:
    names = [found["operationId"] for _, _, found in all_described()]
    assert len(names) == len(set(names))
    assert set(names) == {one.value for one in Operation} | {f"{one.value}{HEAD_SUFFIX}" for one in OPEN}
    for method, path, found in all_described():
        route = parse_route(method.upper(), filled(path), encoded=True)
        assert found["operationId"].removesuffix(HEAD_SUFFIX) == route.operation.value


def test_methods_that_are_not_described_lead_to_no_operation() -> None:
    known = {(method, path) for method, path, _ in all_described()}
    for path in DESCRIPTION["paths"]:
        for method in METHODS:
            try:
                route = parse_route(method.upper(), filled(path), encoded=True)
            except (NoRouteError, ValidationError):
                assert (method, path) not in known
                continue
            # A fixed path such as /healthz also matches a path with a parameter in its place.
            found = described(route.operation)
            assert found.path == path or "{" in found.path, (method, path)


def test_only_operations_without_a_token_are_described_as_open() -> None:
    for _, _, found in all_described():
        is_open = found.get("security") == []
        assert is_open == (Operation(found["operationId"].removesuffix(HEAD_SUFFIX)) in OPEN)
        assert is_open == ("401" not in found["responses"])


@ALL
def test_the_description_names_the_right_that_an_operation_requires(operation: Operation) -> None:
    text = described(operation).object.get("description", "")
    assert text == ("" if operation in OPEN else f"Requires the right {right_for(operation).value}.")


def test_every_error_code_is_described_with_its_status() -> None:
    for code, status in STATUS_OF.items():
        answer = DESCRIPTION["components"]["responses"][f"Error{status}"]
        body = {"error": {"code": code, "message": "why"}}
        check(answer["content"]["application/json"]["schema"], body, code)
        with pytest.raises(AssertionError):
            check(answer["content"]["application/json"]["schema"], {"error": {"code": "Other", "message": "why"}}, code)


def test_no_error_code_is_described_that_the_protocol_does_not_have() -> None:
    assert SCHEMAS["Error"]["properties"]["error"]["properties"]["code"]["enum"] == list(STATUS_OF)
    assert SCHEMAS["Failed"]["properties"]["failed"]["items"]["properties"]["code"]["enum"] == list(STATUS_OF)
    assert DESCRIPTION["components"]["headers"][ERROR_CODE_HEADER]["schema"]["enum"] == list(STATUS_OF)


def test_the_version_is_the_protocols() -> None:
    assert DESCRIPTION["info"]["version"] == PROTOCOL_VERSION
    assert DESCRIPTION["components"]["headers"][PROTOCOL_HEADER]["schema"]["const"] == PROTOCOL_VERSION


def test_the_headers_have_the_names_of_the_protocol() -> None:
    assert {LOCK_ID_HEADER, LOCK_HELD_HEADER, ROUTE_HEADER, REQUEST_ID_HEADER} <= set(PARAMETERS)
    assert {LOCK_EXPIRES_HEADER, WAITED_HEADER, COUNT_HEADER} <= set(DESCRIPTION["components"]["headers"])


def test_the_limits_are_the_gateways() -> None:
    assert PARAMETERS["timeout"]["schema"]["maximum"] == MAX_TIMEOUT
    assert PARAMETERS["timeout"]["schema"]["default"] == DEFAULT_TIMEOUT
    assert PARAMETERS["maxShown"]["schema"]["default"] == handlers.DEFAULT_PEEK_COUNT
    assert PARAMETERS["maxListed"]["schema"]["default"] == handlers.DEFAULT_LIST_COUNT
    for name in ("maxReceived", "maxShown", "maxListed"):
        assert PARAMETERS[name]["schema"]["maximum"] == validation.MAX_BATCH
    for name in (LOCK_ID_HEADER, REQUEST_ID_HEADER):
        assert PARAMETERS[name]["schema"]["pattern"] == f"^{IDENTIFIER}$"
    assert PARAMETERS["entity"]["schema"]["maxLength"] == validation.MAX_QUEUE_NAME_LENGTH
    assert PARAMETERS["sid"]["schema"]["maxLength"] == validation.MAX_SESSION_ID_LENGTH
    assert PARAMETERS["token"]["schema"]["maxLength"] == validation.MAX_LOCK_TOKEN_LENGTH
    assert PARAMETERS["from"]["schema"]["maximum"] == validation.MAX_SEQUENCE_NUMBER
    assert SCHEMAS["Sent"]["maxItems"] == SCHEMAS["Envelope"]["maxItems"] == validation.MAX_BATCH
    assert SCHEMAS["Reason"]["properties"]["DeadLetterReason"]["anyOf"][0]["maxLength"] == validation.MAX_REASON_LENGTH
    message_id = SCHEMAS["SentProperties"]["properties"]["MessageId"]
    assert message_id["anyOf"][0]["maxLength"] == validation.MAX_MESSAGE_ID_LENGTH


def test_the_gateway_serves_the_file_without_a_token(gateway: Gateway) -> None:
    reply = gateway.ask("GET", "/openapi.json", token="")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.body == DOCUMENT
    head = gateway.ask("HEAD", "/openapi.json", token="")
    assert (head.status, head.body) == (200, b"")


def test_the_served_description_does_not_depend_on_queues_and_keys(gateway: Gateway) -> None:
    before = gateway.ask("GET", "/openapi.json", token="").body
    queue = gateway.queue()
    gateway.send(queue, "a-session-of-its-own", "x")
    after = gateway.ask("GET", "/openapi.json", token="").body
    assert after == before
    assert b"a-session-of-its-own" not in after
    assert not any(key.key.encode() in after for key in KEYS)


def test_the_description_is_valid_openapi_3_1() -> None:
    # A copy, because the library changes the description.
    schema = schemathesis.openapi.from_dict(copy.deepcopy(DESCRIPTION))
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(list(all_described()))
    assert DESCRIPTION["openapi"].startswith("3.1.")


def test_another_checker_finds_no_fault_in_the_served_description(gateway: Gateway) -> None:
    validate(gateway.ask("GET", "/openapi.json", token="").json, cls=OpenAPIV31SpecValidator)


def examples(media: dict[str, Any]) -> list[Any]:
    return [one["value"] for one in media.get("examples", {}).values()] + [media[key] for key in ("example",) if key in media]


def example_parameters(operation: Operation) -> tuple[str, dict[str, str]]:
    """Return the path and the headers of an operation, filled with the examples of its parameters."""
    found = described(operation)
    path, headers = found.path, {}
    for parameter in map(resolve, found.object["parameters"]):
        media = next(iter(parameter.get("content", {}).values()), parameter)
        for example in examples(media):
            check(media["schema"], example, parameter["name"])
            text = example if isinstance(example, str) else json.dumps(example)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(text, safe=""))
            else:
                headers[parameter["name"]] = text
    return path + ("?timeout=0" if "timeout" in found.query else ""), headers


def example_bodies(operation: Operation) -> list[tuple[str, bytes | None]]:
    """Return the content types and bodies of an operation's examples."""
    bodies: list[tuple[str, bytes | None]] = []
    for kind, media in described(operation).object.get("requestBody", {"content": {}})["content"].items():
        for example in examples(media):
            check(media["schema"], example, kind)
            bodies.append((kind, json.dumps(example).encode()))
        if not examples(media):
            bodies.append(("text/plain" if kind == "*/*" else kind, b"anything"))
    return bodies or [("", None)]


@ALL
def test_the_gateway_accepts_every_example(gateway: Gateway, operation: Operation) -> None:
    path, headers = example_parameters(operation)
    for kind, body in example_bodies(operation):
        # Another example may have deleted the queue.
        gateway.ask("PUT", "/orders", {})
        content_type = {"Content-Type": kind} if kind else {}
        reply = gateway.ask(described(operation).method.upper(), path, body, {**headers, **content_type})
        # No message has the lock token of the example.
        expected = ("MessageLockLost", "MessageNotFound", "SessionLockLost", "Conflict")
        assert reply.status < 300 or reply.code in expected, reply
    gateway.ask("DELETE", "/orders")


@ALL
def test_the_gateway_requires_the_right_that_is_described(gateway: Gateway, operation: Operation) -> None:
    if operation in OPEN:
        return
    found = DESCRIBED[operation.value]
    path = filled(found.path, entity="no-such-queue") + ("?timeout=0" if "timeout" in found.query else "")
    for key in (LISTEN, SEND):
        (right,) = key.rights
        refused = gateway.ask(found.method.upper(), path, b"", key=key).status == 403
        assert refused != (f"the right {right.value}." in found.object["description"])
