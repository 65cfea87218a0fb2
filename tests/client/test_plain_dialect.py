"""The client against a server with nothing but the reference's six operations: `plain_server`, written from the reference."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests

from azsession import (
    ConnectionFailedError,
    InvalidReceiptError,
    Message,
    ProviderError,
    QueueError,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
)

from ..conftest import eventually
from ..support.plain_server import (
    CLOSED_BEFORE,
    CLOSED_IN_BODY,
    CLOSED_IN_HEADERS,
    GARBAGE,
    MANY_HEADERS,
    NEVER,
    ONE_HUGE_HEADER,
    Fate,
    PlainServer,
    answer,
)

#: Settling, by its name in the tests.
SETTLES: dict[str, Callable[[SessionClient, Any], None]] = {
    "complete": lambda session, receipt: session.complete_message(receipt),
    "abandon": lambda session, receipt: session.abandon_message(receipt),
    "dead-letter": lambda session, receipt: session.dead_letter_message(receipt, "broken"),
}
#: What acts on the lock itself.
ON_LOCK: dict[str, Callable[[SessionClient], object]] = {
    "receive": lambda session: session.receive_message(timeout=0),
    "renew": lambda session: session.renew_session_lock(),
}
ALL = {**ON_LOCK, **SETTLES}
UNFINISHED = {"before": CLOSED_BEFORE, "in the headers": CLOSED_IN_HEADERS, "in the body": CLOSED_IN_BODY}
BROKEN = {"garbage": GARBAGE, "one huge header": ONE_HUGE_HEADER, "many headers": MANY_HEADERS}


@pytest.fixture
def server() -> Iterator[PlainServer]:
    with PlainServer() as server:
        yield server


@pytest.fixture
def provider(server: PlainServer) -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        yield provider


@pytest.fixture
def session(provider: ServiceBusProvider) -> Iterator[SessionClient]:
    with provider.create_session_client("orders", "s1", auto_renew=False) as session:
        yield session


def received(server: PlainServer, session: SessionClient, body: bytes = b"paid") -> ReceivedMessage:
    """Put a message, receive it, and forget the requests so far."""
    server.put("orders", "s1", body)
    message = session.receive_message(timeout=2)
    assert message is not None
    server.seen.clear()
    return message


def act(name: str, server: PlainServer, session: SessionClient, *fates: Fate) -> None:
    """Do one operation, whose requests have these fates."""
    if name in SETTLES:
        message = received(server, session)
        server.next(*fates)
        SETTLES[name](session, message)
    else:
        server.next(*fates)
        ON_LOCK[name](session)


# What works


def test_a_client_made_as_in_the_reference_works_without_a_provider(server: PlainServer) -> None:
    server.put("orders", "s1", b"paid")
    config = ServiceBusConfig(connection_string=server.connection_string)
    with (
        requests.Session() as http,
        SessionClient("s1", "orders", timedelta(seconds=30), http, server.url, config) as session,
    ):
        message = session.receive_message(timedelta(seconds=2))
        assert message is not None
        session.complete_message(message.receipt)
    assert server.left("orders", "s1") == []


def test_a_message_has_what_the_server_said_of_it(server: PlainServer, session: SessionClient) -> None:
    server.put(
        "orders",
        "s1",
        b"\x00\xffbytes",
        headers={"Content-Type": "text/x-odd", "Priority": '"high"', "Weight": "2.5", "Urgent": "true", "Pieces": "3"},
        Label="état",
        CorrelationId="c1",
        ReplyTo="answers",
        ReplyToSessionId="r1",
        To="there",
        TimeToLive=90.5,
        EnqueuedTimeUtc="Sun, 06 Nov 1994 08:49:37 GMT",
    )
    message = session.receive_message(timeout=2)
    assert message is not None
    assert (message.body, message.content_type, message.session_id) == (b"\x00\xffbytes", "text/x-odd", "s1")
    assert (message.subject, message.correlation_id, message.to) == ("état", "c1", "there")
    assert (message.reply_to, message.reply_to_session_id) == ("answers", "r1")
    assert message.attributes == {"Priority": "high", "Weight": 2.5, "Urgent": True, "Pieces": 3}
    assert message.time_to_live == timedelta(seconds=90.5)
    assert message.enqueued_at is not None
    assert message.enqueued_at.isoformat() == "1994-11-06T08:49:37+00:00"
    assert (message.sequence_number, message.delivery_count, message.message_id) == (1, 1, "m1")


def test_an_answer_with_only_a_lock_token_is_a_message(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(200, {"BrokerProperties": '{"LockToken": "t"}'}, b"bare"))
    message = session.receive_message(timeout=2)
    assert message is not None
    assert (message.body, message.message_id, message.receipt.handle) == (b"bare", None, "t")


def test_messages_come_in_order_and_completing_deletes_them(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", *(b"%d" % n for n in range(5)))
    bodies = []
    for message in session.messages(timeout=0):
        bodies.append(message.body)
        session.complete_message(message)
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]
    assert server.left("orders", "s1") == []


def test_an_abandoned_message_comes_again(server: PlainServer, session: SessionClient) -> None:
    session.abandon_message(received(server, session))
    again = session.receive_message(timeout=2)
    assert again is not None
    assert (again.body, again.delivery_count) == (b"paid", 2)


def test_an_abandoned_message_comes_before_what_was_fetched_ahead(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", b"0", b"1", b"2")
    first = next(session.messages(timeout=1, prefetch=3))
    session.abandon_message(first)
    assert [message.body for message in session.receive_messages(3, timeout=1)] == [b"0", b"1", b"2"]


def test_a_dead_letter_has_its_reason_and_description(server: PlainServer, session: SessionClient) -> None:
    session.dead_letter_message(received(server, session), "bad état", "the field 'x' is missing")
    told = {"DeadLetterReason": "bad état", "DeadLetterErrorDescription": "the field 'x' is missing"}
    assert server.dead == [(b"paid", told)]
    assert server.seen[0].headers["Content-Type"] == "application/json"


def test_a_dead_letter_without_a_description_has_none(server: PlainServer, session: SessionClient) -> None:
    session.dead_letter_message(received(server, session), "bad")
    assert server.dead == [(b"paid", {"DeadLetterReason": "bad"})]


def test_a_renewal_moves_the_expiry_by_the_session_timeout(server: PlainServer, provider: ServiceBusProvider) -> None:
    with provider.create_session_client("orders", "s1", session_timeout=40, auto_renew=False) as session:
        before = session.session_expires_at
        after = session.renew_session_lock()
        assert after == session.session_expires_at
        assert after > before


def test_no_message_in_time_is_none(session: SessionClient) -> None:
    assert session.receive_message(timeout=0) is None
    assert session.receive_messages(5, timeout=0) == []
    assert list(session.messages(timeout=0)) == []


def test_a_waiting_receive_gets_what_is_sent_meanwhile(server: PlainServer, session: SessionClient) -> None:
    threading.Timer(0.1, server.put, ("orders", "s1", b"late")).start()
    message = session.receive_message(timeout=20)
    assert message is not None
    assert message.body == b"late"


def test_many_messages_are_received_one_by_one(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", b"0", b"1", b"2")
    assert [message.body for message in session.receive_messages(2, timeout=5)] == [b"0", b"1"]
    assert [seen.query for seen in server.seen] == ["timeout=5", "timeout=0"]
    assert [message.body for message in session.receive_messages(10, timeout=5)] == [b"2"]


def test_many_messages_are_completed_one_by_one(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", b"0", b"1", b"2")
    messages = session.receive_messages(3, timeout=1)
    server.seen.clear()
    session.complete_messages(messages)
    assert server.left("orders", "s1") == []
    assert [seen.method for seen in server.seen] == ["DELETE"] * 3


def test_what_is_left_of_a_session_is_dead_lettered_one_by_one(server: PlainServer, session: SessionClient) -> None:
    server.put("orders", "s1", *(b"%d" % n for n in range(5)))
    session.receive_message(timeout=1)
    assert session.dead_letter_session("poison", "the first one failed") == 5
    told = {"DeadLetterReason": "poison", "DeadLetterErrorDescription": "the first one failed"}
    assert server.dead == [(b"%d" % n, told) for n in range(5)]
    assert server.left("orders", "s1") == []


def test_a_receipt_settles_from_another_provider(server: PlainServer, session: SessionClient) -> None:
    text = str(received(server, session).receipt)
    with ServiceBusProvider.from_connection_string(server.connection_string) as other:
        other.session_from_receipt(text).complete_message(text)
    assert server.left("orders", "s1") == []


# What stands on the wire

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
    # The second message was abandoned, and so comes again as the third.
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


def test_a_subscription_is_an_entity(server: PlainServer, provider: ServiceBusProvider) -> None:
    server.put("events/subscriptions/audit", "s1", b"seen")
    with provider.create_session_client("events/subscriptions/audit", "s1") as session:
        message = session.receive_message(timeout=1)
    assert message is not None
    assert server.requests() == ["DELETE /events/subscriptions/audit/sessions/s1/messages/head?timeout=1"]


def test_a_base_with_a_path_is_kept(server: PlainServer) -> None:
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


def test_a_receive_longer_than_the_lock_waits_in_parts_that_keep_it(
    server: PlainServer, provider: ServiceBusProvider
) -> None:
    with provider.create_session_client("orders", "s1", session_timeout=0.4, auto_renew=False) as session:
        assert session.receive_message(timeout=0.9) is None
        assert not session.is_lock_lost
    waits = [float(seen.query.removeprefix("timeout=")) for seen in server.seen]
    assert len(waits) > 2
    assert max(waits) < 0.4


# Refusals


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("name", ON_LOCK)
def test_gone_on_a_receive_or_renewal_loses_the_session_for_good(
    server: PlainServer, provider: ServiceBusProvider, name: str, status: int
) -> None:
    lost: list[tuple[SessionClient, SessionNotFoundError]] = []
    server.put("orders", "s1", b"0", b"1")
    client = provider.create_session_client(
        "orders", "s1", auto_renew=False, on_lock_lost=lambda client, error: lost.append((client, error))
    )
    with client as session:
        message = session.receive_message(timeout=2)
        server.next(answer(status))
        with pytest.raises(SessionNotFoundError) as caught:
            ON_LOCK[name](session)
        requests_so_far = len(server.seen)
        for operation in ON_LOCK.values():
            with pytest.raises(SessionNotFoundError):
                operation(session)
        for settle in SETTLES.values():
            with pytest.raises(SessionNotFoundError):
                settle(session, message)
        assert session.is_lock_lost
        assert len(server.seen) == requests_so_far
    assert lost == [(session, caught.value)]


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("name", SETTLES)
def test_gone_on_a_settle_is_an_invalid_receipt_and_is_not_asked_again(
    server: PlainServer, session: SessionClient, name: str, status: int
) -> None:
    message = received(server, session)
    server.next(answer(status))
    with pytest.raises(InvalidReceiptError):
        SETTLES[name](session, message)
    with pytest.raises(InvalidReceiptError):
        SETTLES[name](session, message)
    assert len(server.seen) == 1
    assert not session.is_lock_lost
    assert session.receive_message(timeout=0) is None


@pytest.mark.parametrize("status", [200, 201, 204])
@pytest.mark.parametrize("name", SETTLES)
def test_any_success_settles(server: PlainServer, session: SessionClient, name: str, status: int) -> None:
    message = received(server, session)
    server.next(answer(status))
    SETTLES[name](session, message)
    with pytest.raises(InvalidReceiptError):
        SETTLES[name](session, message)
    assert len(server.seen) == 1


def test_a_renewal_answered_204_is_one(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(204))
    assert session.renew_session_lock() == session.session_expires_at


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 405, 409, 413, 418, 423, 501, 505])
def test_other_refusals_are_errors_of_the_tree_and_not_sent_again(
    server: PlainServer, session: SessionClient, name: str, status: int
) -> None:
    body = b"<Error><Code>%d</Code><Detail>No, because.</Detail></Error>" % status
    # A second one for 401, after which a request is sent once more where there is a new token.
    with pytest.raises(QueueError):
        act(name, server, session, answer(status, body=body), answer(status, body=body))
    assert len(server.seen) == 1 or (status == 401 and len(server.seen) == 2)


def test_a_redirect_is_not_followed(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(307, {"Location": f"{server.url}/elsewhere"}))
    with pytest.raises(ProviderError) as caught:
        session.receive_message(timeout=2)
    assert caught.value.status == 307
    assert len(server.seen) == 1


# What passes


@pytest.mark.parametrize("name", [name for name in ALL if name != "receive"])
def test_a_throttled_request_is_sent_again_after_the_time_that_the_server_asked_for(
    server: PlainServer, session: SessionClient, name: str
) -> None:
    act(name, server, session, answer(429, {"Retry-After": "1"}))
    first, second = server.seen
    assert first.target.partition("?")[0] == second.target.partition("?")[0]
    assert second.at - first.at >= 1


def test_a_throttled_request_fails_in_the_end(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=2) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(*[answer(429, {"Retry-After": "0"})] * 3)
        with pytest.raises(ThrottledError) as caught:
            session.renew_session_lock()
        assert caught.value.is_transient
        assert caught.value.status == 429
        assert caught.value.retry_after == 0
    assert len(server.seen) == 3


def test_a_server_that_asks_for_longer_than_the_deadline_is_not_waited_for(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_deadline=5) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(answer(429, {"Retry-After": "3600"}))
        with pytest.raises(ThrottledError) as caught:
            session.renew_session_lock()
        assert caught.value.retry_after == 3600
    assert len(server.seen) == 1


def test_a_throttled_receive_is_sent_again_within_its_own_timeout(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(429, {"Retry-After": "1"}), answer(204))
    assert session.receive_message(timeout=20) is None
    first, second = server.seen
    assert second.at - first.at >= 1


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_receive_is_not_sent_again_after_its_own_timeout(
    server: PlainServer, session: SessionClient, timeout: float
) -> None:
    server.next(answer(429, {"Retry-After": "20"}))
    with pytest.raises(ThrottledError):
        session.receive_message(timeout)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
@pytest.mark.parametrize("name", ALL)
def test_a_server_error_is_sent_again(server: PlainServer, session: SessionClient, name: str, status: int) -> None:
    act(name, server, session, answer(status))
    assert len(server.seen) == 2
    assert server.seen[0].method == server.seen[1].method


def test_a_server_error_fails_in_the_end_and_the_receipt_is_good_still(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=1) as provider:
        session = provider.create_session_client("orders", "s1")
        message = received(server, session)
        server.next(answer(500), answer(500))
        with pytest.raises(ProviderError) as caught:
            session.complete_message(message)
        assert (caught.value.status, caught.value.is_transient) == (500, True)
        session.complete_message(message)
        session.close()
    assert server.left("orders", "s1") == []


@pytest.mark.parametrize("name", ["renew", "complete", "abandon"])
@pytest.mark.parametrize("how", [*UNFINISHED, *BROKEN])
def test_a_lost_answer_is_asked_for_again_where_that_is_safe(
    server: PlainServer, session: SessionClient, name: str, how: str
) -> None:
    fate = {**UNFINISHED, **BROKEN}[how]
    act(name, server, session, Fate(fate.raw, fate.cut))
    assert len(server.seen) == 2
    assert server.seen[0].target == server.seen[1].target


@pytest.mark.parametrize("name", ["receive", "dead-letter"])
@pytest.mark.parametrize("how", [*UNFINISHED, *BROKEN])
def test_a_lost_answer_is_not_asked_for_again_where_the_request_may_have_acted(
    server: PlainServer, session: SessionClient, name: str, how: str
) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        act(name, server, session, {**UNFINISHED, **BROKEN}[how])
    assert caught.value.maybe_delivered
    assert caught.value.is_transient
    assert len(server.seen) == 1
    assert not session.is_lock_lost


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_message_whose_headers_were_cut_between_two_lines_is_none(
    server: PlainServer, session: SessionClient, lines: int
) -> None:
    whole = [
        b"HTTP/1.1 201 Created",
        b'BrokerProperties: {"LockToken": "t"}',
        b"Content-Type: text/plain",
        b"Content-Length: 4",
    ]
    server.next(Fate(b"".join(line + b"\r\n" for line in whole[:lines]), cut=999))
    with pytest.raises(ConnectionFailedError) as caught:
        session.receive_message(timeout=2)
    assert caught.value.maybe_delivered


@pytest.mark.parametrize("name", ["complete", "abandon"])
def test_a_settle_whose_lost_answer_was_a_success_says_that_it_may_have_been(
    server: PlainServer, session: SessionClient, name: str
) -> None:
    message = received(server, session)
    server.next(CLOSED_BEFORE)
    with pytest.raises(InvalidReceiptError, match="may have been settled"):
        SETTLES[name](session, message)
    assert len(server.seen) == 2


def test_an_answer_that_never_comes_is_given_up(server: PlainServer) -> None:
    fields: dict[str, Any] = {"request_timeout": 0.2, "retry_attempts": 0}
    with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(NEVER)
        with pytest.raises(ConnectionFailedError, match="timed out") as caught:
            session.receive_message(timeout=0.1)
        assert caught.value.maybe_delivered
    assert len(server.seen) == 1


@pytest.mark.parametrize("properties", ["", "{", "[]", "{}", '{"LockToken": 5}', '{"LockToken": ""}', '{"LockToken": null}'])
def test_a_message_without_a_lock_token_is_a_broken_answer(
    server: PlainServer, session: SessionClient, properties: str
) -> None:
    server.next(answer(201, {"BrokerProperties": properties}, b"what?"))
    with pytest.raises(ConnectionFailedError) as caught:
        session.receive_message(timeout=2)
    assert caught.value.maybe_delivered
    assert "what?" not in str(caught.value)


class _OnLog(logging.Handler):
    """Does something at the first record."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action: Callable[[], None] | None = action

    def emit(self, record: logging.LogRecord) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


