"""Requests to the management nodes, and their responses."""

from __future__ import annotations

import uuid

import pytest

from azsession import amqp
from azsession.amqp import AmqpMessage, MalformedFrameError, decode_message, decode_response, encode_message

from .samples import MESSAGE


def test_a_request_has_typed_properties_and_a_value() -> None:
    given_body = {"sequence-numbers": amqp.Array([amqp.Long(1), amqp.Long(2)]), "receiver-settle-mode": amqp.Uint(1)}
    message_id = uuid.uuid4()
    request = decode_message(
        amqp.encode_request(message_id, "me", {"operation": "o", "com.microsoft:server-timeout": amqp.Uint(9)}, given_body)
    )
    assert (request.message_id, request.reply_to) == (message_id, "me")
    assert request.application_properties == {"operation": "o", "com.microsoft:server-timeout": 9}
    assert request.value == {"sequence-numbers": [1, 2], "receiver-settle-mode": 1}


@pytest.mark.parametrize(
    ("status", "description", "condition"),
    [("statusCode", "statusDescription", "errorCondition"), ("status-code", "status-description", "error-condition")],
)
def test_a_response_is_read_in_both_spellings_of_its_properties(status: str, description: str, condition: str) -> None:
    properties = {status: 410, description: "lost", condition: amqp.Symbol("com.microsoft:session-lock-lost")}
    response = decode_response(
        encode_message(AmqpMessage(correlation_id="7", application_properties=properties, value={"a": b"b"}))
    )
    assert response == amqp.Response("7", 410, "lost", "com.microsoft:session-lock-lost", {"a": b"b"})


def test_a_response_without_a_status_is_malformed() -> None:
    with pytest.raises(MalformedFrameError, match="status"):
        decode_response(MESSAGE)
