"""The requests that schedule, cancel and purge."""

from __future__ import annotations

import json

import pytest

from azsession.client import schedule_operations


def test_a_schedule_has_a_new_request_id_and_the_envelope() -> None:
    first, second = (schedule_operations.schedule("a/messages", b"[1]") for _ in range(2))
    assert (first.method, first.path, first.body) == ("POST", "/a/~messages/messages/$schedule", b"[1]")
    assert first.headers["Azsession-Request-Id"] != second.headers["Azsession-Request-Id"]


def test_a_cancel_treats_a_missing_message_of_a_retry_as_success() -> None:
    call = schedule_operations.cancel_scheduled("orders", [3, 4])
    assert (call.path, json.loads(call.body or b"")) == ("/orders/messages/$cancel", {"SequenceNumbers": [3, 4]})
    assert call.missing_is_success


@pytest.mark.parametrize(
    ("session_id", "path"),
    [
        (None, "/orders/messages/$purge"),
        ("a/b", "/orders/sessions/a%2Fb/messages/$purge"),
        ("", "/orders/$sessions/~/messages/$purge"),
        ("..", "/orders/$sessions/~Li4/messages/$purge"),
    ],
)
def test_a_purge_is_about_a_queue_or_a_session(session_id: str | None, path: str) -> None:
    assert schedule_operations.purge("orders", session_id).path == path
