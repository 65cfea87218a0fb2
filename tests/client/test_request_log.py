"""The log records about requests. `tests/api/test_logs.py` has more of them."""

from __future__ import annotations

import logging

import pytest

from azsession import ProviderError
from azsession.client import operations, request_log
from azsession.client.call import Call, ServerResponse, SessionTarget
from azsession.client.responses import read_nothing
from azsession.logs import FIELDS

TARGET = SessionTarget("orders", "a/b", "lock-id", "route")


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "azsession")


def fields(record: logging.LogRecord) -> list[object]:
    return [getattr(record, name) for name in FIELDS]


def test_a_response_is_logged_with_its_operation_and_without_the_lock_token(caplog: pytest.LogCaptureFixture) -> None:
    request_log.response(operations.complete(TARGET, "secret-token"), ServerResponse(204, {}, b"", 0.0))
    (record,) = caplog.records
    assert record.getMessage().startswith("complete: status 204 after ")
    assert fields(record) == ["orders", "a/b", None]
    assert "secret-token" not in caplog.text


def test_a_dead_letter_is_named_by_its_sequence_number(caplog: pytest.LogCaptureFixture) -> None:
    request_log.response(operations.resubmit("orders", 7), ServerResponse(201, {}, b"", 0.0))
    assert fields(caplog.records[0]) == ["orders", None, 7]


def test_the_empty_session_id_is_a_session_id(caplog: pytest.LogCaptureFixture) -> None:
    request_log.response(operations.peek("orders", "", 0, 1), ServerResponse(200, {}, b"", 0.0))
    assert fields(caplog.records[0]) == ["orders", "", None]


def test_a_path_that_is_not_in_the_protocol_is_logged_by_its_method(caplog: pytest.LogCaptureFixture) -> None:
    call: Call[None] = Call(method="POST", path="/other", entity="orders", read=read_nothing)
    request_log.repetition(call, ProviderError("busy"), 2, 0.25)
    request_log.success(call, 2)
    assert caplog.messages == [
        "POST failed, attempt 2 follows in 0.25 s: busy",
        "POST succeeded at attempt 2: the server answers again",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
