"""Paths and queries: the gateway parses the paths of the client, raw or decoded by the HTTP server."""

from __future__ import annotations

import contextlib
import posixpath
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import ValidationError
from azsession.protocol.routes import (
    NoRouteError,
    Operation,
    Route,
    entity_path,
    format_timeout,
    is_fragile,
    message_path,
    must_be_escaped,
    parse_route,
    session_path,
)

GUID = "6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"
#: The operations on a session: method, segments after the session's path, operation, whether there is a lock token.
SESSION_OPERATIONS = [
    ("DELETE", "/messages/head", Operation.RECEIVE, False),
    ("DELETE", message_path(GUID), Operation.COMPLETE, True),
    ("PUT", message_path(GUID), Operation.ABANDON, True),
    ("POST", message_path(GUID) + "/$deadletter", Operation.DEAD_LETTER, True),
    ("POST", message_path(GUID) + "/$defer", Operation.DEFER, True),
    ("POST", "/renewlock", Operation.RENEW, False),
    ("POST", "/release", Operation.RELEASE, False),
    ("POST", "/messages/$settle", Operation.SETTLE, False),
    ("POST", "/messages/$deferred", Operation.RECEIVE_DEFERRED, False),
    ("POST", "/$deadletter", Operation.DEAD_LETTER_SESSION, False),
    ("GET", "/messages", Operation.PEEK, False),
    ("GET", "/state", Operation.GET_STATE, False),
    ("PUT", "/state", Operation.SET_STATE, False),
    ("DELETE", "/state", Operation.CLEAR_STATE, False),
]
SESSION_IDS = [
    "s1",
    "a/b",
    "a/messages/head",
    "x/renewlock",
    "50%",
    "a?b#c",
    "état",
    "%2F",
    "a b",
    "sessions",
    "messages",
    "head",
]
SESSION_IDS += [
    "/",
    "//",
    "a/",
    "/a",
    "state",
    "$deadletter",
    "x/sessions/y",
    "é" * 128,
    "a/messages",
    "a/state",
    GUID,
    "+",
    "...",
]
ENTITIES = ["orders", "events/subscriptions/audit", "sessions", "messages", "healthz"]
#: Entities with slashes. Some have words of the protocol in them.
NESTED = [
    "site1/orders",
    "a/b/c/d",
    "a/messages",
    "a/sessions",
    "a/messages/head",
    "a/sessions/s/state",
    "sessions/sessions",
    "site1/events/subscriptions/audit",
    "messages/subscriptions/sessions",
    "a/messages/subscriptions/messages",
    "healthz/readyz",
]
#: Session ids that only the escaped form carries, or that a proxy can change.
FRAGILE = ["", ".", "..", "\x00", "a\n", "\x85", "a//b", "a/../b", "/", "a/", "\\"]

IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=128).filter(lambda t: t not in (".", ".."))


@pytest.mark.parametrize("session_id", SESSION_IDS, ids=[name[:24] for name in SESSION_IDS])
@pytest.mark.parametrize("entity", ENTITIES)
def test_an_encoded_path_is_parsed_exactly_for_any_session_id(entity: str, session_id: str) -> None:
    for method, rest, operation, has_token in SESSION_OPERATIONS:
        path = session_path(entity, session_id) + rest
        token = GUID if has_token else ""
        assert parse_route(method, path, encoded=True) == Route(operation, entity, session_id, token)


@pytest.mark.parametrize("entity", [*ENTITIES, *NESTED])
@pytest.mark.parametrize("encoded", [True, False], ids=["encoded", "decoded"])
def test_the_escaped_form_carries_any_session_id_in_any_entity(entity: str, encoded: bool) -> None:
    for session_id in [*SESSION_IDS, *FRAGILE, *("~YQ", "$sessions/~YQ", "~")]:
        for method, rest, operation, has_token in SESSION_OPERATIONS:
            path = session_path(entity, session_id, escaped=True) + rest
            path = path if encoded else unquote(path)
            route = parse_route(method, path, encoded=encoded)
            assert route == Route(operation, entity, session_id, GUID if has_token else "")
            assert route.resource == (*entity_path(entity)[1:].split("/"), "sessions", session_id)


@given(session_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=128))
def test_the_escaped_form_survives_normalization_and_decoding(session_id: str) -> None:
    path = session_path("orders", session_id, escaped=True) + "/renewlock"
    changed = posixpath.normpath(unquote(path))
    assert parse_route("POST", changed, encoded=False).session_id == session_id
    assert parse_route("POST", quote(changed), encoded=True).session_id == session_id