@pytest.mark.parametrize("name", ["receive", "renew", "dead-letter"])
def test_a_refused_connection_is_tried_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession")
    with PlainServer(listening=False) as server:
        server.put("orders", "s1", b"there")
        listen = _OnLog(server.listen)
        logging.getLogger("azsession.client.retry").addHandler(listen)
        try:
            with ServiceBusProvider.from_connection_string(server.connection_string) as provider:
                session = provider.create_session_client("orders", "s1", auto_renew=False)
                if name == "dead-letter":
                    receipt = "azs1.WyJvcmRlcnMiLCJzMSIsInQiLG51bGxd"
                    server.next(answer(201))
                    provider.session_from_receipt(receipt).dead_letter_message(receipt, "broken")
                else:
                    ON_LOCK[name](session)
                session.close()
        finally:
            logging.getLogger("azsession.client.retry").removeHandler(listen)
        assert len(server.seen) == 1


def test_a_connection_that_is_refused_to_the_end_surely_did_nothing() -> None:
    with PlainServer(listening=False) as server:
        fields: dict[str, Any] = {"retry_attempts": 2}
        with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
            with pytest.raises(ConnectionFailedError, match="refused") as caught:
                provider.create_session_client("orders", "s1").receive_message(timeout=2)
            assert not caught.value.maybe_delivered


