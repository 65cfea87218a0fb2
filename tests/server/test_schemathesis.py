"""Requests that Schemathesis makes up from the description in OpenAPI, right ones and wrong ones, to a gateway on a socket.

Whatever is asked, nothing is answered 5xx, and every answer is as described: status, type, headers, body. A few examples of
each operation are made here; for more of them, say how many:

    AZSESSION_EXAMPLES=1000 pytest tests/server/test_schemathesis.py

So that requests do not all end at a queue or a message that is not there, what Schemathesis made up is often exchanged for
names and tokens that the gateway knows: each example begins with a message in hand, one deferred and one dead-lettered.
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
from .raw import LISTEN, Gateway, Holder, fresh_id, serving

EXAMPLES = int(os.environ.get("AZSESSION_EXAMPLES", "3"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# A copy: it is changed by who reads it.
SCHEMA = schemathesis.openapi.from_dict(copy.deepcopy(DESCRIPTION))
OPERATIONS = {found.ok().definition.raw["operationId"]: found.ok() for found in SCHEMA.get_all_operations()}
ALL = pytest.mark.parametrize("name", list(OPERATIONS))
#: Requests as described, and others; where there is nothing to be wrong with, there are no others.
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
    """A gateway and what is in it."""

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
    """Return a stage with a message in hand, one deferred, and one dead-lettered."""
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
    """Exchange parts of a request for what the gateway knows, and have it not wait."""
    for name in set(case.path_parameters or {}) & chosen & set(stage.known):
        # What Schemathesis made up is percent-encoded here already.
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
    """Fail where an answer is not as described."""
    # A message that was sent without a content type comes without one, which is not what Schemathesis expects of a body.
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
        # What was taken, settled or deleted is there again for the next one.
        if response.status_code < 300 and case.method not in ("GET", "HEAD"):
            stage = None

    ask()


@ALL
def test_nobody_is_let_in_without_a_token(gateway: Gateway, http: requests.Session, name: str) -> None:
    stage = staged(gateway, http)
    is_open = Operation(name.removesuffix("-head")).value in ("health", "openapi")

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
