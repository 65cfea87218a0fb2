"""Hostile JSON is refused with 400 or 413, or is harmless, and needs bounded time and memory."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import requests

from azsession import Message
from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import MessageTooLargeError
from azsession.protocol.wire import MalformedError, decode_envelope, decode_single, json_object
from azsession.server import GatewayService
from azsession.server.request import MAX_ATTRIBUTES_SIZE, MAX_JSON_SIZE, read_settlements

from ..cpu_time import cpu_seconds
from ..server.raw import ENVELOPE, KEYS, Gateway, SteppedClock, fresh_id

DIGITS = "9" * 100_000
MANY_KEYS = "{" + ",".join(f'"k{number}":0' for number in range(10_000)) + "}"

#: Values that are hard to parse.
BOMBS = {
    "nested lists": "[" * 60_000,
    "closed nested lists": "[" * 30_000 + "]" * 30_000,
    "nested objects": '{"a":' * 12_000 + "1" + "}" * 12_000,
    "a number of 100,000 digits": DIGITS,
    "a negative number of 100,000 digits": "-" + DIGITS,
    "a number of 401 digits": DIGITS[:401],
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
}
#: Numbers that are accepted, some of them rounded or ignored.
LARGE = ["1e999999", "-1e999999", "1" + "0" * 300, "0." + DIGITS[:50_000], "1e-999999", "9223372036854775808"]


def in_places(value: str) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """Return requests with a value at each place in a body or header that has JSON."""
    place = '{"SessionId":"s"}'
    session = "/{queue}/sessions/s"
    envelopes = [
        value,
        f'[{{"Body":{value}}}]',
        f'[{{"Body":"x","BrokerProperties":{value}}}]',
        f'[{{"Body":"x","BrokerProperties":{{"SessionId":"s","TimeToLive":{value}}}}}]',
        f'[{{"Body":"x","BrokerProperties":{{"SessionId":"s","SequenceNumber":{value}}}}}]',
        f'[{{"Body":"x","BrokerProperties":{place},"UserProperties":{value}}}]',
        f'[{{"Body":"x","BrokerProperties":{place},"UserProperties":{{"a":{value}}}}}]',
        f'[{{"Body":"x","BrokerProperties":{place},"Unknown":{value}}}]',
    ]
    header = value[:60_000]
    return [
        *(("POST", "/{queue}/messages", text.encode(), {"Content-Type": ENVELOPE}) for text in envelopes),
        ("POST", "/{queue}/messages", b"x", {"BrokerProperties": header}),
        ("POST", "/{queue}/messages", b"x", {"BrokerProperties": f'{{"SessionId":"s","TimeToLive":{header}}}'}),
        ("POST", "/{queue}/messages", b"x", {"BrokerProperties": place, "Attribute": header}),
        ("POST", "/{queue}/sessions?timeout=0", value.encode(), {}),
        ("POST", "/{queue}/sessions?timeout=0", f'{{"SessionId":{value}}}'.encode(), {}),
        ("POST", f"{session}/messages/$settle", f'{{"complete":{value}}}'.encode(), {}),
        ("POST", f"{session}/messages/$settle", f'{{"deadletter":[{value}]}}'.encode(), {}),
        ("POST", f"{session}/messages/$deferred", f'{{"SequenceNumbers":{value}}}'.encode(), {}),
        ("POST", f"{session}/messages/$deferred", f'{{"SequenceNumbers":[{value}]}}'.encode(), {}),
        ("POST", f"{session}/messages/x/$deadletter", f'{{"DeadLetterReason":{value}}}'.encode(), {}),
        ("POST", f"{session}/$deadletter", f'{{"DeadLetterReason":{value}}}'.encode(), {}),
        ("PUT", "/{queue}-new", f'{{"MaxDeliveryCount":{value}}}'.encode(), {}),
        ("PUT", "/{queue}-new", f'{{"LockDuration":{value}}}'.encode(), {}),
    ]


def ask_all(gateway: Gateway, queue: str, value: str) -> dict[tuple[str, bytes, str], int]:
    connection = gateway.connect()
    try:
        return {
            (path, body[:60], str(headers)[:60]): gateway.ask(
                method, path.format(queue=queue), body, headers, connection=connection
            ).status
            for method, path, body, headers in in_places(value)
        }
    finally:
        connection.close()


@pytest.mark.parametrize("name", BOMBS)
def test_a_value_that_is_hard_to_parse_is_refused_at_every_place(gateway: Gateway, queue: str, name: str) -> None:
    attribute = ("/{queue}/messages", b"x")
    for place, status in ask_all(gateway, queue, BOMBS[name]).items():
        # A malformed attribute header is ignored: servers and proxies add headers of their own.
        expected = {400, 413} | ({201} if place[:2] == attribute and "Attribute" in place[2] else set())
        assert status in expected, place
    assert gateway.ask("GET", f"/{queue}-new").status == 404


@pytest.mark.parametrize("value", LARGE)
def test_a_large_number_is_refused_or_harmless(gateway: Gateway, queue: str, value: str) -> None:
    for place, status in ask_all(gateway, queue, value).items():
        assert status in (200, 201, 204, 400, 404, 410, 413), place
    for message in gateway.ask("GET", f"/{queue}/sessions/s/messages?max=100").json:
        assert message["Body"] == "x"


def test_long_numbers_are_refused_also_without_pythons_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None
    if kept is not None:
        sys.set_int_max_str_digits(0)
    try:
        for read in (lambda: json_object(b'{"a":' + DIGITS.encode() + b"}"), lambda: decode_envelope(DIGITS.encode())):
            with pytest.raises(MalformedError):
                read()
        with pytest.raises(MalformedError):
            decode_single([("BrokerProperties", f'{{"TimeToLive":{DIGITS}}}')], b"")
        assert decode_single([("A", DIGITS)], b"")["attributes"] == {}
    finally:
        if kept is not None:
            sys.set_int_max_str_digits(kept)


def test_the_last_of_two_equal_keys_counts_in_headers_and_in_envelopes(gateway: Gateway, queue: str) -> None:
    double = '{"SessionId":"first","SessionId":"last"}'
    gateway.ask("POST", f"/{queue}/messages", b"x", {"BrokerProperties": double})
    gateway.ask(
        "POST", f"/{queue}/messages", f'[{{"Body":"x","BrokerProperties":{double}}}]'.encode(), {"Content-Type": ENVELOPE}
    )
    (session,) = gateway.ask("GET", f"/{queue}/sessions").json["sessions"]
    assert (session["SessionId"], session["MessageCount"]) == ("last", 2)


def test_json_in_another_encoding_than_utf_8_is_refused(gateway: Gateway, queue: str) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32-be"):
        reply = gateway.ask("POST", f"/{queue}/sessions?timeout=0", '{"SessionId": "\u00e9"}'.encode(encoding))
        assert reply.status == 400, encoding
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0", b'\xef\xbb\xbf{"SessionId": "bom"}').status in (201, 204)


# Limits


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/{queue}/sessions?timeout=0"),
        ("POST", "/{queue}/sessions/s/messages/$deferred"),
        ("POST", "/{queue}/sessions/s/messages/x/$deadletter"),
        ("POST", "/{queue}/sessions/s/$deadletter"),
        ("PUT", "/{queue}-new"),
    ],
)
def test_a_large_body_is_refused_where_no_messages_are_sent(method: str, path: str) -> None:
    with GatewayService(EmbeddedBroker(queues=["q"]), KEYS, max_waiting=4) as service:
        gateway = Gateway(service, SteppedClock())
        body = b'{"a":"' + b"x" * MAX_JSON_SIZE + b'"}'
        reply = gateway.ask(method, path.format(queue="q"), body)
        assert (reply.status, reply.code) == (413, "MessageTooLarge")
        assert reply.json["error"]["limit"] == MAX_JSON_SIZE


def test_attributes_have_a_limit(gateway: Gateway, queue: str) -> None:
    def send(**attributes: Any) -> int:
        item = {"Body": "x", "BrokerProperties": {"SessionId": "s"}, "UserProperties": attributes}
        return gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE}).status

    assert send(a="x" * (MAX_ATTRIBUTES_SIZE - 1)) == 201
    assert send(a="x" * MAX_ATTRIBUTES_SIZE) == 413
    assert send(**json.loads(MANY_KEYS)) == 413


def test_a_sender_cannot_make_a_message_that_receivers_cannot_read(gateway: Gateway, queue: str) -> None:
    many = {f"attribute-{number}": number for number in range(1000)}
    texts = {"Label": "\U0001f600" * 4096, "ReplyTo": "\U0001f600" * 4096, "To": "\U0001f600" * 4096}
    items = [
        {"Body": "many", "BrokerProperties": {"SessionId": "s"}, "UserProperties": many},
        {"Body": "long", "BrokerProperties": {"SessionId": "s", **texts}},
        {"Body": "large", "BrokerProperties": {"SessionId": "s"}, "UserProperties": {"a": "\U0001f600" * 30_000}},
    ]
    envelope = json.dumps(items, ensure_ascii=False).encode()
    assert gateway.ask("POST", f"/{queue}/messages", envelope, {"Content-Type": ENVELOPE}).status == 201
    holder = gateway.holder(queue, "s", fresh_id())
    for expected in items:
        # Python's own client accepts 100 headers of 64 KB. The large message arrives alone, not with others.
        received = requests.delete(
            f"{gateway.url}{holder.path}/messages/head?timeout=0",
            headers={"Authorization": gateway.token(), **holder.headers},
            timeout=20,
        )
        assert (received.status_code, received.headers["Azsession-Count"]) == (201, "1")
        (item,) = received.json()
        assert item["Body"] == expected["Body"]
        assert item.get("UserProperties", {}) == expected.get("UserProperties", {})


def test_too_many_settlements_are_refused_before_any_is_parsed() -> None:
    # Parsing them one by one would report the first, which is malformed.
    with pytest.raises(MessageTooLargeError, match="1001 items"):
        read_settlements({"complete": [None] * 600, "abandon": [None] * 401})


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""', "null", "[[[]]]", '{"a":1}'])
def test_a_large_body_with_very_many_values_is_refused_soon(value: str) -> None:
    def seconds_for(size: int) -> float:
        many = f"[{value}" + f",{value}" * (size // (len(value) + 1)) + "]"

        def refuse() -> None:
            with pytest.raises(MalformedError):
                json_object(f'{{"complete":{many}}}'.encode())
            with pytest.raises(MalformedError):
                decode_envelope(f'[{{"Body":{many}}}]'.encode())

        return cpu_seconds(refuse)

    # Parsing the whole text would take 16 times as long.
    assert seconds_for(16_000_000) < 5 * seconds_for(1_000_000)


def test_a_large_body_with_large_texts_is_read() -> None:
    items = [{"Body": "x" * 100_000 + '\\"\n', "BrokerProperties": {"SessionId": "s"}, "UserProperties": {"a": 1.5}}] * 100
    for envelope in (json.dumps(items), json.dumps(items, indent=1)):
        found = decode_envelope(envelope.encode())
        assert [fields["body"] for fields in found] == [items[0]["Body"].encode()] * 100
        assert found[99]["attributes"] == {"a": 1.5}


BROKEN_ARRAYS = ["[{]", '[{"a"}]', '[{"a":1,}]', '[{"a":1}', "[1,]", "[{1:2}]", "[1 2]", "[1] 2", "[NaN]", "{}", "[", "x"]


@pytest.mark.parametrize("broken", BROKEN_ARRAYS)
def test_a_large_body_that_is_not_json_is_refused(broken: str) -> None:
    for text in (broken + " " * 300_000, " " * 300_000 + broken):
        with pytest.raises(MalformedError):
            decode_envelope(text.encode())


def test_large_and_small_bodies_are_read_alike() -> None:
    text = '{"a": [1, -2.5e3, "x\\u00e9", true, false, null, {}, [], {"b": {"c": []}}], "d": ""}'
    assert json_object((text + " " * 300_000).encode()) == json_object(text.encode()) == json.loads(text)


def test_ordinary_messages_are_received_as_they_were_sent(gateway: Gateway, queue: str) -> None:
    message = Message("[" * 1000 + "{", session_id="s", attributes={"a": 2**63 - 1, "b": 1.5, "c": True, "d": "NaN"})
    gateway.service.broker.send(queue, [message])
    (item,) = gateway.holder(queue, "s").receive("timeout=0&max=9").json
    assert (item["Body"], item["UserProperties"]) == (message.body.decode(), message.attributes)