def test_a_connection_that_the_server_closed_meanwhile_is_replaced_unseen(
    server: PlainServer, session: SessionClient
) -> None:
    server.next(Fate(acts=True, cut=99999))
    assert session.receive_message(timeout=0) is None
    eventually(lambda: server.connections() == 0, "the server did not close the connection")
    server.put("orders", "s1", b"there")
    message = session.receive_message(timeout=0)
    assert message is not None
    assert message.body == b"there"
    assert len(server.seen) == 2


def test_no_error_shows_a_lock_token_a_signature_or_a_body(server: PlainServer, session: SessionClient) -> None:
    message = received(server, session, b"confidential")
    server.next(*[CLOSED_BEFORE] * 9)
    with pytest.raises(ConnectionFailedError) as caught:
        session.dead_letter_message(message, "broken")
    shown: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error)]
        error = error.__cause__
    text = "\n".join([*shown, repr(session), repr(message), repr(message.receipt)])
    for secret in (message.receipt.handle, message.receipt.handle.strip("{}"), "confidential", "sig="):
        assert secret not in text


# What it lacks

LACKING: dict[str, Callable[[ServiceBusProvider, SessionClient, ReceivedMessage], object]] = {
    "defer": lambda provider, session, message: session.defer_message(message),
    "receive deferred": lambda provider, session, message: session.receive_deferred_messages([1]),
    "get state": lambda provider, session, message: session.get_session_state(),
    "set state": lambda provider, session, message: session.set_session_state(b"x"),
    "accept": lambda provider, session, message: provider.create_session_client("orders", accept_timeout=0),
    "send": lambda provider, session, message: provider.send_message("orders", Message(b"x", session_id="s")),
    "list sessions": lambda provider, session, message: provider.list_sessions("orders"),
    "peek": lambda provider, session, message: provider.peek_messages("orders", "s1"),
    "dead letters": lambda provider, session, message: provider.dead_letters("orders"),
    "resubmit": lambda provider, session, message: provider.resubmit("orders", 1),
    "delete dead letter": lambda provider, session, message: provider.delete_dead_letter("orders", 1),
    "create queue": lambda provider, session, message: provider.create_queue("orders"),
    "get queue": lambda provider, session, message: provider.get_queue("orders"),
    "list queues": lambda provider, session, message: provider.list_queues(),
    "delete queue": lambda provider, session, message: provider.delete_queue("orders"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_the_plain_dialect_lacks_is_unsupported_and_changes_nothing(
    server: PlainServer, provider: ServiceBusProvider, session: SessionClient, name: str
) -> None:
    message = received(server, session)
    with pytest.raises(UnsupportedOperationError, match="plain dialect"):
        LACKING[name](provider, session, message)
    assert server.requests() == ["GET /healthz"]
    session.complete_message(message)


def test_a_server_that_fails_is_not_taken_for_one_of_the_plain_dialect(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider:
        for status in (429, 503):
            server.next(answer(status))
            with pytest.raises(ProviderError) as caught:
                provider.send_message("orders", Message(b"x", session_id="s"))
            assert (caught.value.status, caught.value.is_transient) == (status, True)
    assert server.requests() == ["GET /healthz"] * 2


# Closing


def test_closing_makes_no_request_and_later_calls_make_none(server: PlainServer, session: SessionClient) -> None:
    message = received(server, session)
    session.close_session()
    session.close_session()
    for operation in ON_LOCK.values():
        with pytest.raises(SessionNotFoundError, match="closed"):
            operation(session)
    for settle in SETTLES.values():
        with pytest.raises(SessionNotFoundError, match="closed"):
            settle(session, message)
    assert server.seen == []
    assert session.closed


@pytest.mark.parametrize("closed_by", ["client", "provider"])
def test_closing_ends_a_receive_that_waits_in_another_thread(
    server: PlainServer, provider: ServiceBusProvider, closed_by: str
) -> None:
    session = provider.create_session_client("orders", "s1", session_timeout=300)
    outcome: list[object] = []

    def wait() -> None:
        try:
            outcome.append(session.receive_message(timeout=120))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: server.seen, "the receive was never sent")
    (session if closed_by == "client" else provider).close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(found) for found in outcome] == [SessionNotFoundError]
    assert len(server.seen) == 1