@pytest.mark.parametrize("session_id", FRAGILE)
def test_session_ids_that_a_path_does_not_carry_safely_are_known(session_id: str) -> None:
    assert is_fragile(session_id)
    assert must_be_escaped(session_id) == (session_id in ("", ".", "..", "\x00", "a\n", "\x85"))


@pytest.mark.parametrize("entity", NESTED)
def test_every_path_of_an_entity_with_slashes_is_parsed(entity: str) -> None:
    at = entity_path(entity)
    for method, rest, operation in (
        ("PUT", "", Operation.CREATE_QUEUE),
        ("GET", "", Operation.GET_QUEUE),
        ("DELETE", "", Operation.DELETE_QUEUE),
        ("POST", "/messages", Operation.SEND),
        ("POST", "/sessions", Operation.ACCEPT),
        ("GET", "/sessions", Operation.LIST_SESSIONS),
        ("GET", "/$deadletterqueue/messages", Operation.PEEK_DEAD_LETTERS),
    ):
        assert parse_route(method, at + rest, encoded=True) == Route(operation, entity)
    for session_id in SESSION_IDS:
        for method, rest, operation, has_token in SESSION_OPERATIONS:
            path = session_path(entity, session_id) + rest
            route = Route(operation, entity, session_id, GUID if has_token else "")
            assert parse_route(method, path, encoded=True) == route
            assert parse_route(method, unquote(path), encoded=False) == route


def test_the_resource_of_a_queue_is_not_that_of_a_session_or_operation_of_another_queue() -> None:
    session = parse_route("POST", "/orders/sessions/s1/renewlock", encoded=True).resource
    queue = parse_route("PUT", entity_path("orders/sessions/s1"), encoded=True).resource
    assert (session, queue) == (("orders", "sessions", "s1"), ("orders", "~sessions", "s1"))


def test_a_queue_with_the_name_of_an_open_path_can_be_read() -> None:
    assert entity_path("healthz") == "/~healthz"
    assert parse_route("GET", entity_path("healthz"), encoded=True) == Route(Operation.GET_QUEUE, "healthz")


@pytest.mark.parametrize("session_id", SESSION_IDS, ids=[name[:24] for name in SESSION_IDS])
def test_a_decoded_path_with_slashes_in_the_session_id_is_parsed(session_id: str) -> None:
    for method, rest, operation, has_token in SESSION_OPERATIONS:
        path = unquote(session_path("orders", session_id) + rest)
        token = GUID if has_token else ""
        assert parse_route(method, path, encoded=False) == Route(operation, "orders", session_id, token)


@given(session_id=IDS, token=IDS)
def test_an_encoded_path_can_have_any_session_id_and_lock_token(session_id: str, token: str) -> None:
    path = session_path("orders", session_id)
    assert path.isascii()
    assert not set(path) & set('?# \\"<>')
    assert parse_route("POST", path + "/renewlock", encoded=True).session_id == session_id
    deferring = parse_route("POST", path + message_path(token) + "/$defer", encoded=True)
    assert (deferring.session_id, deferring.lock_token) == (session_id, token)


@given(session_id=IDS)
def test_a_decoded_receive_can_have_any_session_id(session_id: str) -> None:
    path = f"/orders/sessions/{session_id}/messages/head"
    assert parse_route("DELETE", path, encoded=False) == Route(Operation.RECEIVE, "orders", session_id)


@pytest.mark.parametrize("entity", ENTITIES)
@pytest.mark.parametrize(
    ("method", "rest", "operation", "number"),
    [
        ("PUT", "", Operation.CREATE_QUEUE, 0),
        ("DELETE", "", Operation.DELETE_QUEUE, 0),
        ("POST", "/messages", Operation.SEND, 0),
        ("POST", "/sessions", Operation.ACCEPT, 0),
        ("GET", "/sessions", Operation.LIST_SESSIONS, 0),
        ("GET", "/$deadletterqueue/messages", Operation.PEEK_DEAD_LETTERS, 0),
        ("POST", "/$deadletterqueue/messages/17/resubmit", Operation.RESUBMIT, 17),
        ("DELETE", "/$deadletterqueue/messages/17", Operation.DELETE_DEAD_LETTER, 17),
    ],
)
def test_a_path_of_a_queue_is_parsed(entity: str, method: str, rest: str, operation: Operation, number: int) -> None:
    assert parse_route(method, f"/{entity}{rest}", encoded=True) == Route(operation, entity, sequence_number=number)


