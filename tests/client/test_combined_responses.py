"""The readers of responses to combined requests. `test_responses` gives them wrong values, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from azsession.client.call import ServerResponse, SessionTarget
from azsession.client.combined_responses import read_accepted, read_settled_and_received, read_settled_and_released
from azsession.protocol.wire import MalformedError

from .received import received
from .server_responses import LOCK, MESSAGE

TARGET = SessionTarget("orders", "s", "lock-1", "route-1")
FAILED = [{"LockToken": "t", "code": "Conflict"}]


def response(value: Any, status: int = 200, **fields: Any) -> ServerResponse:
    return ServerResponse(status, LOCK, json.dumps(value).encode(), time.monotonic(), **fields)


def accepted(answer: ServerResponse) -> Any:
    return read_accepted(answer, "orders", None, "12345678-lock", 60.0)


def settled(answer: ServerResponse) -> Any:
    return read_settled_and_received(answer, TARGET, 60.0)


def test_an_accepted_session_has_its_messages_with_receipts() -> None:
    grant = accepted(response({"SessionId": "s", "Messages": [MESSAGE]}, 201))
    (message,) = grant.messages
    assert (grant.session_id, grant.duration, message.text()) == ("s", 60, "x")
    assert (message.receipt.session_id, message.receipt.queue_name, message.receipt.route) == ("s", "orders", "12345678")


def test_an_accepted_session_can_come_without_messages() -> None:
    assert accepted(response({"SessionId": "s"}, 201)).messages == ()
    assert accepted(response({"SessionId": "s", "Messages": []}, 201)).messages == ()
    assert accepted(response(None, 204)) is None


def test_settled_messages_come_with_the_next_ones() -> None:
    failed, grant = settled(response({"failed": [], "Messages": [MESSAGE]}))
    assert (failed, grant.duration, [message.text() for message in grant.messages]) == ({}, 60, ["x"])


def test_nothing_is_received_if_a_settlement_failed_or_the_server_only_settles() -> None:
    assert settled(response({"failed": FAILED})) == ({"t": "Conflict"}, None)
    assert settled(response({"failed": FAILED, "Messages": [MESSAGE]})) == ({"t": "Conflict"}, None)
    assert settled(response({"failed": []})) == ({}, None)


def test_messages_of_this_process_are_taken_as_they_are() -> None:
    failed, grant = settled(response({"failed": []}, messages=[received(1)]))
    assert (failed, [message.receipt.handle for message in grant.messages]) == ({}, ["t1"])
    grant = accepted(response({"SessionId": "s"}, 201, messages=[received(1)]))
    assert [message.receipt.handle for message in grant.messages] == ["t1"]


@pytest.mark.parametrize("read", [accepted, settled])
def test_a_message_of_another_session_is_malformed(read: Callable[[ServerResponse], Any]) -> None:
    other = {**MESSAGE, "BrokerProperties": {**MESSAGE["BrokerProperties"], "SessionId": "other"}}
    with pytest.raises(MalformedError):
        read(response({"failed": [], "SessionId": "s", "Messages": [other]}))


def test_a_release_says_which_settlements_failed() -> None:
    assert read_settled_and_released(response({"failed": FAILED})) == {"t": "Conflict"}
    assert read_settled_and_released(response({"failed": []})) == {}


def test_a_release_that_says_nothing_about_the_settlements_is_malformed() -> None:
    # An older gateway released the session, and ignored the settlements.
    with pytest.raises(MalformedError, match="without saying whether"):
        read_settled_and_released(response(None, 204))
