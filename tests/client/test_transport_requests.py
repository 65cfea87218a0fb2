"""`Transport`: the requests that it sends, how long it waits, and the errors of its answers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import requests

from azsession import (
    AuthenticationFailedError,
    ConnectionFailedError,
    Message,
    ProviderError,
    QueueError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionLockedError,
)
from azsession.client.call import Call, ServerResponse
from azsession.client.cancellation import PendingCalls
from azsession.client.provider import core_of
from azsession.client.transport import Transport
from azsession.token_cache import TokenCache
from azsession.tokens import Token

from ..conftest import eventually
from ..support.plain_server import CLOSED_BEFORE, NEVER, PlainServer, answer
from .http_sessions import http

__all__ = ["http"]

V1 = {"Azsession-Protocol": "1"}


class Tokens:
    """A source of numbered tokens. Each resource is its own audience."""

    is_slow = False
    renews = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: AuthenticationFailedError | None = None

    def audience(self, resource: str) -> str:
        return resource

    def fetch(self, audience: str, *, refused: bool) -> Token:
        self.asked.append((audience, refused))
        number = len(self.asked)
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return Token(f"token {number}", time.time() + 3600)


def made(server: PlainServer, http: requests.Session, tokens: Tokens | None = None, **fields: Any) -> Transport:
    config = ServiceBusConfig(**{"connection_string": server.connection_string, "retry_attempts": 0, **fields})
    return Transport(http, f"{server.url}/", config, None if tokens is None else TokenCache(tokens))


@pytest.fixture
def transport(server: PlainServer, http: requests.Session) -> Transport:
    return made(server, http)


def call(**fields: Any) -> Call[ServerResponse]:
    defaults: dict[str, Any] = {"method": "GET", "path": "/q/x", "entity": "q", "read": lambda response: response}
    return Call(**{**defaults, **fields})


# Requests


def test_a_new_transport_knows_its_url_and_no_dialect(server: PlainServer, transport: Transport) -> None:
    assert transport.url == server.url
    assert repr(transport) == f"<Transport to {server.url}>"
    assert (transport.speaks_v1, transport.may_speak_v1, transport.fetches_ahead) == (False, True, False)


def test_a_request_carries_method_path_query_headers_and_body(server: PlainServer, transport: Transport) -> None:
    server.next(answer(200), answer(200), answer(204))
    sent = call(method="POST", query=lambda wait: f"timeout={wait:g}", wait=4.0, headers={"X-One": "1"}, body=b"abc")
    transport.send(sent)
    transport.send(call(method="PUT", query=lambda wait: f"timeout={wait:g}"))
    transport.send(call(method="DELETE"))
    assert server.requests() == ["POST /q/x?timeout=4", "PUT /q/x?timeout=0", "DELETE /q/x"]
    assert server.seen[0].body == b"abc"
    assert server.seen[0].headers["X-One"] == "1"
    assert [seen.headers.get("Content-Length") for seen in server.seen] == ["3", "0", None]
    assert all("Authorization" not in seen.headers for seen in server.seen)
    assert sent.in_flight is None


def test_an_answer_has_its_status_headers_body_and_the_time_of_the_request(server: PlainServer, transport: Transport) -> None:
    server.next(answer(201, {"X-Two": "2"}, b"abc"))
    before = time.monotonic()
    response = transport.send(call())
    assert (response.status, response.headers["X-Two"], response.body, response.messages) == (201, "2", b"abc", None)
    assert before <= response.sent_at <= time.monotonic()


def test_the_token_is_made_out_to_the_queue_and_replaced_once(server: PlainServer, http: requests.Session) -> None:
    tokens = Tokens()
    transport = made(server, http, tokens)
    server.next(answer(401), answer(200), answer(200))
    transport.send(call())
    transport.send(call(entity="other"))
    assert tokens.asked == [(f"{server.url}/q", False), (f"{server.url}/q", True), (f"{server.url}/other", False)]
    assert [seen.headers["Authorization"] for seen in server.seen] == ["token 1", "token 2", "token 3"]


def test_hooks_of_the_http_session_see_each_answer(server: PlainServer, http: requests.Session, transport: Transport) -> None:
    seen: list[int] = []
    http.hooks["response"].append(lambda response, **settings: seen.append(response.status_code))
    server.next(answer(200), answer(201))
    transport.send(call())
    http.hooks["response"] = lambda response, **settings: seen.append(-response.status_code)  # type: ignore[assignment]
    transport.send(call())
    assert seen == [200, -201]


# Dialects and retries


def test_an_answer_of_the_plain_dialect_is_remembered_until_a_gateway_answers(
    server: PlainServer, transport: Transport
) -> None:
    server.next(answer(500), answer(200), answer(200, V1))
    with pytest.raises(QueueError):
        transport.send(call())
    assert transport.may_speak_v1
    transport.send(call())
    assert not transport.may_speak_v1
    transport.send(call())
    assert transport.may_speak_v1


@pytest.mark.parametrize(("extensions", "expected"), [(None, False), ("x, fetch-ahead", True), ("other", False)])
def test_the_last_gateway_says_whether_it_lets_clients_fetch_ahead(
    server: PlainServer, transport: Transport, extensions: str | None, expected: bool
) -> None:
    server.next(
        answer(200, {**V1, "Azsession-Extensions": "fetch-ahead"}),
        answer(200, V1 if extensions is None else {**V1, "Azsession-Extensions": extensions}),
    )
    transport.send(call())
    assert transport.fetches_ahead is True
    transport.send(call())
    assert transport.fetches_ahead is expected


def test_a_retry_waits_for_the_rest_of_the_calls_wait(server: PlainServer, http: requests.Session) -> None:
    transport = made(server, http, retry_attempts=2)
    server.next(answer(503), answer(200))
    transport.send(call(query=lambda wait: f"t={wait:.3f}", wait=5.0))
    first, second = (float(seen.query.partition("=")[2]) for seen in server.seen)
    assert first == 5
    assert 0 < second < 5


@pytest.mark.parametrize(("repeatable", "gateway", "times"), [(False, False, 1), (True, False, 2), (False, True, 2)])
def test_a_call_whose_answer_was_lost_is_repeated_only_if_that_is_safe(
    server: PlainServer, http: requests.Session, repeatable: bool, gateway: bool, times: int
) -> None:
    transport = made(server, http, retry_attempts=1)
    server.next(answer(200, V1 if gateway else {}), CLOSED_BEFORE, answer(200, V1 if gateway else {}))
    transport.send(call())
    server.seen.clear()
    sent = call(method="POST", repeatable=repeatable)
    if times == 1:
        with pytest.raises(ConnectionFailedError):
            transport.send(sent)
    else:
        transport.send(sent)
    assert len(server.seen) == times


def test_an_answer_that_is_not_the_gateways_leaves_the_outcome_open(server: PlainServer, http: requests.Session) -> None:
    transport = made(server, http)
    server.next(answer(202))
    with pytest.raises(ConnectionFailedError) as caught:
        transport.send(call())
    assert str(caught.value) == f"{server.url} answered 202, which the protocol does not use"
    assert caught.value.maybe_delivered is True


# Errors


@pytest.mark.parametrize("status", [300, 302, 399])
def test_a_redirect_is_an_error(server: PlainServer, transport: Transport, status: int) -> None:
    server.next(answer(status, {"Location": "/elsewhere"}))
    with pytest.raises(ProviderError) as caught:
        transport.send(call())
    assert str(caught.value) == f"{server.url} answered {status}, which the protocol does not use"
    assert caught.value.status == status
    assert len(server.seen) == 1


def test_a_proxy_that_wants_a_password_is_named(server: PlainServer, transport: Transport) -> None:
    server.next(answer(407))
    with pytest.raises(ProviderError) as caught:
        transport.send(call())
    assert caught.value.status == 407
    assert str(caught.value) == (
        f"the proxy {server.url} refused the request (407): it needs a user and a password in its URL"
    )


def test_an_error_tells_when_the_lock_ends_and_when_to_try_again(server: PlainServer, transport: Transport) -> None:
    server.next(answer(423, {**V1, "Azsession-Lock-Expires-In": "20"}), answer(503, {"Retry-After": "7"}))
    with pytest.raises(SessionLockedError) as locked:
        transport.send(call())
    assert locked.value.locked_until is not None
    assert 15 < (locked.value.locked_until - datetime.now(timezone.utc)).total_seconds() <= 20
    with pytest.raises(QueueError) as busy:
        transport.send(call())
    assert busy.value.retry_after == 7


@pytest.mark.parametrize("ago", [0, 7200])
def test_a_refused_token_mentions_a_clock_that_is_wrong(server: PlainServer, http: requests.Session, ago: int) -> None:
    transport = made(server, http, Tokens())
    date = format_datetime(datetime.fromtimestamp(time.time() - ago, timezone.utc), usegmt=True)
    server.next(*[answer(401, {"Date": date})] * 2)
    with pytest.raises(AuthenticationFailedError) as caught:
        transport.send(call())
    assert ("ahead of the server's" in str(caught.value)) == (ago > 0)
    assert not str(caught.value).startswith("None")


def test_without_tokens_a_refusal_mentions_no_clock(server: PlainServer, transport: Transport) -> None:
    server.next(answer(401, {"Date": "Thu, 01 Jan 2015 00:00:00 GMT"}))
    with pytest.raises(AuthenticationFailedError) as caught:
        transport.send(call())
    assert "clock" not in str(caught.value)
    assert len(server.seen) == 1


# Time


@pytest.mark.parametrize(("fields", "config"), [({"response_timeout": 0.3}, 20), ({"response_timeout": 20}, 0.3), ({}, 0.3)])
def test_an_answer_that_does_not_come_is_an_error_in_time(
    server: PlainServer, http: requests.Session, fields: dict[str, float], config: float
) -> None:
    transport = made(server, http, request_timeout=config)
    server.next(NEVER)
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError) as caught:
        transport.send(call(**fields))
    assert 0.29 <= time.monotonic() - began < 10
    assert caught.value.maybe_delivered is True


def test_a_stop_cancels_the_request_that_waits(server: PlainServer, transport: Transport) -> None:
    server.next(NEVER)
    pending = PendingCalls()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.send, call(), pending)
        eventually(lambda: server.seen)
        pending.stop()
        assert isinstance(waiting.exception(10), ConnectionFailedError)
    assert not pending._calls


def test_a_stop_cancels_the_wait_for_a_token(server: PlainServer, http: requests.Session) -> None:
    tokens = Tokens()
    tokens.is_slow = True
    tokens.gate.clear()
    pending, transport = PendingCalls(), made(server, http, tokens)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(transport.send, call(), pending)
        eventually(lambda: tokens.asked)
        pending.stop()
        error = waiting.exception(10)
    tokens.gate.set()
    assert isinstance(error, ConnectionFailedError)
    assert str(error) == f"the request to {server.url} was cancelled"
    assert error.maybe_delivered is False
    assert server.seen == []


@pytest.mark.parametrize(("response_timeout", "seconds"), [(None, "0.2"), (0.1, "0.1"), (9, "0.2")])
def test_a_token_that_does_not_come_is_an_error_in_time(
    server: PlainServer, http: requests.Session, response_timeout: float | None, seconds: str
) -> None:
    tokens = Tokens()
    tokens.is_slow = True
    tokens.gate.clear()
    transport = made(server, http, tokens, request_timeout=0.2)
    sent = call(response_timeout=response_timeout)
    with pytest.raises(AuthenticationFailedError, match=f"gave no token within {seconds} s"):
        transport.send(sent)
    assert sent.in_flight is None
    tokens.gate.set()


# In process


def test_a_backend_in_this_process_speaks_version_1_from_the_start() -> None:
    with ServiceBusProvider.embedded() as provider:
        transport = core_of(provider).transport
        assert (transport.speaks_v1, transport.fetches_ahead, transport.may_speak_v1) == (True, True, True)
        provider.send_messages("q", [Message(str(number), session_id="s") for number in range(3)])
        with provider.create_session_client("q", "s") as session:
            session.set_session_state(b"state")
            assert session.get_session_state() == b"state"
            assert [message.text() for message in session.messages(timeout=0)] == ["0", "1", "2"]
        assert transport.fetches_ahead is True
