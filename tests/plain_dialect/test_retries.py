"""When the client retries a request to a plain server: throttling, server errors, lost answers, refused connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from azsession import (
    ConnectionFailedError,
    InvalidReceiptError,
    ProviderError,
    ServiceBusProvider,
    SessionClient,
    ThrottledError,
)

from ..conftest import eventually
from ..support.plain_server import CLOSED_BEFORE, NEVER, Fate, PlainServer, answer
from .operations import ALL, BROKEN, ON_LOCK, SETTLES, UNFINISHED, act, received


@pytest.mark.parametrize("name", [name for name in ALL if name != "receive"])
def test_a_throttled_request_is_retried_after_the_time_in_retry_after(
    server: PlainServer, session: SessionClient, name: str
) -> None:
    act(name, server, session, answer(429, {"Retry-After": "1"}))
    first, second = server.seen
    assert first.target.partition("?")[0] == second.target.partition("?")[0]
    assert second.at - first.at >= 1


def test_a_request_that_is_always_throttled_fails_after_the_last_retry(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=2) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(*[answer(429, {"Retry-After": "0"})] * 3)
        with pytest.raises(ThrottledError) as caught:
            session.renew_session_lock()
        assert caught.value.is_transient
        assert caught.value.status == 429
        assert caught.value.retry_after == 0
    assert len([seen for seen in server.seen if seen.path.endswith("/renewlock")]) == 3


def test_a_retry_after_beyond_the_deadline_fails_at_once(server: PlainServer) -> None:
    with ServiceBusProvider.from_connection_string(server.connection_string, retry_deadline=5) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(answer(429, {"Retry-After": "3600"}))
        with pytest.raises(ThrottledError) as caught:
            session.renew_session_lock()
        assert caught.value.retry_after == 3600
    assert len([seen for seen in server.seen if seen.path.endswith("/renewlock")]) == 1


def test_a_throttled_receive_is_retried_within_its_timeout(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(429, {"Retry-After": "1"}), answer(204))
    assert session.receive_message(timeout=20) is None
    first, second = server.seen
    assert second.at - first.at >= 1


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_receive_is_not_retried_after_its_timeout(server: PlainServer, session: SessionClient, timeout: float) -> None:
    server.next(answer(429, {"Retry-After": "20"}))
    with pytest.raises(ThrottledError):
        session.receive_message(timeout)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
@pytest.mark.parametrize("name", ALL)
def test_a_server_error_is_retried(server: PlainServer, session: SessionClient, name: str, status: int) -> None:
    act(name, server, session, answer(status))
    assert len(server.seen) == 2
    assert server.seen[0].method == server.seen[1].method


def test_a_message_can_be_settled_again_after_a_server_error(server: PlainServer) -> None:
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
def test_a_request_without_an_answer_is_retried_if_that_is_safe(
    server: PlainServer, session: SessionClient, name: str, how: str
) -> None:
    fate = {**UNFINISHED, **BROKEN}[how]
    act(name, server, session, Fate(fate.raw, fate.cut))
    assert len(server.seen) == 2
    assert server.seen[0].target == server.seen[1].target


@pytest.mark.parametrize("name", ["receive", "dead-letter"])
@pytest.mark.parametrize("how", [*UNFINISHED, *BROKEN])
def test_a_request_without_an_answer_is_not_retried_if_it_may_have_taken_effect(
    server: PlainServer, session: SessionClient, name: str, how: str
) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        act(name, server, session, {**UNFINISHED, **BROKEN}[how])
    assert caught.value.maybe_delivered
    assert caught.value.is_transient
    assert len(server.seen) == 1
    assert not session.is_lock_lost


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_response_whose_headers_are_cut_off_is_not_a_message(
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
def test_the_error_of_a_retried_settlement_says_that_it_may_have_succeeded(
    server: PlainServer, session: SessionClient, name: str
) -> None:
    message = received(server, session)
    server.next(CLOSED_BEFORE)
    with pytest.raises(InvalidReceiptError, match="may have been settled"):
        SETTLES[name](session, message)
    assert len(server.seen) == 2


def test_a_request_times_out(server: PlainServer) -> None:
    fields: dict[str, Any] = {"request_timeout": 0.2, "retry_attempts": 0}
    with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
        session = provider.create_session_client("orders", "s1")
        server.next(NEVER)
        with pytest.raises(ConnectionFailedError, match="timed out") as caught:
            session.receive_message(timeout=0.1)
        assert caught.value.maybe_delivered
        assert len(server.seen) == 1


@pytest.mark.parametrize("properties", ["", "{", "[]", "{}", '{"LockToken": 5}', '{"LockToken": ""}', '{"LockToken": null}'])
def test_a_message_without_a_lock_token_is_an_error(server: PlainServer, session: SessionClient, properties: str) -> None:
    server.next(answer(201, {"BrokerProperties": properties}, b"what?"))
    with pytest.raises(ConnectionFailedError) as caught:
        session.receive_message(timeout=2)
    assert caught.value.maybe_delivered
    assert "what?" not in str(caught.value)


class _OnLog(logging.Handler):
    """Calls `action` when the first record is logged."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action: Callable[[], None] | None = action

    def emit(self, record: logging.LogRecord) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


@pytest.mark.parametrize("name", ["receive", "renew", "dead-letter"])
def test_a_refused_connection_is_retried(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "azsession")
    with PlainServer(listening=False) as server:
        server.put("orders", "s1", b"there")
        listen = _OnLog(server.listen)
        logging.getLogger("azsession.client.request_log").addHandler(listen)
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
            logging.getLogger("azsession.client.request_log").removeHandler(listen)
        assert len(server.seen) == 1


def test_a_connection_that_stays_refused_has_delivered_nothing() -> None:
    with PlainServer(listening=False) as server:
        fields: dict[str, Any] = {"retry_attempts": 2}
        with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
            with pytest.raises(ConnectionFailedError, match="refused") as caught:
                provider.create_session_client("orders", "s1").receive_message(timeout=2)
            assert not caught.value.maybe_delivered


def test_a_pooled_connection_that_the_server_closed_is_replaced(server: PlainServer, session: SessionClient) -> None:
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