def test_the_paths_of_the_namespace_and_its_health_are_parsed() -> None:
    assert parse_route("GET", "/", encoded=True).operation is Operation.LIST_QUEUES
    assert parse_route("GET", "/healthz", encoded=True).operation is Operation.HEALTH
    assert parse_route("GET", "/orders", encoded=True) == Route(Operation.GET_QUEUE, "orders")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/orders", {"PUT", "GET", "DELETE"}),
        ("PUT", "/orders/messages", {"GET", "POST"}),
        ("PUT", "/orders/sessions", {"POST", "GET"}),
        ("GET", "/orders/sessions/s1/renewlock", {"POST"}),
        ("PATCH", "/orders/sessions/s1/state", {"GET", "PUT", "DELETE"}),
        ("POST", "/", {"GET"}),
    ],
)
def test_the_error_for_a_wrong_method_lists_the_allowed_ones(method: str, path: str, allowed: set[str]) -> None:
    with pytest.raises(NoRouteError) as caught:
        parse_route(method, path, encoded=True)
    assert set(caught.value.allowed) == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/orders/messages/nothing",
        "/orders/sessions/s1",
        "/orders/sessions/s1/nothing",
        "/orders/$deadletterqueue",
        "/orders/$sessions",
        "/orders/$sessions/~YQ",
        "/orders/$sessions/~YQ/a/renewlock",
    ],
)
def test_an_unknown_path_raises_no_route_error(path: str) -> None:
    with pytest.raises(NoRouteError) as caught:
        parse_route("POST", path, encoded=True)
    assert caught.value.allowed == ()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "orders",
        "//sessions/s1/renewlock",
        "/a b/messages",
        "/orders/sessions/%FF/renewlock",
        "/orders/sessions//renewlock",
        "/orders/sessions/%0A/renewlock",
        "/orders/sessions/%2E%2E/renewlock",
        "/..",
        "/orders/$deadletterqueue/messages/x/resubmit",
        "/orders/$sessions/YQ/renewlock",
        "/orders/$sessions/~YR/renewlock",
        "/orders/$sessions/~YQ=/renewlock",
        "/orders/$sessions/~Y/renewlock",
        "/orders/$sessions/~_w/renewlock",
        "/orders/$sessions/~Y+/renewlock",
        "/orders/$sessions//renewlock",
        f"/orders/$sessions/~{'YWFh' * 43}/renewlock",
        "/a/~orders/messages",
        "/~messages/messages",
    ],
)
def test_a_malformed_path_raises_validation_error(path: str) -> None:
    with pytest.raises(ValidationError):
        parse_route("POST", path, encoded=True)


def test_the_error_for_a_malformed_sequence_number_shows_it() -> None:
    with pytest.raises(ValidationError, match="from 0 to 9223372036854775807, not '1x'"):
        parse_route("DELETE", "/q/$deadletterqueue/messages/1x", encoded=True)


@given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "X"]), st.text(max_size=60), st.booleans())
def test_parsing_any_path_raises_only_its_two_errors(method: str, path: str, encoded: bool) -> None:
    for text in (path, f"/orders/sessions/{path}"):
        with contextlib.suppress(NoRouteError, ValidationError):
            assert isinstance(parse_route(method, text, encoded=encoded), Route)


def test_the_resource_of_a_route_has_the_session_id_as_one_segment() -> None:
    assert parse_route("POST", "/orders/sessions/a%2Fb/renewlock", encoded=True).resource == ("orders", "sessions", "a/b")
    assert parse_route("POST", "/t/subscriptions/s/messages", encoded=True).resource == ("t", "subscriptions", "s")
    assert parse_route("GET", "/", encoded=True).resource == ()


@given(st.floats(0, 1e6))
def test_a_timeout_in_a_query_is_exact_to_half_a_millisecond(timeout: float) -> None:
    text = format_timeout(timeout)
    assert abs(float(text) - timeout) <= 0.0005001
    assert text == text.strip()
    assert "e" not in text
    _, _, decimals = text.partition(".")
    assert len(decimals) <= 3
    assert not decimals.endswith("0")
