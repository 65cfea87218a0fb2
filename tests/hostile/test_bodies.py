"""Answers with valid headers whose bodies are cut off, malformed, or too large."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from azsession import ConnectionFailedError, ServiceBusProvider

from .operations import ALL, READING, Prepare
from .servers import GATEWAYS, FaultyProxy, http_answer

ENVELOPE = "application/vnd.microsoft.servicebus.json"

#: Bodies that are not a valid answer to any operation.
BROKEN_JSON = [
    b"",
    b"{",
    b'{"SessionId": "ne',
    b"[",
    b"null",
    b"5",
    b'"text"',
    b"[[1]]",
    b"[null]",
    b'{"a": 1}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" + b"9" * 5000 + b"]",
    b"<html></html>",
    b'{"SessionId": 5, "count": "5", "failed": 5, "sessions": {}, "queues": 5, "QueueName": 5}',
    b'{"SessionId": null, "count": true, "failed": [5], "sessions": [5], "queues": [5], "QueueName": null}',
    b'{"SessionId": [], "count": -1, "failed": null, "sessions": [{}], "queues": [{}], "QueueName": ["x"]}',
    b'{"SessionId": "\\ud800", "count": 1.5, "failed": "x", "sessions": [{"SessionId": "s", "MessageCount": "5"}],'
    b' "queues": [{"QueueName": "q", "LockDuration": "for ever"}], "QueueName": "q", "LockDuration": 5}',
    b'[{"Body": 5}]',
    b'[{"Body": "\\ud800"}]',
    b'[{"Body": "!", "BodyEncoding": "base64"}]',
    b'[{"Body": "x", "BrokerProperties": ["x"]}]',
    b'[{"Body": "x", "BrokerProperties": {"SequenceNumber": "1"}}]',
    b'[{"Body": "x", "BrokerProperties": {"TimeToLive": NaN}}]',
    b'[{"Body": "x", "BrokerProperties": {"EnqueuedTimeUtc": "99999-99-99"}}]',
    b'[{"Body": "x", "UserProperties": 5}]',
]


@pytest.mark.parametrize("name", READING)
def test_an_invalid_body_is_a_connection_failure(name: str, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    operation = ALL[name](context)
    for body in BROKEN_JSON:
        for status in (200, 201):
            proxy.always = http_answer(status, body, {**GATEWAYS, "Content-Type": ENVELOPE, "Azsession-Count": "1"})
            with pytest.raises(ConnectionFailedError) as caught:
                operation()
            assert caught.value.maybe_delivered, body[:50]
            assert not context.session.is_lock_lost
    proxy.always = None
    operation()


def message(**properties: Any) -> dict[str, Any]:
    return {"Body": "forged", "BrokerProperties": {"LockToken": "token", **properties}}


#: Well-formed envelopes that cannot be the answer to the request.
WRONG = {
    "no lock token": [message(LockToken=None)],
    "an empty lock token": [message(LockToken="")],
    "a lock token that is a number": [message(LockToken=5)],
    "a lock token that no URL can carry": [message(LockToken="\ud800")],
    "a lock token without end": [message(LockToken="t" * 257)],
    "another session": [message(SessionId="another")],
    "the same lock token twice": [message(), message()],
}


@pytest.mark.parametrize("case", WRONG)
def test_an_envelope_with_a_message_that_cannot_be_settled_is_refused(
    case: str, proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare()
    body = json.dumps(WRONG[case]).encode()
    proxy.script(http_answer(201, body, {**GATEWAYS, "Content-Type": ENVELOPE}))
    with pytest.raises(ConnectionFailedError):
        context.session.receive_message(timeout=0)
    found = context.session.receive_message(timeout=0)
    assert found is not None
    assert found.body == b"second"


def test_an_envelope_with_a_wrong_count_is_refused(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    headers = {**GATEWAYS, "Content-Type": ENVELOPE, "Azsession-Count": "2"}
    proxy.script(http_answer(201, json.dumps([message()]).encode(), headers))
    with pytest.raises(ConnectionFailedError):
        context.session.receive_messages(2, timeout=0)


def test_attributes_of_unknown_types_are_left_out(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    attributes = {"list": [1], "object": {}, "null": None, "text": "x", "number": 1, "truth": True}
    body = json.dumps([{**message(), "UserProperties": attributes}]).encode()
    proxy.script(http_answer(201, body, {**GATEWAYS, "Content-Type": ENVELOPE}))
    found = context.session.receive_message(timeout=0)
    assert found is not None
    assert found.attributes == {"null": None, "text": "x", "number": 1, "truth": True}


def test_an_accept_that_is_answered_with_another_session_is_refused(
    proxy: FaultyProxy, provider: ServiceBusProvider, queue: str
) -> None:
    with provider.create_session_client(queue, "mine", auto_renew=False) as session:
        proxy.script(http_answer(201, b'{"SessionId": "another"}', GATEWAYS))
        with pytest.raises(ConnectionFailedError, match="another session"):
            session.get_session_state()
        assert session.get_session_state() is None


def test_a_list_that_repeats_the_same_page_is_an_error(proxy: FaultyProxy, provider: ServiceBusProvider, queue: str) -> None:
    page = {"sessions": [{"SessionId": f"s{n:04}", "MessageCount": 1} for n in range(1000)]}
    proxy.always = http_answer(200, json.dumps(page).encode(), GATEWAYS)
    with pytest.raises(Exception, match="again and again"):
        provider.list_sessions(queue)


def test_a_small_compressed_body_that_becomes_too_large_is_refused(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare(retry_attempts=2)
    packed = gzip.compress(b"\x00" * (64 * 1024 * 1024))
    proxy.always = http_answer(200, packed, {**GATEWAYS, "Content-Encoding": "gzip"})
    requests = len(proxy.requests)
    with pytest.raises(ConnectionFailedError, match="more than 16777216 bytes"):
        context.session.complete_message(context.message)
    assert len(proxy.requests) == requests + 1
    proxy.always = None
    context.session.complete_message(context.message)
