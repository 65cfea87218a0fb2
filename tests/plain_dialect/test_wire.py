"""The requests that the client sends to a plain server: paths, queries, headers, bodies."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from azsession import ServiceBusConfig, ServiceBusProvider, SessionClient, SessionNotFoundError
from azsession.client import receiving

from ..support.plain_server import PlainServer, answer
from .operations import SETTLES, received

SESSION_IDS = {
    "a/b": "a%2Fb",
    "a/messages/head": "a%2Fmessages%2Fhead",
    "x/renewlock": "x%2Frenewlock",
    "two words": "two%20words",
    "50%": "50%25",
    "%2F": "%252F",
    "a?b#c": "a%3Fb%23c",
    "\"double\" 'single'": "%22double%22%20%27single%27",
    "état": "%C3%A9tat",
    "日本": "%E6%97%A5%E6%9C%AC",
    "😀": "%F0%9F%98%80",
    "a+b&c=d;e": "a%2Bb%26c%3Dd%3Be",
    "a:b@c,d": "a%3Ab%40c%2Cd",
    "~-._": "~-._",
    "...": "...",
    "../up": "..%2Fup",
    "back\\slash": "back%5Cslash",
    "<{[|^`$!*()]}>": "%3C%7B%5B%7C%5E%60%24%21%2A%28%29%5D%7D%3E",
    " ": "%20",
    "x" * 128: "x" * 128,
    "é" * 128: "%C3%A9" * 128,
    "/" * 128: "%2F" * 128,
}


@pytest.mark.parametrize("session_id", SESSION_IDS, ids=[name[:20] for name in SESSION_IDS])
def test_a_session_id_is_one_encoded_segment_in_every_operation(
    server: PlainServer, provider: ServiceBusProvider, session_id: str
) -> None:
    server.put("orders", session_id, b"0", b"1", b"2")
    with provider.create_session_client("orders", session_id, auto_renew=False) as session:
        tokens = []
        for settle in SETTLES.values():
            message = session.receive_message(timeout=2)
            assert message is not None
            assert message.session_id == session_id
            tokens.append(message.receipt.handle.replace("{", "%7B").replace("}", "%7D"))
            settle(session, message)
        session.renew_session_lock()
    base = f"/orders/sessions/{SESSION_IDS[session_id]}"
    head = f"DELETE {base}/messages/head?timeout=2"
    # The second message was abandoned, so it comes again as the third.
    assert server.requests() == [
        head,
        f"DELETE {base}/messages/{tokens[0]}",
        head,
        f"PUT {base}/messages/{tokens[1]}",
        head,
        f"POST {base}/messages/{tokens[2]}/$deadletter",
        f"POST {base}/renewlock",
    ]


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        (0, "0"),
        (5, "5"),
        (5.0, "5"),
        (0.5, "0.5"),
        (0.25, "0.25"),
        (0.125, "0.125"),
        (0.0625, "0.062"),
        (0.0001, "0"),
        (1.9999, "2"),
        (timedelta(milliseconds=1500), "1.5"),
    ],
)
def test_a_timeout_is_an_integer_or_has_up_to_three_decimals(
    server: PlainServer, session: SessionClient, timeout: float | timedelta, text: str
) -> None:
    server.put("orders", "s1", b"there")
    session.receive_message(timeout)
    assert server.requests() == [f"DELETE /orders/sessions/s1/messages/head?timeout={text}"]


def test_a_session_of_a_subscription_can_be_received(server: PlainServer, provider: ServiceBusProvider) -> None:
    server.put("events/subscriptions/audit", "s1", b"seen")
    with provider.create_session_client("events/subscriptions/audit", "s1") as session:
        message = session.receive_message(timeout=1)
    assert message is not None
    assert server.requests() == ["DELETE /events/subscriptions/audit/sessions/s1/messages/head?timeout=1"]


def test_the_path_of_the_gateway_url_is_kept(server: PlainServer) -> None:
    config = ServiceBusConfig(connection_string=server.connection_string, gateway_url=f"{server.url}/behind/a/proxy/")
    with ServiceBusProvider(config) as provider:
        session = provider.create_session_client("orders", "s1")
        with pytest.raises(SessionNotFoundError):
            session.receive_message(timeout=0)
    assert server.requests() == ["DELETE /behind/a/proxy/orders/sessions/s1/messages/head?timeout=0"]


def test_every_request_is_signed_for_its_queue(server: PlainServer, session: SessionClient) -> None:
    session.complete_message(received(server, session))
    session.renew_session_lock()
    resource = f"{server.url}/orders".replace(":", "%3A").replace("/", "%2F")
    for seen in server.seen:
        assert re.fullmatch(
            rf"SharedAccessSignature sr={resource}&sig=[A-Za-z0-9%]+&se=\d+&skn=reader", seen.headers["Authorization"]
        )


def test_a_receive_and_a_complete_have_no_body(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", b"there")
    message = session.receive_message(timeout=1)
    assert message is not None
    session.complete_message(message)
    assert [(seen.body, seen.headers.get("Transfer-Encoding")) for seen in server.seen] == [(b"", None)] * 2


class ServersTime:
    """A clock that goes on only while a server lets receives wait, as long as their requests allow."""

    def __init__(self, server: PlainServer) -> None:
        self._server = server

    def waits(self) -> list[float]:
        return [float(seen.query.removeprefix("timeout=")) for seen in self._server.seen]

    def monotonic(self) -> float:
        return sum(self.waits())


def test_a_receive_that_is_longer_than_the_lock_is_divided(
    server: PlainServer, provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ServersTime(server)
    monkeypatch.setattr(receiving, "time", clock)
    server.next(*[answer(204)] * 9)
    with provider.create_session_client("orders", "s1", session_timeout=40, auto_renew=False) as session:
        assert session.receive_message(timeout=90) is None
        assert not session.is_lock_lost
        # No part is as long as the lock lasts.
        assert clock.waits() == [20, 20, 20, 30]
