"""Version 1 of the session protocol in OpenAPI 3.1, which the gateway serves at ``/openapi.json``.

It is made of what the gateway reads and answers with: operations, limits, rights and statuses are those of `protocol`,
`validation`, `exchange` and `security`. `schemas` has the bodies and headers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import attrs

from ..protocol import (
    ENVELOPE_TYPE,
    JSON_TYPE,
    LOCK_HELD_HEADER,
    LOCK_ID_HEADER,
    PROTOCOL_VERSION,
    REQUEST_ID_HEADER,
    ROUTE_HEADER,
)
from ..protocol.error_codes import INVALID_REQUEST, STATUS_OF
from ..protocol.routes import Operation
from .authorization import OPEN, right_for
from .schemas import ANY_BYTES, COUNTED, HEADERS, LOCKED, PARAMETERS, SCHEMAS

_ENTITY = "/{entity}"
_SESSIONS = "/{entity}/sessions"
_SESSION = "/{entity}/sessions/{sid}"
_MESSAGE = "/{entity}/sessions/{sid}/messages/{token}"
_DEAD = "/{entity}/$deadletterqueue/messages"

#: Statuses that any request which needs a token can be answered with, whatever the gateway stands before.
_ANY = (400, 401, 403, 405, 408, 413, 429, 500, 502, 503, 507)
#: And one about a queue, one by a session's holder, one that needs no token.
_OF_QUEUE, _OF_HOLDER, _OF_OPEN = (404, 409), (410, 423), (400, 408, 413, 500, 503)

_DESCRIPTION = """\
Message sessions over HTTP: strict order and one holder at a time for each session id.

An entity is a queue, or a subscription as `topic/subscriptions/name`. Its slashes may stand in the path as they are, or be
percent-encoded, as this description has it, for which a parameter is one segment. A session id is always one segment: a
slash in it is `%2F`, which nothing on the way may decode.

A message is a raw body with a header `BrokerProperties` and a header for each of its attributes, whose names no description
can list: text in double quotes, numbers and booleans bare. Or messages are in an envelope, `application/vnd.microsoft.\
servicebus.json`.

Every answer says `Azsession-Protocol: 1`. Unknown headers are ignored on both sides."""

_SCHEME = """\
`SharedAccessSignature sr=..&sig=..&se=..&skn=..`, as in Azure Service Bus: `sig` is the base64 of the HMAC-SHA256 with the \
key's text over the percent-encoded `sr`, a line feed, and `se`. `sr` is a prefix, segment by segment, of the path."""


@attrs.frozen(kw_only=True)
class Described:
    """An operation as the description has it.

    Attributes:
        method: The HTTP method, in lower case.
        path: The path, with names of `PARAMETERS`.
        summary: What it does.
        query: Names of `PARAMETERS`.
        headers: Names of request headers.
        body: What it takes, by content type; with an example each.
        needs_body: The body may not be left out.
        answers: What it gives: for each status a description, headers (names of `HEADERS`) and, by content type, a schema.
        errors: Statuses besides `_ANY` that tell of a failure.
    """

    method: str
    path: str
    summary: str
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    body: Mapping[str, Any] | None = None
    needs_body: bool = False
    answers: Mapping[int, tuple[str, Sequence[str], Mapping[str, Any]]]
    errors: tuple[int, ...] = _OF_QUEUE


def _ref(name: str, kind: str = "schemas") -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _json(schema: str, *examples: Any) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": _ref(schema)}
    if examples:
        media["examples"] = {f"{schema}{number}": {"value": value} for number, value in enumerate(examples, 1)}
    return {JSON_TYPE: media}


_HOLDER = (LOCK_ID_HEADER, ROUTE_HEADER)
_DONE: Mapping[int, tuple[str, Sequence[str], Mapping[str, Any]]] = {204: ("Done.", (), {})}
_ENVELOPE = {ENVELOPE_TYPE: {"schema": _ref("Envelope")}}
_REASON = _json("Reason", {"DeadLetterReason": "unpayable", "DeadLetterErrorDescription": "the card has expired"})
_EXAMPLE = [{"Body": "paid", "BrokerProperties": {"SessionId": "order-42", "MessageId": "1"}, "UserProperties": {"tries": 1}}]
_SETTINGS = {"LockDuration": "PT30S", "MaxDeliveryCount": 5, "DeadLetteringOnMessageExpiration": True}


def _of_message(method: str, summary: str, suffix: str = "", **more: Any) -> Described:
    return Described(
        method=method, path=_MESSAGE + suffix, summary=summary, headers=_HOLDER, answers=_DONE, errors=(404, 409, 410), **more
    )


def _of_session(method: str, suffix: str, summary: str, answers: Any, **more: Any) -> Described:
    more = {"headers": _HOLDER, "errors": (*_OF_QUEUE, *_OF_HOLDER), **more}
    return Described(method=method, path=_SESSION + suffix, summary=summary, answers=answers, **more)


