"""The operations that a plain server offers, those that it lacks, and closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import requests

from azsession import (
    Message,
    ProviderError,
    ReceivedMessage,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    UnsupportedOperationError,
)

from ..conftest import eventually
from ..support.plain_server import CLOSED_BEFORE, PlainServer, answer
from .operations import ON_LOCK, SETTLES, received


def test_a_session_client_works_without_a_provider(server: PlainServer) -> None:
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


def test_a_received_message_has_the_properties_of_the_response(server: PlainServer, session: SessionClient) -> None:
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


def test_a_lock_token_is_the_only_property_that_a_message_needs(server: PlainServer, session: SessionClient) -> None:
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


def test_an_abandoned_message_comes_before_messages_that_were_fetched_ahead(
    server: PlainServer, session: SessionClient
) -> None:
    server.put("orders", "s1", b"0", b"1", b"2")
    first = next(session.messages(timeout=1, prefetch=3))
    session.abandon_message(first)
    again = session.receive_messages(3, timeout=1)
    # A plain server counts the delivery of a message that is given back, so none was fetched ahead.
    assert [(message.body, message.delivery_count) for message in again] == [(b"0", 2), (b"1", 1), (b"2", 1)]


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


def test_a_receive_without_a_message_returns_none_or_an_empty_list(session: SessionClient) -> None:
    assert session.receive_message(timeout=0) is None
    assert session.receive_messages(5, timeout=0) == []
    assert list(session.messages(timeout=0)) == []


def test_a_waiting_receive_returns_a_message_that_arrives_later(server: PlainServer, session: SessionClient) -> None:
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


def test_dead_lettering_a_session_moves_its_messages_one_by_one(server: PlainServer, session: SessionClient) -> None:
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


UNSUPPORTED: dict[str, Callable[[ServiceBusProvider, SessionClient, ReceivedMessage], object]] = {
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


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_operation_that_the_plain_dialect_lacks_raises_unsupported_operation(
    server: PlainServer, provider: ServiceBusProvider, session: SessionClient, name: str
) -> None:
    message = received(server, session)
    with pytest.raises(UnsupportedOperationError, match="plain dialect"):
        UNSUPPORTED[name](provider, session, message)
    assert server.requests() == ["GET /healthz"]
    session.complete_message(message)


def test_a_failing_server_is_not_mistaken_for_a_plain_server(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider:
        for status in (429, 503):
            server.next(answer(status))
            with pytest.raises(ProviderError) as caught:
                provider.send_message("orders", Message(b"x", session_id="s"))
            assert (caught.value.status, caught.value.is_transient) == (status, True)
    assert server.requests() == ["GET /healthz"] * 2


def test_the_question_for_the_dialect_is_asked_again_when_its_answer_was_lost(
    server: PlainServer, provider: ServiceBusProvider
) -> None:
    server.next(CLOSED_BEFORE)
    with pytest.raises(UnsupportedOperationError, match="plain dialect"):
        provider.list_sessions("orders")
    assert server.requests() == ["GET /healthz"] * 2


def test_closing_and_calls_on_a_closed_client_send_no_request(server: PlainServer, session: SessionClient) -> None:
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
    # The server has not shown its dialect, so that it may have locked the session.
    assert [seen.path.rpartition("/")[2] for seen in server.seen] == ["head", "release"]


@pytest.mark.parametrize("session_id", ["", ".", "..", "a\n"], ids=repr)
def test_a_session_id_that_a_path_cannot_carry_is_refused_before_a_session_request(
    server: PlainServer, provider: ServiceBusProvider, session_id: str
) -> None:
    session = provider.create_session_client("orders", session_id)
    with pytest.raises(UnsupportedOperationError, match="cannot carry the session id"):
        session.receive_message(timeout=0)
    session.close_session()
    assert all("/sessions" not in seen.path for seen in server.seen)


@pytest.mark.parametrize("session_id", ["a//b", "/", "a\\b", "~YQ"])
def test_a_session_id_that_a_path_carries_is_sent_as_it_is(
    server: PlainServer, provider: ServiceBusProvider, session_id: str
) -> None:
    server.put("orders", session_id, b"paid")
    with provider.create_session_client("orders", session_id) as session:
        message = session.receive_message(timeout=2)
        assert message is not None
        session.complete_message(message)
    assert server.left("orders", session_id) == []
