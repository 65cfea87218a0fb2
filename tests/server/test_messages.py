"""Messages and ids pass the gateway unchanged, and no value can start another header."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import pytest

from azsession.messages import Message

from .raw import ENVELOPE, Gateway, fresh_id

IDS = [
    "a/b",
    "a/messages/head",
    "x/renewlock",
    "sessions/s/state",
    "messages",
    "head",
    "$deadletter",
    "50%",
    "%2F",
    "a?b#c",
    "état",
    "日本語/メッセージ",
    "quote\"'`",
    "a b",
    "a+b",
    "a&b=c;d",
    "...",
    "/",
    "//",
    "\u2028",
    "\U0001f600" * 128,
    "x" * 128,
]


@pytest.mark.parametrize("session_id", IDS, ids=range(len(IDS)))
@pytest.mark.parametrize("lock_id", [None, "holder"], ids=["plain", "version 1"])
def test_a_session_id_is_kept_exactly(gateway: Gateway, queue: str, session_id: str, lock_id: str | None) -> None:
    gateway.send(queue, session_id, "one", "two", "three", "four")
    holder = gateway.holder(queue, session_id, lock_id)
    first = holder.receive()
    assert first.body == b"one"
    assert first.properties["SessionId"] == session_id
    assert holder.complete(first.token).status == 204
    assert holder.abandon(holder.receive().token).status == 204
    assert holder.dead_letter(holder.receive().token).status == 204
    assert holder.defer(holder.receive().token).status == 204
    assert holder.renew().status == 204
    assert holder.ask("PUT", "/state", b"kept").status == 204
    assert holder.ask("GET", "/state").body == b"kept"
    assert [item["Body"] for item in holder.ask("GET", "/messages").json] == ["three", "four"]
    listed = gateway.ask("GET", f"/{queue}/sessions").json["sessions"]
    assert [item["SessionId"] for item in listed] == [session_id]
    assert holder.ask("POST", "/$deadletter", {}).json == {"count": 2}
    assert holder.release().status == 204
    accepted = gateway.ask(
        "POST", f"/{queue}/sessions?timeout=0", {"SessionId": session_id}, {"Azsession-Lock-Id": fresh_id()}
    )
    assert accepted.json == {"SessionId": session_id}


def test_a_session_id_whose_slashes_a_proxy_decoded_is_recognized(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "a/b c/é", "one", "two")
    path = f"/{queue}/sessions/a/b%20c/%C3%A9"
    received = gateway.ask("DELETE", f"{path}/messages/head?timeout=0")
    assert received.body == b"one"
    assert gateway.ask("DELETE", f"{path}/messages/{received.token}").status == 204
    assert gateway.ask("POST", f"{path}/renewlock").status == 204


# Properties and attributes

PROPERTIES: dict[str, Any] = {
    "MessageId": "id-1",
    "SessionId": "s",
    "CorrelationId": "c",
    "Label": 'paid: état, "quoted"',
    "ReplyTo": "answers",
    "ReplyToSessionId": "r/1",
    "To": "somewhere",
    "TimeToLive": 90.5,
}

ATTRIBUTES: dict[str, Any] = {
    "text": "plain",
    "quoted": 'say "hi" \\ back',
    "unicode": "état 日本",
    "looks-like-a-number": "5",
    "looks-true": "true",
    "empty": "",
    "count": 5,
    "big": 2**63 - 1,
    "negative": -7,
    "share": 0.25,
    "tiny": 1e-300,
    "whole": 3.0,
    "yes": True,
    "no": False,
}


def test_a_single_message_keeps_its_properties_and_attributes(gateway: Gateway, queue: str) -> None:
    headers = {name: json.dumps(value) for name, value in ATTRIBUTES.items()}
    sent = {"BrokerProperties": json.dumps(PROPERTIES), "Content-Type": "text/plain; charset=utf-8", **headers}
    assert gateway.ask("POST", f"/{queue}/messages", "ünïcode".encode(), sent).status == 201
    received = gateway.holder(queue, "s").receive()
    assert received.body == "ünïcode".encode()
    assert received.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert {name: received.properties[name] for name in PROPERTIES} == PROPERTIES
    assert received.headers["BrokerProperties"].isascii()
    for name, value in ATTRIBUTES.items():
        text = received.headers[name]
        assert text.isascii()
        assert json.loads(text) == value
        assert type(json.loads(text)) is type(value), name


def test_an_envelope_keeps_properties_and_the_types_of_attributes(gateway: Gateway, queue: str) -> None:
    names = {**ATTRIBUTES, "CamelCase": 1, "with space": 2, "é": "ü", "content-type": "x", "x:y": "z"}
    item = {"Body": "b", "ContentType": "text/x", "BrokerProperties": PROPERTIES, "UserProperties": names}
    assert gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE}).status == 201
    received = gateway.holder(queue, "s").receive("timeout=0&max=1").json[0]
    assert received["ContentType"] == "text/x"
    assert received["UserProperties"] == names
    assert {name: type(value) for name, value in received["UserProperties"].items()} == {
        name: type(value) for name, value in names.items()
    }
    assert {name: received["BrokerProperties"][name] for name in PROPERTIES} == PROPERTIES


def test_an_attribute_name_that_cannot_be_a_header_name_is_encoded(gateway: Gateway, queue: str) -> None:
    names = {"with space": 1, "é": 2, "Content-Length": 3, "azsession-count": 4, "a:b": 5, "a\u2028b": 6}
    item = {"Body": "b", "BrokerProperties": {"SessionId": "s"}, "UserProperties": names}
    gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE})
    received = gateway.holder(queue, "s").receive()
    assert received.headers.get_all("Content-Length") == ["1"]
    assert received.headers["with%20space"] == "1"
    assert received.headers[quote("é")] == "2"
    assert received.headers["%43ontent-%4cength"] == "3"
    assert received.headers["%61zsession-count"] == "4"


def test_the_upper_case_letters_of_an_attribute_survive_in_headers(gateway: Gateway, queue: str) -> None:
    item = {"Body": "b", "BrokerProperties": {"SessionId": "s"}, "UserProperties": {"OrderId": 7}}
    gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE})
    received = gateway.holder(queue, "s").receive()
    assert received.headers["%4frder%49d"] == "7"
    headers = {"BrokerProperties": '{"SessionId": "t"}', "%4FrDER%49d": "8"}
    gateway.ask("POST", f"/{queue}/messages", b"x", headers)
    items = gateway.holder(queue, "t").receive("timeout=0&max=1").json
    assert items[0]["UserProperties"] == {"OrderId": 8} or items[0]["UserProperties"] == {"Order" + "Id": 8}


def test_headers_of_proxies_do_not_become_attributes(gateway: Gateway, queue: str) -> None:
    headers = {"BrokerProperties": '{"SessionId": "s"}', "X-Forwarded-For": '"1.2.3.4"', "X-Ms-Thing": "5", "Via": '"x"'}
    gateway.ask("POST", f"/{queue}/messages", b"x", {**headers, "mine": '"kept"', "Unquoted": "dropped"})
    received = gateway.holder(queue, "s").receive("timeout=0&max=1").json[0]
    assert received["UserProperties"] == {"mine": "kept"}


def test_properties_that_only_the_server_sets_are_ignored_in_a_send(gateway: Gateway, queue: str) -> None:
    claims = {"SequenceNumber": 99, "DeliveryCount": 9, "LockToken": "x", "EnqueuedTimeUtc": "Sun, 06 Nov 1994 08:49:37 GMT"}
    gateway.send(queue, "s", "one", DeadLetterReason="no", **claims)
    properties = gateway.holder(queue, "s").receive().properties
    assert properties["SequenceNumber"] == 1
    assert properties["DeliveryCount"] == 1
    assert properties["LockToken"] != "x"
    assert "1994" not in properties["EnqueuedTimeUtc"]
    assert "DeadLetterReason" not in properties


@pytest.mark.parametrize("form", ["rfc1123", "iso", "iso with Z", "iso without zone", "iso with a zone", "iso with decimals"])
def test_a_scheduled_message_becomes_visible_at_its_time(gateway: Gateway, queue: str, form: str) -> None:
    at = (datetime.fromtimestamp(gateway.clock.now(), timezone.utc) + timedelta(seconds=100)).replace(microsecond=0)
    text = {
        "rfc1123": at.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "iso": at.isoformat(),
        "iso with Z": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "iso without zone": at.strftime("%Y-%m-%dT%H:%M:%S"),
        "iso with a zone": at.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
        "iso with decimals": at.strftime("%Y-%m-%dT%H:%M:%S.0000000Z"),
    }[form]
    gateway.send(queue, "s", "later", ScheduledEnqueueTimeUtc=text)
    holder = gateway.holder(queue, "s")
    assert holder.receive().status == 204
    gateway.clock.forward(98)
    assert holder.receive().status == 204
    gateway.clock.forward(3)
    assert holder.receive().body == b"later"


def test_an_expired_message_is_dropped_or_dead_lettered_by_the_queues_setting(gateway: Gateway) -> None:
    for kept in (False, True):
        queue = gateway.queue(dead_letter_on_expiration=kept)
        gateway.send(queue, "s", "short", TimeToLive=5)
        gateway.send(queue, "s", "long")
        gateway.clock.forward(6)
        assert gateway.holder(queue, "s").receive().body == b"long"
        dead = gateway.ask("GET", f"/{queue}/$deadletterqueue/messages").json
        assert [item["BrokerProperties"]["DeadLetterReason"] for item in dead] == ["TTLExpiredException"] * kept


def test_a_message_over_the_delivery_limit_is_dead_lettered(gateway: Gateway) -> None:
    queue = gateway.queue(max_delivery_count=2)
    gateway.send(queue, "s", "poison", "fine")
    holder = gateway.holder(queue, "s", fresh_id())
    for _ in range(2):
        assert holder.abandon(holder.receive().token).status == 204
    assert holder.receive().body == b"fine"
    dead = gateway.ask("GET", f"/{queue}/$deadletterqueue/messages").json
    assert [item["BrokerProperties"]["DeadLetterReason"] for item in dead] == ["MaxDeliveryCountExceeded"]


# Header injection

EVIL = 'x\r\nSet-Cookie: evil=1\r\n\r\n<html>\x00\x7f\u2028"'


def test_line_breaks_in_attributes_properties_and_reasons_start_no_header(gateway: Gateway, queue: str) -> None:
    item = {
        "Body": "body",
        "BrokerProperties": {"SessionId": "s", "Label": EVIL, "MessageId": EVIL, "To": EVIL},
        "UserProperties": {"attribute": EVIL},
    }
    gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE})
    holder = gateway.holder(queue, "s")
    received = holder.receive()
    assert received.body == b"body"
    assert "Set-Cookie" not in received.headers
    assert json.loads(received.headers["attribute"]) == EVIL
    assert received.properties["Label"] == EVIL
    assert holder.dead_letter(received.token, DeadLetterReason=EVIL, DeadLetterErrorDescription=EVIL).status == 204
    dead = gateway.ask("GET", f"/{queue}/$deadletterqueue/messages")
    assert dead.json[0]["BrokerProperties"]["DeadLetterReason"] == EVIL


@pytest.mark.parametrize(
    "content_type", ["text/plain\r\nSet-Cookie: evil=1", "a\nb", "a\rb", "\x00", "é", "a\u2028b", "\x85"]
)
def test_a_line_break_in_a_content_type_starts_no_header(gateway: Gateway, queue: str, content_type: str) -> None:
    item = {"Body": "body", "ContentType": content_type, "BrokerProperties": {"SessionId": "s"}}
    gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE})
    holder = gateway.holder(queue, "s")
    received = holder.receive(headers={"Azsession-Request-Id": "again"})
    assert received.body == b"body"
    assert "Set-Cookie" not in received.headers
    assert received.headers["Content-Type"] == "application/octet-stream"
    again = holder.receive("timeout=0&max=1", {"Azsession-Request-Id": "again"})
    assert again.json[0]["ContentType"] == content_type


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie", "a\nb", "a\x00", ""])
def test_an_attribute_name_with_control_characters_is_refused(gateway: Gateway, queue: str, name: str) -> None:
    item = {"Body": "body", "BrokerProperties": {"SessionId": "s"}, "UserProperties": {name: 1}}
    reply = gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


def test_a_line_break_in_a_path_does_not_appear_in_an_error(gateway: Gateway) -> None:
    for path in ("/a%0D%0ASet-Cookie:%20evil", "/q/sessions/%0D%0Ax/state", "/q/%0D%0A"):
        reply = gateway.ask("GET", path)
        assert reply.status in (400, 404)
        assert "Set-Cookie" not in reply.headers


def test_a_message_sent_in_the_same_process_can_be_peeked_over_http(gateway: Gateway, queue: str) -> None:
    raw = bytes(range(256))
    gateway.service.broker.send(queue, [Message(raw, session_id="s")])
    item = gateway.ask("GET", f"/{queue}/sessions/s/messages").json[0]
    assert base64.b64decode(item["Body"]) == raw
