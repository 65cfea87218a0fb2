"""The error for each status with which a plain server refuses a request."""

from __future__ import annotations

import pytest

from azsession import InvalidReceiptError, ProviderError, QueueError, ServiceBusProvider, SessionClient, SessionNotFoundError

from ..support.plain_server import PlainServer, answer
from .operations import ALL, ON_LOCK, SETTLES, act, received


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("name", ON_LOCK)
def test_status_404_or_410_to_a_receive_or_renewal_loses_the_session(
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
def test_each_success_status_settles_a_message(server: PlainServer, session: SessionClient, name: str, status: int) -> None:
    message = received(server, session)
    server.next(answer(status))
    SETTLES[name](session, message)
    with pytest.raises(InvalidReceiptError):
        SETTLES[name](session, message)
    assert len(server.seen) == 1


def test_status_204_is_success_for_a_renewal(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(204))
    assert session.renew_session_lock() == session.session_expires_at


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 405, 409, 413, 418, 423, 501, 505])
def test_other_statuses_raise_a_queue_error_without_a_retry(
    server: PlainServer, session: SessionClient, name: str, status: int
) -> None:
    body = b"<Error><Code>%d</Code><Detail>No, because.</Detail></Error>" % status
    # After 401 the client can send the request once more, with a new token.
    with pytest.raises(QueueError):
        act(name, server, session, answer(status, body=body), answer(status, body=body))
    assert len(server.seen) == 1 or (status == 401 and len(server.seen) == 2)


def test_a_redirect_is_not_followed(server: PlainServer, session: SessionClient) -> None:
    server.next(answer(307, {"Location": f"{server.url}/elsewhere"}))
    with pytest.raises(ProviderError) as caught:
        session.receive_message(timeout=2)
    assert caught.value.status == 307
    assert len(server.seen) == 1
