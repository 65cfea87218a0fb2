"""Taking a session with its first messages, and settling a message together with the release of the session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from azsession import (
    ConnectionFailedError,
    InvalidReceiptError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionNotFoundError,
)
from azsession.client import receiving, settling
from azsession.client.session import holder_of
from azsession.client.settlement import COMPLETE, dead_lettering
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..hostile.servers import FaultyProxy, ScriptedAnswer, raw
from .combined import Traffic, accept, rest, send


@pytest.fixture
def provider(azsession_server: AzsessionServer, http: requests.Session) -> Iterator[ServiceBusProvider]:
    config = ServiceBusConfig(connection_string=azsession_server.connection_string)
    with ServiceBusProvider(config, http=http) as provider:
        yield provider


def test_an_accepted_session_brings_its_first_messages(provider: ServiceBusProvider, http: requests.Session) -> None:
    send(provider, 5)
    traffic = Traffic(http)
    with accept(provider, 3) as session:
        found = []
        while (message := receiving.next_ahead(holder_of(session))) is not None:
            found.append((message.text(), message.delivery_count))
            session.complete_message(message)
        assert found == [("0", 1), ("1", 1), ("2", 1)]
        assert traffic.names == ["accept 3", *["complete"] * 3]
        assert rest(session) == [("3", 1), ("4", 1)]


def test_messages_that_came_with_the_lock_count_nothing_if_they_are_given_back(provider: ServiceBusProvider) -> None:
    send(provider, 3)
    for _ in range(12):
        with accept(provider, 3) as session:
            assert receiving.next_ahead(holder_of(session)) is not None
    with provider.create_session_client("orders", "s1") as session:
        assert rest(session) == [("0", 1), ("1", 1), ("2", 1)]


def test_a_repeated_accept_gets_the_same_session_and_messages(proxy: FaultyProxy) -> None:
    with ServiceBusProvider.from_connection_string(proxy.connection_string) as provider:
        send(provider, 3)
        proxy.script(raw(b"", forwards=True))
        with accept(provider, 2) as session:
            assert rest(session) == [("0", 1), ("1", 1), ("2", 1)]


@pytest.mark.parametrize("settlement", [COMPLETE, dead_lettering("why", None)], ids=["complete", "dead-letter"])
def test_a_session_of_one_message_costs_two_requests(
    provider: ServiceBusProvider, http: requests.Session, settlement: Any
) -> None:
    send(provider, 1)
    traffic = Traffic(http)
    session = accept(provider, 10)
    message = receiving.next_ahead(holder_of(session))
    assert message is not None
    settling.settle_and_close(holder_of(session), message, settlement)
    assert session.closed
    assert traffic.names == ["accept 10", f"{settlement.name.replace('_', '')} release"]
    assert provider.peek_messages("orders", "s1") == []
    with pytest.raises(InvalidReceiptError), provider.session_from_receipt(message.receipt) as other:
        other.defer_message(message)


def test_settling_and_closing_returns_the_other_messages_uncounted(provider: ServiceBusProvider) -> None:
    send(provider, 4)
    session = accept(provider, 2)
    message = receiving.next_ahead(holder_of(session))
    assert message is not None
    assert session.receive_message(timeout=0) is not None
    settling.settle_and_close(holder_of(session), message)
    assert provider.list_sessions("orders")[0].locked_until is None
    with provider.create_session_client("orders", "s1") as again:
        assert rest(again) == [("1", 1), ("2", 1), ("3", 1)]


def test_a_session_is_closed_also_if_the_settlement_fails(provider: ServiceBusProvider) -> None:
    send(provider, 2)
    session = accept(provider, 1)
    message = receiving.next_ahead(holder_of(session))
    assert message is not None
    with provider.session_from_receipt(message.receipt) as other:
        other.defer_message(message)
    with pytest.raises(InvalidReceiptError) as caught:
        settling.settle_and_close(holder_of(session), message)
    assert caught.value.code == "Conflict"
    assert session.closed
    assert provider.list_sessions("orders")[0].locked_until is None


def test_a_lock_that_the_settlement_finds_lost_is_reported(provider: ServiceBusProvider) -> None:
    send(provider, 1)
    lost: list[str | None] = []
    session = provider.create_session_client(
        "orders", accept_timeout=5, on_lock_lost=lambda _, error: lost.append(error.code)
    )
    message = session.receive_message(timeout=5)
    assert message is not None
    provider.session_from_handle(session.lock_handle()).close_session()
    with pytest.raises(InvalidReceiptError) as caught:
        settling.settle_and_close(holder_of(session), message)
    assert caught.value.code == "SessionLockLost"
    assert lost == ["SessionLockLost"]
    assert session.closed


def test_a_session_is_closed_also_if_nobody_answers(proxy: FaultyProxy, azsession_provider: ServiceBusProvider) -> None:
    with ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=0) as provider:
        send(provider, 2)
        session = accept(provider, 1)
        message = receiving.next_ahead(holder_of(session))
        assert message is not None
        proxy.script(raw(b""))
        with pytest.raises(ConnectionFailedError):
            settling.settle_and_close(holder_of(session), message)
        assert session.closed
    assert azsession_provider.list_sessions("orders")[0].locked_until is None


def test_a_repeated_release_settles_once(proxy: FaultyProxy, azsession_provider: ServiceBusProvider) -> None:
    with ServiceBusProvider.from_connection_string(proxy.connection_string) as provider:
        send(provider, 2)
        session = accept(provider, 1)
        message = receiving.next_ahead(holder_of(session))
        assert message is not None
        proxy.script(raw(b"", forwards=True))
        settling.settle_and_close(holder_of(session), message)
        with azsession_provider.create_session_client("orders", "s1") as again:
            assert rest(again) == [("1", 1)]


def test_the_lock_is_renewed_until_the_settlement_is_answered(azsession_server: AzsessionServer, proxy: FaultyProxy) -> None:
    azsession_server.create_queue("orders", lock_duration=5)
    with ServiceBusProvider.from_connection_string(proxy.connection_string) as provider:
        send(provider, 1)
        session = accept(provider, 1)
        message = receiving.next_ahead(holder_of(session))
        assert message is not None

        def stall(_: bytes) -> list[bytes]:
            eventually(lambda: [line for line in proxy.requests if "/renewlock" in line], seconds=20)
            return []

        proxy.script(ScriptedAnswer(stall))  # The first attempt gets no answer.
        settling.settle_and_close(holder_of(session), message)
        assert provider.peek_messages("orders", "s1") == []


def test_a_renewal_that_follows_the_release_is_no_loss(provider: ServiceBusProvider, http: requests.Session) -> None:
    send(provider, 1)
    lost: list[object] = []
    session = provider.create_session_client("orders", accept_timeout=5, on_lock_lost=lambda *_: lost.append(_))
    message = session.receive_message(timeout=5)
    assert message is not None
    refused: list[type[Exception]] = []

    def renew(response: requests.Response, **_: object) -> None:
        # In another thread, between the release and the client's knowledge of it.
        if str(response.request.url).endswith("/release"):
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

    def attempt() -> None:
        try:
            session.renew_session_lock()
        except Exception as error:
            refused.append(type(error))

    http.hooks["response"].append(renew)
    settling.settle_and_close(holder_of(session), message)
    assert refused == [SessionNotFoundError]
    assert lost == []
