"""Text of a sender cannot inject headers or responses into a receiver's connection, or lines into a log."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import Message, PeekedMessage, ServiceBusProvider, UnsupportedOperationError
from azsession.protocol.routes import session_path
from azsession.protocol.wire import decode_single, encode_single

from ..server.raw import ENVELOPE, Gateway, exchange, fresh_id
from ..support.plain_server import PlainServer

BREAK = 'x\r\nInjected: yes\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", \x00\x1b[31m\x7f\x85\u2028\u202e\U0001f600'
#: The properties of a message that can have any text.
TEXTS = ("MessageId", "CorrelationId", "Label", "ReplyTo", "ReplyToSessionId", "To")

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


def receive_raw(gateway: Gateway, queue: str, query: str) -> tuple[bytes, bytes]:
    """Return head and body of the response to a receive, and check that the connection can be used after them."""
    path = f"/{queue}/sessions/s/messages/head?timeout=0{query}"
    head = gateway.head("DELETE", path, {"Azsession-Lock-Id": fresh_id()})
    received = b""
    with gateway.open_socket(
        head + gateway.head("GET", "/healthz").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    ) as sock:
        while data := sock.recv(65536):
            received += data
    first, _, rest = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", first)[1])  # type: ignore[index]
    assert rest[length:].startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.endswith(b'{"status":"ok"}')
    return first, rest[:length]


@pytest.mark.parametrize("query", ["", "&max=9"])
def test_no_text_of_a_message_injects_into_a_response(gateway: Gateway, queue: str, query: str) -> None:
    item = {
        "Body": BREAK,
        "ContentType": BREAK,
        "BrokerProperties": {"SessionId": "s", **dict.fromkeys(TEXTS, BREAK)},
        "UserProperties": {
            "text": BREAK, "Injected: yes": BREAK, "Content-Length": "0", "Transfer-Encoding": "chunked", "\u00e9": BREAK,
        },
    }  # fmt: skip
    assert gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE}).status == 201
    head, body = receive_raw(gateway, queue, query)
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 201 Created"
    names = [line.partition(b": ")[0].lower() for line in lines[1:]]
    assert len(set(names)) == len(names)
    assert b"injected" not in names
    assert b"transfer-encoding" not in names
    for line in lines[1:]:
        name, _, value = line.partition(b": ")
        assert _TOKEN.match(name), line
        assert re.fullmatch(rb"[ -~]*", value), line
    if query:
        (described,) = json.loads(body)
        properties = described["BrokerProperties"]
        assert (described["Body"], described["ContentType"]) == (BREAK, BREAK)
        assert described["UserProperties"] == item["UserProperties"]
    else:
        assert body == BREAK.encode()
        properties = json.loads(next(line for line in lines if line.startswith(b"brokerproperties: "))[18:])
        headers = [tuple(line.decode().split(": ", 1)) for line in lines[1:]]
        assert decode_single(headers, body)["attributes"] == item["UserProperties"]  # type: ignore[arg-type]
    assert {name: properties[name] for name in TEXTS} == dict.fromkeys(TEXTS, BREAK)


@pytest.mark.parametrize(
    "item",
    [
        {"BrokerProperties": {"SessionId": "s"}, "UserProperties": {"a\r\nInjected": "yes"}},
        {"BrokerProperties": {"SessionId": "s"}, "UserProperties": {"a\x00": "yes"}},
        {"BrokerProperties": {"SessionId": "s"}, "UserProperties": {"": "yes"}},
        {"BrokerProperties": {"SessionId": "s"}, "UserProperties": {"a\x7f": 1}},
    ],
)
def test_attribute_names_with_control_characters_are_refused(gateway: Gateway, queue: str, item: dict[str, Any]) -> None:
    reply = gateway.ask("POST", f"/{queue}/messages", [{"Body": "x", **item}], {"Content-Type": ENVELOPE})
    assert (reply.status, reply.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("field", ["DeadLetterReason", "DeadLetterErrorDescription"])
def test_a_dead_letter_reason_cannot_inject_into_a_response(gateway: Gateway, queue: str, field: str) -> None:
    gateway.send(queue, "s", "x")
    holder = gateway.holder(queue, "s", fresh_id())
    assert holder.dead_letter(holder.receive().token, **{field: BREAK}).status == 204
    reply = gateway.ask("GET", f"/{queue}/$deadletterqueue/messages")
    assert reply.headers["Injected"] is None
    assert reply.json[0]["BrokerProperties"][field] == BREAK


ANY = st.text(max_size=30) | st.sampled_from([BREAK, "\r\n", "\n a", "a:b", "\x00", "\x7f"])
WHOLE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.just(BREAK)


@given(
    st.dictionaries(WHOLE.filter(bool), ANY | st.integers() | st.booleans(), max_size=4),
    st.none() | ANY,
    st.lists(ANY, min_size=9, max_size=9),
)
def test_the_headers_of_any_message_in_a_broker_are_valid_headers(
    attributes: dict[str, Any], content_type: str | None, texts: list[str]
) -> None:
    # A broker can have messages that a gateway would refuse: Azure has other rules and other clients.
    message = PeekedMessage(
        body=b"",
        content_type=content_type,
        attributes=attributes,
        **dict(
            zip(
                ("session_id", "message_id", "subject", "correlation_id", "reply_to", "reply_to_session_id", "to",
                 "dead_letter_reason", "dead_letter_description"),
                texts,
                strict=True,
            )
        ),
    )  # fmt: skip
    headers, _ = encode_single(message)
    for name, value in headers.items():
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        assert re.fullmatch(r"[ -~]*", value)
    lowered = [name.lower() for name in headers]
    assert lowered.count("brokerproperties") == 1
    assert lowered.count("content-type") <= 1
    assert not {"content-length", "connection", "set-cookie", "location"} & set(lowered)


@pytest.mark.parametrize(
    "target",
    [
        "/{queue}/sessions/a%0D%0AInjected:%20yes/state",
        "/{queue}%0D%0AInjected:%20yes",
        "/{queue}/sessions/s/messages/head?timeout=%0D%0AInjected:%20yes",
        "/{queue}/sessions?after=%0D%0AInjected:%20yes",
        "/x%1b[31m",
    ],
)
def test_an_error_that_quotes_a_request_cannot_inject_into_a_response(
    gateway: Gateway, queue: str, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    caplog.set_level(logging.DEBUG)
    for method in ("GET", "DELETE", "PATCH"):
        reply = exchange(gateway, gateway.head(method, target.format(queue=queue)))
        assert reply.status in (200, 400, 404, 405)
        assert reply.headers["Injected"] is None
        assert not re.search(rb"[\x00-\x1f\x7f]", reply.body)
    for record in caplog.records:
        if record.name.startswith("azsession"):
            assert not re.search(r"[\x00-\x1f\x7f]", record.getMessage())


# From the client to the server

IDS = [
    "a/b",
    "a/messages/head",
    "../../other/sessions/s",
    "a?timeout=0#c",
    "50%",
    "%2e%2e%2f",
    "a HTTP/1.1",
    "a b+c",
    "\u00e9tat \U0001f600",
    "\u2028line",
    "http://elsewhere.example/",
    "x;y=z&a=b",
    "\\..\\",
]


@pytest.mark.parametrize("session_id", IDS)
def test_a_session_id_is_one_segment_of_the_request_path(session_id: str) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        server.put("orders", session_id, b"x")
        with provider.create_session_client("orders", session_id, auto_renew=False) as session:
            message = session.receive_message(timeout=0)
            assert message is not None
            session.dead_letter_message(message, BREAK, BREAK)
        assert server.dead == [(b"x", {"DeadLetterReason": BREAK, "DeadLetterErrorDescription": BREAK})]
        for seen in server.seen:
            assert seen.path.startswith(f"/orders/sessions/{quote(session_id, safe='')}/messages/")
            assert "Injected" not in seen.headers


@pytest.mark.parametrize("session_id", ["s\r\nInjected: yes", "s\n", "s\x85", "\x00"])
def test_a_session_id_cannot_inject_into_a_response(gateway: Gateway, queue: str, session_id: str) -> None:
    item = {"Body": "x", "BrokerProperties": {"SessionId": session_id}}
    assert gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE}).status == 201
    path = session_path(queue, session_id, escaped=True)
    reply = gateway.ask("DELETE", f"{path}/messages/head?timeout=0")
    assert reply.headers["Injected"] is None
    assert json.loads(reply.headers["BrokerProperties"])["SessionId"] == session_id


@pytest.mark.parametrize("session_id", ["a\r\nInjected: yes", "a\nb", "a\x00", "a\x7f", "a\x85", ".", ".."])
def test_a_session_id_that_a_path_cannot_carry_is_not_sent_in_the_plain_dialect(session_id: str) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", session_id)
        with pytest.raises(UnsupportedOperationError, match="session id"):
            session.receive_message(timeout=0)
        session.close_session()
        assert {seen.path for seen in server.seen} == {"/healthz"}


def test_text_sent_through_the_client_cannot_inject_into_a_response(gateway: Gateway, queue: str) -> None:
    with ServiceBusProvider.from_connection_string(gateway.service.connection_string()) as provider:
        sent = Message(
            BREAK, session_id="s", subject=BREAK, content_type=BREAK, to=BREAK, reply_to=BREAK, correlation_id=BREAK,
            reply_to_session_id=BREAK, message_id=BREAK, attributes={"Injected: yes": BREAK},
        )  # fmt: skip
        provider.send_message(queue, sent)
        with provider.create_session_client(queue, "s") as session:
            received = session.receive_message(timeout=5)
    assert received is not None
    for name in (
        "subject",
        "content_type",
        "to",
        "reply_to",
        "correlation_id",
        "reply_to_session_id",
        "message_id",
        "attributes",
    ):
        assert getattr(received, name) == getattr(sent, name), name
    assert received.text() == BREAK
