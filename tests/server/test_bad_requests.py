"""Malformed requests get status 400: bad bodies, properties, queries, headers and paths."""

from __future__ import annotations

import pytest

from .raw import ENVELOPE, Gateway


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/{queue}/sessions?timeout=0", b"{"),
        ("POST", "/{queue}/sessions?timeout=0", b"[]"),
        ("POST", "/{queue}/sessions?timeout=0", b"\xff"),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": 5}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"SessionId": "\\ud800"}'),
        ("POST", "/{queue}/sessions?timeout=0", b'{"a":' * 50_000),
        ("POST", "/{queue}/sessions?timeout=0", b"[" * 200_000),
        ("POST", "/{queue}/sessions/s/messages/$settle", b"{}"),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": "x"}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": [5]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"complete": []}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"forget": ["x"]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"deadletter": ["x"]}'),
        ("POST", "/{queue}/sessions/s/messages/$settle", b'{"deadletter": [{}]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b"{}"),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": []}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": ["1"]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": [true]}'),
        ("POST", "/{queue}/sessions/s/messages/$deferred", b'{"SequenceNumbers": [-1]}'),
        ("POST", "/{queue}/sessions/s/messages/x/$deadletter", b'{"DeadLetterReason": 5}'),
        ("POST", "/{queue}/sessions/s/$deadletter", b'{"DeadLetterReason": ["x"]}'),
        ("POST", "/{queue}/messages", b"no session id"),
        ("PUT", "/a-new-one", b'{"LockDuration": "30"}'),
        ("PUT", "/a-new-one", b'{"LockDuration": "PT0S"}'),
        ("PUT", "/a-new-one", b'{"LockDuration": "PT1H"}'),
        ("PUT", "/a-new-one", b'{"MaxDeliveryCount": 0}'),
        ("PUT", "/a-new-one", b'{"MaxDeliveryCount": true}'),
        ("PUT", "/a-new-one", b'{"Colour": "red"}'),
        ("PUT", "/a-new-one", b'{"RequiresSession": false}'),
    ],
)
def test_a_bad_body_is_refused(gateway: Gateway, queue: str, method: str, path: str, body: bytes) -> None:
    reply = gateway.ask(method, path.format(queue=queue), body)
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "envelope",
    [
        b"{}",
        b"[]",
        b"[5]",
        b'[{"Body": 5}]',
        b'[{"Body": "x", "BrokerProperties": []}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": 5}}]',
        b'[{"Body": "\\ud800", "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "%%%", "BodyEncoding": "base64", "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "\\u00e9", "BodyEncoding": "base64", "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "ContentType": 5, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": [1], "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": [1]}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": "x"}, "UserPropertyTypes": [1], "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": "x"}, "UserPropertyTypes": {"a": 1}, "BrokerProperties": {}}]',
        b'[{"Body": "x", "UserProperties": {"a": 1}, "UserPropertyTypes": {"a": "uuid"}, "BrokerProperties": {}}]',
        b'[{"Body": "x", "UserPropertyTypes": {"a": "uuid"}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": NaN}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": 1e999}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "UserProperties": {"a": 18446744073709551616}, "BrokerProperties": {"SessionId": "s"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": "long"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": -1}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": NaN}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "TimeToLive": -1e999}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "ScheduledEnqueueTimeUtc": "tomorrow"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "ScheduledEnqueueTimeUtc": 5}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "s", "MessageId": "' + b"m" * 129 + b'"}}]',
        b'[{"Body": "x", "BrokerProperties": {"SessionId": "' + b"s" * 129 + b'"}}]',
    ],
)
def test_a_bad_envelope_is_refused(gateway: Gateway, queue: str, envelope: bytes) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", envelope, {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "properties", ["{", "[]", "5", '{"SessionId": null}', '{"SessionId": "a", "TimeToLive": 0}', "[" * 30000]
)
def test_bad_broker_properties_are_refused(gateway: Gateway, queue: str, properties: str) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", b"x", {"BrokerProperties": properties})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "query",
    [
        "timeout=soon",
        "timeout=-1",
        "timeout=NaN",
        "timeout=inf",
        "timeout=1e3",
        "timeout=",
        "timeout=86401",
        "timeout=99999999999999999999",
        "timeout=0&timeout=0",
        "timeout=0&max=0",
        "timeout=0&max=1001",
        "timeout=0&max=-1",
        "timeout=0&max=many",
        "timeout=0&max=",
        "timeout=0&taken=2",
        "timeout=0&max=3&taken=4",
        "timeout=%FF",
        "timeout=%d9%a3",
        "&".join(f"a{number}=1" for number in range(100)),
    ],
)
def test_a_bad_query_is_refused(gateway: Gateway, queue: str, query: str) -> None:
    reply = gateway.holder(queue, "s").receive(query)
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("query", ["from=x", "from=-1", f"from={2**63}", "max=0", "max=1001"])
def test_a_bad_range_is_refused(gateway: Gateway, queue: str, query: str) -> None:
    for path in (f"/{queue}/sessions/s/messages", f"/{queue}/$deadletterqueue/messages"):
        reply = gateway.ask("GET", f"{path}?{query}")
        assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("name", ["Azsession-Lock-Id", "Azsession-Request-Id"])
@pytest.mark.parametrize("value", ["a b", "x" * 65, "é", 'a"b', "a,b"])
def test_a_bad_id_in_a_header_is_refused(gateway: Gateway, queue: str, name: str, value: str) -> None:
    reply = gateway.holder(queue, "s").receive(headers={name: value})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    "path",
    [
        "/{queue}/sessions/%2E%2E/messages/head?timeout=0",
        "/{queue}/sessions/%2E/messages/head?timeout=0",
        "/{queue}/sessions/%00/messages/head?timeout=0",
        "/{queue}/sessions/a%0Db/messages/head?timeout=0",
        "/{queue}/sessions/%FF/messages/head?timeout=0",
        "/{queue}/sessions/%ED%A0%80/messages/head?timeout=0",
        "/{queue}/sessions//messages/head?timeout=0",
        "/{queue}/sessions/" + "x" * 129 + "/messages/head?timeout=0",
        "/" + "q" * 261,
        "/..",
        "/a%20b",
        "/a%2F%2Fb",
        "/a//b",
        "/a/../b",
        "/{queue}/$sessions/Li4/messages/head?timeout=0",
        "/{queue}/$deadletterqueue/messages/minus-one",
    ],
)
def test_a_bad_name_or_id_in_a_path_is_refused(gateway: Gateway, queue: str, path: str) -> None:
    reply = gateway.ask("DELETE", path.format(queue=queue))
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_an_error_shows_no_token_and_no_key(gateway: Gateway, queue: str) -> None:
    for reply in (gateway.ask("GET", f"/{queue}/sessions?max=0"), gateway.ask("PUT", "/x/$y/z"), gateway.ask("PATCH", "/")):
        assert reply.status >= 400
        assert b"sig=" not in reply.body
        assert b"Traceback" not in reply.body


@pytest.mark.parametrize("query", ["timeout=soon", "timeout=0&max=soon"])
def test_the_error_for_a_wrong_query_shows_the_value(gateway: Gateway, queue: str, query: str) -> None:
    assert "not 'soon'" in gateway.holder(queue, "s").receive(query).json["error"]["message"]


def test_the_error_for_a_malformed_lock_id_shows_only_its_length(gateway: Gateway, queue: str) -> None:
    reply = gateway.holder(queue, "s").receive(headers={"Azsession-Lock-Id": "not a lock id"})
    assert reply.json["error"]["message"] == "the header Azsession-Lock-Id must be a UUID, not a text of 13 characters"
