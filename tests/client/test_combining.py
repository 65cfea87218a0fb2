"""Settling a message together with the receive that follows: the requests that this saves, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest
import requests

from azsession import (
    InvalidReceiptError,
    Message,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
)
from azsession.client import settling
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .combined import Traffic, accept, rest, send


@pytest.fixture
def provider(azsession_server: AzsessionServer, http: requests.Session) -> Iterator[ServiceBusProvider]:
    config = ServiceBusConfig(connection_string=azsession_server.connection_string)
    with ServiceBusProvider(config, http=http) as provider:
        yield provider


@pytest.fixture
def session(provider: ServiceBusProvider) -> Iterator[SessionClient]:
    """A session with three messages."""
    send(provider, 3)
    with provider.create_session_client("orders", "s1") as session:
        yield session


@pytest.fixture
def traffic(session: SessionClient, http: requests.Session) -> Traffic:
    """The requests about `session`."""
    return Traffic(http)


def test_a_loop_needs_one_request_for_each_message(provider: ServiceBusProvider, http: requests.Session) -> None:
    send(provider, 25)
    traffic = Traffic(http)
    with provider.create_session_client("orders", "s1") as session:
        seen = []
        for message in session.messages(timeout=0):
            seen.append((message.text(), message.delivery_count))
            session.complete_message(message)
    assert seen == [(str(number), 1) for number in range(25)]
    assert traffic.names == [
        "receive 10", *["complete"] * 9,
        "complete 10", *["complete"] * 9,
        "complete 10", *["complete"] * 4,
        "complete 10",  # It finds nothing, and so the loop waits for a message as usual.
        "receive 10",
        "release",
    ]  # fmt: skip


def test_a_loop_without_prefetching_needs_one_request_for_each_message_too(session: SessionClient, traffic: Traffic) -> None:
    for message in session.messages(timeout=0, prefetch=1):
        session.complete_message(message)
    assert traffic.names == ["receive 1", "complete 1", "complete 1", "complete 1", "receive 1"]


def test_deferring_and_dead_lettering_fetch_the_next_messages_too(
    session: SessionClient, provider: ServiceBusProvider, traffic: Traffic
) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    session.defer_message(next(messages))
    session.dead_letter_message(next(messages), "why", "more")
    third = next(messages)
    assert traffic.names == ["receive 1", "defer 1", "deadletter 1"]
    (letter,) = provider.dead_letters("orders")
    assert (letter.text(), letter.dead_letter_reason, letter.dead_letter_description) == ("1", "why", "more")
    assert third.text() == "2"


def test_abandoning_fetches_nothing(session: SessionClient, traffic: Traffic) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    session.abandon_message(next(messages))
    assert traffic.names == ["receive 1", "abandon"]
    again = next(messages)
    assert (again.text(), again.delivery_count) == ("0", 2)


def test_a_loop_that_was_left_fetches_nothing(session: SessionClient, traffic: Traffic) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    message = next(messages)
    running = holder_of(session).lock._running()  # As if the garbage collector had not freed the loop yet.
    messages.close()
    session.complete_message(message)
    assert running is not None
    assert traffic.names == ["receive 1", "complete"]


def test_a_message_that_was_not_yielded_last_is_settled_alone(session: SessionClient, traffic: Traffic) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    first, second = next(messages), next(messages)
    session.complete_message(first)
    session.complete_message(second)
    assert traffic.names == ["receive 1", "receive 1", "complete", "complete 1"]


def test_a_message_is_settled_alone_while_another_is_unsettled(session: SessionClient, traffic: Traffic) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    first, second = next(messages), next(messages)
    session.complete_message(second)
    session.complete_message(first)
    assert traffic.names == ["receive 1", "receive 1", "complete", "complete"]


def test_another_thread_settles_alone(session: SessionClient, traffic: Traffic) -> None:
    # The loop can go on meanwhile, and could find nothing because the other thread has got the messages.
    message = next(messages := session.messages(timeout=0, prefetch=1))
    thread = threading.Thread(target=session.complete_message, args=(message,))
    thread.start()
    thread.join()
    assert traffic.names == ["receive 1", "complete"]
    messages.close()


def test_a_session_that_another_process_holds_too_is_settled_alone(session: SessionClient, traffic: Traffic) -> None:
    message = next(messages := session.messages(timeout=0, prefetch=1))
    session.lock_handle()
    session.complete_message(message)
    assert traffic.names[-1] == "complete"
    messages.close()


def test_an_older_server_gets_no_combined_request(provider: ServiceBusProvider, http: requests.Session) -> None:
    def older(response: requests.Response, **_: object) -> None:
        response.headers["Azsession-Extensions"] = "fetch-ahead, statistics"

    http.hooks["response"].append(older)
    traffic = Traffic(http)
    send(provider, 2)
    session = accept(provider, 5)
    (first,) = islice(messages := session.messages(timeout=5, prefetch=1), 1)
    session.complete_message(first)
    settling.settle_and_close(holder_of(session), next(messages))
    assert traffic.names == ["accept", "receive 1", "complete", "receive 1", "complete", "release"]


def test_the_gateway_that_has_the_lock_decides(provider: ServiceBusProvider, http: requests.Session) -> None:
    # Another, newer gateway behind the same balancer answers requests that are not about the session.
    send(provider, 2)
    session = provider.create_session_client("orders", "s1")
    traffic = Traffic(http)
    traffic.hidden = "Azsession-Extensions"
    message = next(messages := session.messages(timeout=5, prefetch=1))
    traffic.hidden = ""
    provider.list_sessions("orders")
    assert core_of(provider).transport.combines
    settling.settle_and_close(holder_of(session), message)
    assert traffic.names[-2:] == ["complete", "release"]
    messages.close()


def test_a_failed_settlement_raises_the_usual_error_and_receives_nothing(
    session: SessionClient, provider: ServiceBusProvider, traffic: Traffic
) -> None:
    messages = session.messages(timeout=0, prefetch=2)
    message = next(messages)
    session.complete_message(next(messages))
    with provider.session_from_receipt(message.receipt) as other:
        other.defer_message(message)
    with pytest.raises(InvalidReceiptError) as alone:
        session.complete_message(message)
    last = next(messages)
    with provider.session_from_receipt(last.receipt) as other:
        other.defer_message(last)
    send(provider, 2)
    with pytest.raises(InvalidReceiptError) as combined:
        session.complete_message(last)
    assert traffic.names.count("complete 2") == 1
    assert (
        (combined.value.code, str(combined.value)) == (alone.value.code, str(alone.value)) == ("Conflict", str(alone.value))
    )
    assert holder_of(session).lock.ahead_count == 0
    assert rest(session) == [("0", 1), ("1", 1)]
    assert traffic.names[-5:] == ["receive 1", "complete", "receive 1", "complete", "receive 1"]


def test_a_receive_after_a_failed_settlement_is_no_repetition(provider: ServiceBusProvider, http: requests.Session) -> None:
    send(provider, 1)
    traffic = Traffic(http)
    with provider.create_session_client("orders", "s1") as session:
        message = next(messages := session.messages(timeout=0, prefetch=1))
        with provider.session_from_receipt(message.receipt) as other:
            other.defer_message(message)
        with pytest.raises(InvalidReceiptError):
            session.complete_message(message)
        messages.close()
        assert session.receive_message(timeout=0) is None
    assert traffic.names == ["receive 1", "settle", "complete 1", "receive 1", "release"]


def test_a_lock_that_is_found_lost_is_reported(provider: ServiceBusProvider, http: requests.Session) -> None:
    send(provider, 2)
    lost: list[str | None] = []
    traffic = Traffic(http)
    with provider.create_session_client("orders", "s1", on_lock_lost=lambda _, error: lost.append(error.code)) as session:
        message = next(messages := session.messages(timeout=0, prefetch=1))
        provider.session_from_handle(session.lock_handle()).close_session()
        holder_of(session).lock.is_shared = False  # As if the lock had been lost in another way.
        with pytest.raises(InvalidReceiptError) as caught:
            session.complete_message(message)
        messages.close()
    assert traffic.names == ["receive 1", "release", "complete 1"]
    assert caught.value.code == "SessionLockLost"
    assert lost == ["SessionLockLost"]


def test_the_fetched_messages_extend_the_lock(session: SessionClient) -> None:
    message = next(messages := session.messages(timeout=0, prefetch=1))
    before = holder_of(session).lock.term
    session.complete_message(message)
    assert holder_of(session).lock.term.deadline > before.deadline
    messages.close()


def test_messages_that_were_fetched_count_nothing_until_they_are_used(
    session: SessionClient, provider: ServiceBusProvider, traffic: Traffic
) -> None:
    messages = session.messages(timeout=0, prefetch=2)
    session.complete_message(next(messages))
    session.complete_message(next(messages))
    assert (traffic.names[-1], holder_of(session).lock.ahead_count) == ("complete 2", 1)
    send(provider, 1)
    session.close_session()
    with provider.create_session_client("orders", "s1") as again:
        assert rest(again) == [("2", 1), ("0", 1)]


def test_an_abandoned_message_comes_before_those_that_came_with_a_settlement(session: SessionClient) -> None:
    messages = session.messages(timeout=0, prefetch=1)
    session.complete_message(next(messages))
    messages.close()
    messages = session.messages(timeout=0, prefetch=5)
    session.abandon_message(next(messages))
    assert rest(session) == [("1", 2), ("2", 1)]


def test_a_message_that_expires_before_the_loop_goes_on_is_not_yielded(provider: ServiceBusProvider) -> None:
    send(provider, 1)
    for session_id in ("s1", "other"):
        provider.send_message("orders", Message("short", session_id=session_id, time_to_live=3.0))
    provider.send_message("orders", Message("last", session_id="s1"))
    with provider.create_session_client("orders", "s1") as session:
        messages = session.messages(timeout=0, prefetch=1)
        session.complete_message(next(messages))
        ahead = holder_of(session).lock.first_ahead
        assert ahead is not None
        assert ahead.text() == "short"
        eventually(lambda: provider.peek_messages("orders", "other") == [], seconds=20)
        assert next(messages).text() == "last"


# Concurrent receives


def test_a_receive_of_another_thread_waits_for_the_messages_that_come_with_a_settlement(
    provider: ServiceBusProvider, http: requests.Session
) -> None:
    send(provider, 4)
    with provider.create_session_client("orders", "s1") as session:
        messages = session.messages(timeout=0, prefetch=2)
        session.complete_message(next(messages))
        last = next(messages)
        found: list[str | None] = []

        def receive() -> None:
            message = session.receive_message(timeout=20)
            found.append(None if message is None else message.text())

        thread = threading.Thread(target=receive)

        def begin_other_receive(response: requests.Response, **_: object) -> None:
            # The server has answered, and this thread does not have the messages yet.
            if "$settle?max" in str(response.request.url):
                thread.start()
                turn = holder_of(session).lock.fetches._current
                assert turn is not None
                eventually(lambda: turn._waiting)

        http.hooks["response"].append(begin_other_receive)
        session.complete_message(last)
        http.hooks["response"].remove(begin_other_receive)
        thread.join()
        assert found == ["2"]
        assert next(messages).text() == "3"


def test_a_message_is_settled_alone_while_another_thread_fetches_ahead(
    provider: ServiceBusProvider, http: requests.Session
) -> None:
    send(provider, 1)
    with provider.create_session_client("orders", "s1") as session:
        message = next(messages := session.messages(timeout=0, prefetch=5))
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(each.text() for each in islice(session.messages(20, 5), 1)))
        thread.start()
        eventually(lambda: holder_of(session).lock.fetches._current is not None)
        traffic = Traffic(http)
        session.complete_message(message)
        assert traffic.names == ["complete"]
        send(provider, 1)
        thread.join()
        assert found == ["0"]
        messages.close()
