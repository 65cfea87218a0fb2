"""The requests of the operations on whole queues."""

from __future__ import annotations

import json
from typing import Any

import pytest

from azsession import QueueSettings
from azsession.client import queue_operations
from azsession.client.call import Call


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (queue_operations.get_queue("site1/orders"), "GET", "/site1/orders"),
        (queue_operations.queue_statistics("site1/orders"), "GET", "/site1/orders/$statistics"),
        (queue_operations.list_queues(), "GET", "/"),
        (queue_operations.delete_queue("orders"), "DELETE", "/orders"),
    ],
)
def test_an_operation_is_a_request_without_a_body(call: Call[Any], method: str, path: str) -> None:
    assert (call.method, call.path, call.body) == (method, path, None)


def test_a_queue_is_created_with_its_settings() -> None:
    call = queue_operations.create_queue("orders", QueueSettings(lock_duration=5))
    assert (call.method, call.path, call.headers) == ("PUT", "/orders", {"Content-Type": "application/json"})
    assert json.loads(call.body or b"")["LockDuration"] == "PT5S"


def test_only_the_deletion_succeeds_if_a_repeated_request_finds_nothing() -> None:
    assert queue_operations.delete_queue("orders").missing_is_success
    assert not queue_operations.get_queue("orders").missing_is_success