#: Every operation of the protocol.
DESCRIBED: dict[Operation, Described] = {
    Operation.RECEIVE: _of_session(
        "delete",
        "/messages/head",
        "Receive the session's next message, or with `max` up to as many, taking its lock.",
        {
            201: (
                "The message, or an envelope: with `max`, and of one message that is too much for headers. One whose sender "
                "gave no content type comes without.",
                (*LOCKED, *COUNTED),
                {ENVELOPE_TYPE: {"schema": _ref("Envelope")}, "*/*": ANY_BYTES},
            ),
            204: ("None came in time. The lock is taken all the same.", LOCKED, {}),
        },
        query=("timeout", "maxReceived"),
        headers=(*_HOLDER, LOCK_HELD_HEADER, REQUEST_ID_HEADER),
    ),
    Operation.COMPLETE: _of_message("delete", "Complete a message: it is done, and deleted."),
    Operation.ABANDON: _of_message("put", "Give a message back: it comes again, before the later ones."),
    Operation.DEFER: _of_message("post", "Put a message aside, to be received by its sequence number.", "/$defer"),
    Operation.DEAD_LETTER: _of_message("post", "Move a message to the dead-letter queue.", "/$deadletter", body=_REASON),
    Operation.SETTLE: _of_session(
        "post",
        "/messages/$settle",
        "Settle many messages.",
        {200: ("Those that could not be settled, and why.", (), _json("Failed"))},
        body=_json("Settlements", {"complete": ["6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"]}),
        needs_body=True,
    ),
    Operation.RECEIVE_DEFERRED: _of_session(
        "post",
        "/messages/$deferred",
        "Receive deferred messages, all or none.",
        {201: ("The messages.", COUNTED, _ENVELOPE)},
        body=_json("SequenceNumbers", {"SequenceNumbers": [4, 7]}),
        needs_body=True,
    ),
    Operation.DEAD_LETTER_SESSION: _of_session(
        "post",
        "/$deadletter",
        "Move everything that is left in the session to the dead-letter queue.",
        {200: ("How many messages that were.", (), _json("Moved"))},
        body=_REASON,
        headers=(*_HOLDER, REQUEST_ID_HEADER),
    ),
    Operation.RENEW: _of_session(
        "post", "/renewlock", "Renew the session's lock.", {204: ("Renewed.", ("Azsession-Lock-Expires-In",), {})}
    ),
    Operation.RELEASE: _of_session("post", "/release", "Give the session's lock back, if it is held.", _DONE),
    Operation.GET_STATE: _of_session(
        "get",
        "/state",
        "Return what was kept with the session.",
        {200: ("The state.", (), {"application/octet-stream": ANY_BYTES}), 204: ("There is none.", (), {})},
    ),
    Operation.SET_STATE: _of_session(
        "put", "/state", "Keep bytes with the session.", _DONE, body={"application/octet-stream": ANY_BYTES}
    ),
    Operation.CLEAR_STATE: _of_session("delete", "/state", "Keep nothing with the session any more.", _DONE),
    Operation.PEEK: _of_session(
        "get",
        "/messages",
        "Return messages of the session without receiving them.",
        {200: ("The messages, by sequence number.", COUNTED, _ENVELOPE)},
        query=("from", "maxShown"),
        headers=(),
        errors=_OF_QUEUE,
    ),
    Operation.ACCEPT: Described(
        method="post",
        path=_SESSIONS,
        summary="Take the lock of a session, or of the next one that has messages.",
        query=("timeout",),
        headers=(*_HOLDER, REQUEST_ID_HEADER),
        body=_json("Wanted", {}, {"SessionId": "order-42"}),
        answers={201: ("The session.", LOCKED, _json("Accepted")), 204: ("None was available in time.", (), {})},
        errors=(*_OF_QUEUE, *_OF_HOLDER),
    ),
    Operation.LIST_SESSIONS: Described(
        method="get",
        path=_SESSIONS,
        summary="Return sessions that have messages or state, by id.",
        query=("maxListed", "after"),
        answers={200: ("The sessions.", (), _json("Sessions"))},
    ),
    Operation.SEND: Described(
        method="post",
        path=_ENTITY + "/messages",
        summary="Send one message, or those of an envelope, all or none. They are kept safely when it is answered.",
        headers=("BrokerProperties", REQUEST_ID_HEADER),
        body={
            ENVELOPE_TYPE: {"schema": _ref("Sent"), "examples": {"envelope": {"value": _EXAMPLE}}},
            "*/*": ANY_BYTES,
        },
        answers={201: ("Accepted.", (), {})},
    ),
    Operation.PEEK_DEAD_LETTERS: Described(
        method="get",
        path=_DEAD,
        summary="Return dead letters of all sessions, by sequence number.",
        query=("from", "maxShown"),
        answers={200: ("The messages.", COUNTED, _ENVELOPE)},
    ),
    Operation.RESUBMIT: Described(
        method="post",
        path=_DEAD + "/{number}/resubmit",
        summary="Move a dead letter to the end of its session, as a new message.",
        answers={201: ("Moved.", (), {})},
    ),
    Operation.DELETE_DEAD_LETTER: Described(
        method="delete", path=_DEAD + "/{number}", summary="Delete a dead letter.", answers=_DONE
    ),
    Operation.CREATE_QUEUE: Described(
        method="put",
        path=_ENTITY,
        summary="Make a queue. One that is there with the same settings stays as it is.",
        body=_json("Settings", {}, _SETTINGS),
        answers={201: ("Made.", (), _json("Queue")), 200: ("It was there.", (), _json("Queue"))},
    ),
    Operation.GET_QUEUE: Described(
        method="get",
        path=_ENTITY,
        summary="Return a queue with its settings and counts.",
        answers={200: ("The queue.", (), _json("Queue"))},
    ),
    Operation.DELETE_QUEUE: Described(
        method="delete", path=_ENTITY, summary="Delete a queue and everything in it.", answers=_DONE
    ),
    Operation.LIST_QUEUES: Described(
        method="get",
        path="/",
        summary="Return all queues, by name, without counts.",
        answers={200: ("The queues.", (), _json("Queues"))},
        errors=(),
    ),
    Operation.HEALTH: Described(
        method="get",
        path="/healthz",
        summary="Tell that the gateway serves.",
        answers={200: ("It does.", (), _json("Health"))},
        errors=_OF_OPEN,
    ),
    Operation.OPENAPI: Described(
        method="get",
        path="/openapi.json",
        summary="Return this description.",
        answers={200: ("It.", (), {JSON_TYPE: {"schema": {"type": "object"}}})},
        errors=_OF_OPEN,
    ),
}


