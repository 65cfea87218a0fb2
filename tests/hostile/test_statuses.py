"""Each operation, answered with each wrong status by something in front of the gateway, for example a proxy or login page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest

from azsession import (
    AuthenticationFailedError,
    ConnectionFailedError,
    InvalidReceiptError,
    MessageTooLargeError,
    PermissionDeniedError,
    ProviderError,
    QueueError,
    QueueNotFoundError,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
    ThrottledError,
    UnsupportedOperationError,
    ValidationError,
)
from azsession.client.session import holder_of

from ..support.plain_server import PlainServer, answer
from .operations import ALL, ON_LOCK, SETTLING, Prepare
from .servers import GATEWAYS, FaultyProxy, http_answer, proxy_page

#: The error of every operation for each status of a page of a proxy, and whether the request may have taken effect.
PAGES: dict[int | str, tuple[type[QueueError], bool]] = {
    "000": (ConnectionFailedError, True),
    100: (ConnectionFailedError, True),
    101: (ProviderError, False),
    103: (ConnectionFailedError, True),
    **dict.fromkeys((200, 201, 202, 203, 204, 206, 207, 226, 299), (ConnectionFailedError, True)),
    **dict.fromkeys((300, 301, 302, 303, 304, 307, 308, 399), (ProviderError, False)),
    400: (ValidationError, False),
    401: (AuthenticationFailedError, False),
    403: (PermissionDeniedError, False),
    **dict.fromkeys((404, 409, 410, 423), (ConnectionFailedError, True)),
    405: (UnsupportedOperationError, False),
    413: (MessageTooLargeError, False),
    429: (ThrottledError, False),
    **dict.fromkeys((402, 406, 407, 408, 411, 412, 414, 415, 418, 421, 426, 431, 451, 499), (ProviderError, False)),
    501: (UnsupportedOperationError, False),
    # After retries, the error says that an attempt may have taken effect.
    **dict.fromkeys((500, 502, 503, 504), (ConnectionFailedError, True)),
    **dict.fromkeys((505, 507, 511, 520, 599, 600, 999), (ProviderError, False)),
    "99": (ConnectionFailedError, True),
    "1000": (ConnectionFailedError, True),
    "2x0": (ConnectionFailedError, True),
}


@pytest.mark.parametrize("name", ALL)
def test_a_proxys_page_of_any_status_is_the_expected_error_and_changes_nothing(
    name: str, proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare()
    operation = ALL[name](context)
    for status, (kind, maybe_delivered) in PAGES.items():
        proxy.always = proxy_page(status)
        with pytest.raises(QueueError) as caught:
            operation()
        assert type(caught.value) is kind, (status, caught.value)
        assert getattr(caught.value, "maybe_delivered", False) is maybe_delivered, status
        assert not context.session.is_lock_lost, status
    proxy.always = None
    operation()


@pytest.mark.parametrize("status", [200, 404, 502])
@pytest.mark.parametrize("name", ALL)
def test_a_proxys_page_instead_of_the_gateways_answer_is_retried_with_success(
    name: str, status: int, proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare(retry_attempts=2)
    operation = ALL[name](context)
    proxy.script(proxy_page(status, forwards=True))
    operation()


@pytest.mark.parametrize("status", [501, 507, 511])
def test_a_server_error_does_not_hide_that_an_earlier_attempt_may_have_taken_effect(
    status: int, proxy: FaultyProxy, prepare: Prepare
) -> None:
    operation = ALL["send"](prepare(retry_attempts=2))
    proxy.script(proxy_page(502, forwards=True), proxy_page(status))
    with pytest.raises(ConnectionFailedError) as caught:
        operation()
    assert caught.value.maybe_delivered
    assert caught.value.status == status


#: The meaning of a status of the gateway itself, for the holder of a session and for settling; `lost` if the lock is lost.
OWN_ERRORS = {
    404: (QueueNotFoundError, QueueNotFoundError, "EntityNotFound", True),
    409: (ProviderError, InvalidReceiptError, "Conflict", False),
    410: (SessionNotFoundError, InvalidReceiptError, "SessionLockLost", True),
    423: (SessionLockedError, SessionLockedError, "SessionLocked", True),
}


@pytest.mark.parametrize("status", OWN_ERRORS)
@pytest.mark.parametrize("name", [*ON_LOCK, *SETTLING])
def test_the_status_of_the_gateway_itself_is_believed(name: str, status: int, proxy: FaultyProxy, prepare: Prepare) -> None:
    holds, settles, code, lost = OWN_ERRORS[status]
    context = prepare()
    operation = ALL[name](context)
    proxy.always = http_answer(status, headers={**GATEWAYS, "x-ms-error-code": code})
    with pytest.raises(QueueError) as caught:
        operation()
    if name in SETTLING:
        assert type(caught.value) is settles
        assert context.session.is_lock_lost == (code == "SessionLockLost" and settles is InvalidReceiptError)
    else:
        assert type(caught.value) is (SessionNotFoundError if lost else holds)
        assert context.session.is_lock_lost == lost


def test_a_redirect_is_not_followed_and_its_body_is_not_read(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    for location in ("http://[", "http://127.0.0.1:1/elsewhere", "//", "\xff\xfe", "file:///etc/passwd"):
        requests = len(proxy.requests)
        proxy.always = http_answer(302, b"x" * 100, {"Location": location})
        with pytest.raises(ProviderError) as caught:
            context.session.complete_message(context.message)
        assert caught.value.status == 302
        assert len(proxy.requests) == requests + 1
    proxy.always = None
    context.session.complete_message(context.message)


def test_the_renewer_does_not_give_up_the_lock_over_a_proxys_page(
    proxy: FaultyProxy, provider: ServiceBusProvider, queue: str
) -> None:
    lost: list[object] = []
    with provider.create_session_client(queue, "renewed", on_lock_lost=lambda *args: lost.append(args)) as session:
        session.receive_message(timeout=0)
        until = session.session_expires_at
        proxy.always = proxy_page(410)
        holder = holder_of(session)
        holder.lock._term = attrs.evolve(holder.lock.term, renew_at=0.0)  # The renewal is due now.
        holder.renew_in_background()
        assert not session.is_lock_lost
        proxy.always = None
        holder.renew_in_background()
        assert session.session_expires_at > until
    assert lost == []


# The plain dialect: its servers do not identify themselves


@contextmanager
def plain_session(server: PlainServer) -> Iterator[SessionClient]:
    with (
        ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=0) as provider,
        provider.create_session_client("orders", "s1", auto_renew=False) as session,
    ):
        yield session


@pytest.mark.parametrize("status", [202, 203, 205, 206, 207, 226, 299])
@pytest.mark.parametrize("name", ["complete", "abandon", "dead-letter"])
def test_a_settlement_does_not_succeed_with_a_status_that_the_protocol_does_not_use(name: str, status: int) -> None:
    with PlainServer() as server, plain_session(server) as session:
        server.put("orders", "s1", b"paid")
        message = session.receive_message(timeout=2)
        assert message is not None
        settle = {
            "complete": lambda: session.complete_message(message),
            "abandon": lambda: session.abandon_message(message),
            "dead-letter": lambda: session.dead_letter_message(message, "broken"),
        }[name]
        server.next(answer(status))
        with pytest.raises(ConnectionFailedError) as caught:
            settle()
        assert caught.value.maybe_delivered
        settle()
        assert server.left("orders", "s1") == ([b"paid"] if name == "abandon" else [])


@pytest.mark.parametrize("status", [200, 201, 202, 206])
def test_a_page_is_not_taken_for_a_message(status: int) -> None:
    with PlainServer() as server, plain_session(server) as session:
        server.put("orders", "s1", b"paid")
        server.next(answer(status, {"Content-Type": "text/html"}, b"<html>Please log in</html>"))
        with pytest.raises(ConnectionFailedError) as caught:
            session.receive_message(timeout=0)
        assert caught.value.maybe_delivered
        message = session.receive_message(timeout=2)
        assert message is not None
        assert message.body == b"paid"
