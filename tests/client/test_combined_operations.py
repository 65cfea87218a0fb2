"""The requests that take two steps at once: method, path, query, headers, body, and how they may be retried."""

from __future__ import annotations

import json

from azsession.client import combined_operations, operations
from azsession.client.call import MAX_RESPONSE_SIZE, SessionTarget
from azsession.protocol.error_codes import ABOUT_RECEIPT

TARGET = SessionTarget("orders", "a/b", "lock-1", "route-1")
SESSION = "/orders/sessions/a%2Fb"


def test_settle_and_receive_is_a_settlement_that_says_how_many_messages_to_fetch() -> None:
    call = combined_operations.settle_and_receive(TARGET, {"complete": ["t"]}, 10, 60, "request-1")
    assert (call.method, call.path) == ("POST", f"{SESSION}/messages/$settle")
    assert call.query is not None
    assert call.query(3.0) == "max=10&taken=1"
    assert {name: call.headers[name] for name in ("Azsession-Lock-Id", "Azsession-Lock-Held", "Azsession-Request-Id")} == {
        "Azsession-Lock-Id": "lock-1",
        "Azsession-Lock-Held": "1",
        "Azsession-Request-Id": "request-1",
    }
    assert json.loads(call.body or b"") == {"complete": ["t"]}
    assert call.about == ABOUT_RECEIPT


def test_settle_and_receive_waits_for_no_message_and_takes_a_large_answer() -> None:
    call = combined_operations.settle_and_receive(TARGET, {"complete": ["t"]}, 10, 60, "request-1")
    assert call.wait is None
    assert call.max_response_size == operations.receive(TARGET, 10, 0, 60, "request-1").max_response_size


def test_settle_and_release_is_a_release_with_settlements() -> None:
    call = combined_operations.settle_and_release(TARGET, {"complete": ["t"]})
    assert (call.method, call.path, call.query) == ("POST", f"{SESSION}/release", None)
    assert json.loads(call.body or b"") == {"complete": ["t"]}
    assert call.headers["Azsession-Lock-Id"] == "lock-1"
    assert call.about == ABOUT_RECEIPT


def test_an_accept_says_how_many_messages_to_fetch() -> None:
    call = operations.accept("orders", None, "12345678-lock", 5, 60, max_count=7)
    assert call.query is not None
    assert call.query(2.0) == "timeout=2&max=7&taken=1"
    assert call.max_response_size > MAX_RESPONSE_SIZE