def _codes() -> dict[int, list[str]]:
    """Return the codes of each status."""
    codes: dict[int, list[str]] = {}
    for code, status in STATUS_OF.items():
        codes.setdefault(status, []).append(code)
    # A path that is none of the protocol's.
    codes[404].append(INVALID_REQUEST)
    # A head that takes too long.
    codes[408] = [INVALID_REQUEST]
    return codes


def _headers(*names: str) -> dict[str, Any]:
    return {name: _ref(name, "headers") for name in ("Azsession-Protocol", *names)}


_WITH_ERROR = {
    401: ("WWW-Authenticate",),
    423: ("Azsession-Lock-Expires-In-Maybe",),
    429: ("Retry-After",),
    503: ("Retry-After",),
    405: ("Allow",),
}


def _error(status: int, codes: list[str]) -> dict[str, Any]:
    code = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    named = _headers("x-ms-error-code", *_WITH_ERROR.get(status, ()))
    return {
        "description": " or ".join(codes),
        "headers": {name.removesuffix("-Maybe"): header for name, header in named.items()},
        "content": {JSON_TYPE: {"schema": {"allOf": [_ref("Error"), code]}}},
    }


def _operation(operation: Operation, described: Described) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, (description, headers, content) in described.answers.items():
        answers[str(status)] = {"description": description, "headers": _headers(*headers)}
        if content:
            answers[str(status)]["content"] = content
    is_open = operation in OPEN
    for status in sorted({*described.errors, *(() if is_open else _ANY)}):
        answers[str(status)] = _ref(f"Error{status}", "responses")
    inside = [part[1:-1] for part in described.path.split("/") if part.startswith("{")]
    found: dict[str, Any] = {
        "operationId": operation.value,
        "summary": described.summary,
        "parameters": [_ref(name, "parameters") for name in (*inside, *described.query, *described.headers)],
        "responses": answers,
    }
    if is_open:
        found["security"] = []
    else:
        found["description"] = f"Needs the right {right_for(operation).value}."
    if described.body is not None:
        found["requestBody"] = {"required": described.needs_body, "content": described.body}
    return found


def describe() -> dict[str, Any]:
    """Return the description, as JSON has it."""
    paths: dict[str, dict[str, Any]] = {}
    for operation, described in DESCRIBED.items():
        at = paths.setdefault(described.path, {})
        at[described.method] = _operation(operation, described)
        if operation in OPEN:
            head = _operation(operation, described)
            for answer in head["responses"].values():
                answer.pop("content", None)
            at["head"] = {**head, "operationId": f"{operation.value}-head", "summary": "The same, without a body."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Message sessions", "version": PROTOCOL_VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"SharedAccessSignature": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "SharedAccessSignature": {"type": "apiKey", "in": "header", "name": "Authorization", "description": _SCHEME}
            },
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": {f"Error{status}": _error(status, codes) for status, codes in sorted(_codes().items())},
            "schemas": SCHEMAS,
        },
    }


@cache
def document() -> bytes:
    """Return the description as it is served."""
    return json.dumps(describe(), separators=(",", ":")).encode()
