"""The request of each operation of the protocol: method, path, query, headers, body, and how it may be retried."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from azsession.client import operations
from azsession.client.call import MAX_RESPONSE_SIZE, Call, SessionTarget
from azsession.protocol.error_codes import ABOUT_QUEUE, ABOUT_RECEIPT, ABOUT_SESSION

TARGET = SessionTarget("orders", "a/b", "lock-1", "route-1")
SESSION = "/orders/sessions/a%2Fb"
HELD = {"Azsession-Lock-Id": "lock-1", "Azsession-Route": "route-1"}
JSON = {"Content-Type": "application/json"}

#: For each operation: its call, method, path, and JSON body.
REQUESTS: dict[str, tuple[Call[Any], str, str, Any]] = {
    "receive": (operations.receive(TARGET, 5, 1.5, 60, "id"), "DELETE", f"{SESSION}/messages/head", None),
    "accept": (operations.accept("orders", None, "12345678-lock", 5, 60), "POST", "/orders/sessions", {}),
    "accept one": (operations.accept("orders", "s", "lock", 5, 60), "POST", "/orders/sessions", {"SessionId": "s"}),
    "renew": (operations.renew(TARGET), "POST", f"{SESSION}/renewlock", None),
    "release": (operations.release(TARGET), "POST", f"{SESSION}/release", None),
    "complete": (operations.complete(TARGET, "t/1"), "DELETE", f"{SESSION}/messages/t%2F1", None),
    "abandon": (operations.abandon(TARGET, "t"), "PUT", f"{SESSION}/messages/t", None),
    "defer": (operations.defer(TARGET, "t"), "POST", f"{SESSION}/messages/t/$defer", None),
    "dead-letter": (
        operations.dead_letter(TARGET, "t", "why", "more"),
        "POST",
        f"{SESSION}/messages/t/$deadletter",
        {"DeadLetterReason": "why", "DeadLetterErrorDescription": "more"},
    ),
    "settle": (
        operations.settle(TARGET, {"complete": ["t"]}),
        "POST",
        f"{SESSION}/messages/$settle",
        {"complete": ["t"]},
    ),
    "receive deferred": (
        operations.receive_deferred(TARGET, [7, 8], 60),
        "POST",
        f"{SESSION}/messages/$deferred",
        {"SequenceNumbers": [7, 8]},
    ),
    "dead-letter session": (
        operations.dead_letter_session(TARGET, "why", None),
        "POST",
        f"{SESSION}/$deadletter",
        {"DeadLetterReason": "why"},
    ),
    "get state": (operations.get_state(TARGET), "GET", f"{SESSION}/state", None),
    "delete state": (operations.set_state(TARGET, None), "DELETE", f"{SESSION}/state", None),
    "list sessions": (operations.list_sessions("orders", "a&b", 9), "GET", "/orders/sessions", None),
    "peek": (operations.peek("orders", "a/b", 3, 9), "GET", f"{SESSION}/messages", None),
    "dead letters": (operations.dead_letters("orders", 3, 9), "GET", "/orders/$deadletterqueue/messages", None),
    "resubmit": (operations.resubmit("orders", 3), "POST", "/orders/$deadletterqueue/messages/3/resubmit", None),
    "delete dead letter": (operations.delete_dead_letter("orders", 3), "DELETE", "/orders/$deadletterqueue/messages/3", None),
    "health": (operations.check_health(), "GET", "/healthz", None),
}
OF_SESSION = [name for name, (_, _, path, _) in REQUESTS.items() if path.startswith(SESSION) and name != "peek"]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_call_has_the_method_path_and_body_of_its_operation(name: str) -> None:
    call, method, path, body = REQUESTS[name]
    assert (call.method, call.path) == (method, path)
    assert (None if call.body is None else json.loads(call.body)) == body
    assert call.headers.get("Content-Type") == (None if body is None else "application/json")
    assert call.entity == ("" if name in ("list queues", "health") else "orders")


@pytest.mark.parametrize("name", OF_SESSION)
def test_a_call_about_a_held_session_names_the_lock_and_its_route(name: str) -> None:
    assert REQUESTS[name][0].headers.items() >= HELD.items()


def test_an_accept_names_the_new_lock_and_its_route() -> None:
    headers = REQUESTS["accept"][0].headers
    assert (headers["Azsession-Lock-Id"], headers["Azsession-Route"]) == ("12345678-lock", "12345678")


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_receive_says_whether_the_client_has_the_lock(has_lock: bool) -> None:
    call = operations.receive(TARGET, 5, 1.5, 60, "id", has_lock=has_lock)
    assert call.headers.get("Azsession-Lock-Held") == ("1" if has_lock else None)
    assert call.headers["Azsession-Request-Id"] == "id"


@pytest.mark.parametrize("name", ["accept", "dead-letter session"])
def test_a_call_whose_repetition_must_be_recognized_has_a_request_id(name: str) -> None:
    assert len(REQUESTS[name][0].headers["Azsession-Request-Id"]) == 36


@pytest.mark.parametrize(
    ("call", "query"),
    [
        (operations.receive(TARGET, 5, 1.5, 60, "id"), "timeout=0.25&max=5"),
        (operations.receive(TARGET, None, 1.5, 60, "id"), "timeout=0.25"),
        (operations.accept("orders", None, "lock", None, 60), "timeout=0.25"),
        (operations.list_sessions("orders", None, 9), "max=9"),
        (operations.list_sessions("orders", "", 9), "max=9&after="),
        (operations.list_sessions("orders", "a&/b", 9), "max=9&after=a%26%2Fb"),
        (operations.peek("orders", "s", 3, 9), "from=3&max=9"),
        (operations.dead_letters("orders", 3, 9), "from=3&max=9"),
    ],
)
def test_the_query_of_a_call(call: Call[Any], query: str) -> None:
    assert call.query is not None
    assert call.query(0.25) == query


def test_messages_are_sent_as_an_envelope() -> None:
    call = operations.send("orders", b"[1]")
    assert (call.method, call.path, call.body) == ("POST", "/orders/messages", b"[1]")
    assert call.headers["Content-Type"] == "application/vnd.microsoft.servicebus.json"
    assert call.headers["Azsession-Request-Id"] != operations.send("orders", b"[1]").headers["Azsession-Request-Id"]


def test_a_state_is_sent_as_bytes() -> None:
    call = operations.set_state(TARGET, b"\0")
    assert (call.method, call.path, call.body) == ("PUT", f"{SESSION}/state", b"\0")
    assert call.headers == {**HELD, "Content-Type": "application/octet-stream"}


def names(test: Callable[[Call[Any]], bool]) -> set[str]:
    return {name for name, (call, *_) in REQUESTS.items() if test(call)}


def test_only_these_calls_may_be_repeated_in_the_plain_dialect() -> None:
    assert names(lambda call: call.repeatable) == {"renew", "complete", "abandon", "health"}


def test_only_a_removal_succeeds_when_a_retry_finds_nothing() -> None:
    assert names(lambda call: call.missing_is_success) == {"resubmit", "delete dead letter"}


def test_only_these_calls_wait_at_the_server() -> None:
    assert names(lambda call: call.wait is not None) == {"receive", "accept", "accept one"}


def test_a_response_with_messages_may_be_larger_than_others() -> None:
    large = names(lambda call: call.max_response_size > MAX_RESPONSE_SIZE)
    assert large == {"receive", "receive deferred", "get state", "peek", "dead letters"}
    one, many = (operations.receive(TARGET, count, 0, 60, "id").max_response_size for count in (1, 10))
    assert many == one + 9 * operations.FURTHER_MESSAGE_SIZE


def test_the_thing_that_a_404_says_is_missing() -> None:
    settlements = {"complete", "abandon", "defer", "dead-letter", "settle"}
    assert names(lambda call: call.about == ABOUT_RECEIPT) == settlements
    assert names(lambda call: call.about == ABOUT_SESSION) == {*OF_SESSION, "accept", "accept one"} - settlements
    assert "peek" in names(lambda call: call.about == ABOUT_QUEUE)
