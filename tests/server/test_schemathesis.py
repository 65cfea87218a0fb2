"""Schemathesis generates valid and invalid requests from the OpenAPI description, and sends them to a gateway on a socket.

No answer has a status 5xx, and each answer is as described: status, type, headers, body. Each operation gets a few examples.
For more, set their number:

    AZSESSION_EXAMPLES=1000 pytest tests/server/test_schemathesis.py

Most generated requests would fail at a queue or a message that does not exist. So parts of them are replaced with names and
tokens that exist: each example starts with one received, one deferred and one dead-lettered message.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from azsession.protocol.routes import Operation

from .described import DESCRIPTION
from .raw import ENVELOPE, LISTEN, Gateway, Holder, fresh_id, serving

# An envelope is JSON. schemathesis knows only the registered media types.
schemathesis.serializer.alias(ENVELOPE, "application/json")

EXAMPLES = int(os.environ.get("AZSESSION_EXAMPLES", "3"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# A copy, because the library changes it.
SCHEMA = schemathesis.openapi.from_dict(copy.deepcopy(DESCRIPTION))
OPERATIONS = {found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()}
ALL = pytest.mark.parametrize("name", list(OPERATIONS))
#: Valid and invalid requests of each operation. Operations without parameters have no invalid requests.
CASES = pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(name, mode, id=f"{name}-{'right' if mode.is_positive else 'wrong'}")
        for name, operation in OPERATIONS.items()
        for mode in GenerationMode
        if mode.is_positive or list(operation.iter_parameters()) or operation.body
    ],
)


@attrs.frozen
class Stage:
    """A gateway, and the names and tokens in it that exist."""

    gateway: Gateway
    http: requests.Session
    known: dict[str, Any]
    lock_id: str


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with serving() as gateway:
        gateway.holder(gateway.queue(), "first").receive("timeout=0.01")
        yield gateway


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as http:
        http.trust_env = False
        yield http


def staged(gateway: Gateway, http: requests.Session) -> Stage:
    """Return a stage with one received, one deferred and one dead-lettered message."""
    queue = gateway.queue()
    holder = Holder(gateway, queue, "a/b", fresh_id())
    gateway.send(queue, "a/b", "one", "two", "three", "four")
    dead = holder.receive()
    holder.dead_letter(dead.token)
    deferred = holder.receive()
    holder.defer(deferred.token)
    known = {
        "entity": queue,
        "sid": "a/b",
        "token": holder.receive().token,
        "number": gateway.ask("GET", f"/{queue}/$deadletterqueue/messages").json[0]["BrokerProperties"]["SequenceNumber"],
        "SequenceNumbers": [deferred.properties["SequenceNumber"]],
    }
    return Stage(gateway, http, known, str(holder.headers["Azsession-Lock-Id"]))


def put_known(case: Any, stage: Stage, chosen: set[str]) -> None:
    """Replace the chosen parts of a request with names and tokens that exist, and set the timeout to 0."""
    for name in set(case.path_parameters or {}) & chosen & set(stage.known):
        # Generated path parameters are percent-encoded already.
        case.path_parameters[name] = quote(str(stage.known[name]), safe="")
    if "lock" in chosen:
        case.headers["Azsession-Lock-Id"] = stage.lock_id
    if "SequenceNumbers" in chosen and isinstance(case.body, dict) and "SequenceNumbers" in case.body:
        case.body["SequenceNumbers"] = stage.known["SequenceNumbers"]
    if "token" in chosen and isinstance(case.body, dict) and isinstance(case.body.get("complete"), list):
        case.body["complete"] = [stage.known["token"]]
    asked = case.query.get("timeout") if case.query else None
    if "timeout" in case.operation.query and not isinstance(asked, (str, list, dict, bool)):
        case.query["timeout"] = 0


def validate(case: Any, response: requests.Response) -> None:
    """Fail if an answer is not as described."""
    # Schemathesis expects a content type with each body, but a message sent without one has none.
    untyped = case.method == "DELETE" and response.status_code == 201 and "Content-Type" not in response.headers
    case.validate_response(response, checks=[one for one in CHECKS if one is not content_type_conformance or not untyped])


PARTS = st.sets(st.sampled_from(["entity", "sid", "token", "number", "lock", "SequenceNumbers"]))


@CASES
def test_every_answer_is_as_described(gateway: Gateway, http: requests.Session, name: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[name]
    stage: Stage | None = None

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode), chosen=PARTS)
    def ask(case: Any, chosen: set[str]) -> None:
        nonlocal stage
        stage = stage or staged(gateway, http)
        put_known(case, stage, chosen)
        authorized = {"Authorization": gateway.token()}
        response = case.call(base_url=gateway.url, session=http, headers=authorized)
        validate(case, response)
        # A new stage, because the request before may have used up messages or tokens.
        if response.status_code < 300 and case.method not in ("GET", "HEAD"):
            stage = None

    ask()


@ALL
def test_a_request_without_a_token_is_refused(gateway: Gateway, http: requests.Session, name: str) -> None:
    stage = staged(gateway, http)
    is_open = Operation(name.removesuffix("-head")).value in ("health", "ready", "openapi")

    @settings(max_examples=2, suppress_health_check=list(HealthCheck), database=None)
    @given(case=OPERATIONS[name].as_strategy(), token=st.sampled_from(["", "SharedAccessSignature sr=a&sig=b&se=9&skn=root"]))
    def ask(case: Any, token: str) -> None:
        put_known(case, stage, {"entity", "sid", "token", "number"})
        response = case.call(base_url=gateway.url, session=http, headers={"Authorization": token})
        validate(case, response)
        assert (response.status_code == 401) != is_open

    ask()


def test_a_key_that_lacks_the_right_is_refused_as_described(gateway: Gateway, http: requests.Session) -> None:
    stage = staged(gateway, http)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(case=OPERATIONS["send"].as_strategy())
    def ask(case: Any) -> None:
        put_known(case, stage, {"entity"})
        response = case.call(base_url=gateway.url, session=http, headers={"Authorization": gateway.token(key=LISTEN)})
        validate(case, response)
        assert response.status_code == 403

    ask()
