"""`Holder`: how a client finds that its lock is lost, and reports the loss."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from azsession import QueueNotFoundError, ServiceBusProvider, SessionClient, SessionLockedError, SessionNotFoundError
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import PlainServer, answer
from .orders import send, take


@pytest.mark.parametrize("auto_renew", [False, True])
def test_an_expired_lock_is_reported_once_and_ends_all_calls(auto_renew: bool) -> None:
    lost: list[tuple[SessionClient, SessionNotFoundError]] = []
    with PlainServer() as server:
        fields: dict[str, Any] = {"retry_attempts": 0}
        with ServiceBusProvider.from_connection_string(server.connection_string, **fields) as provider:
            session = provider.create_session_client(
                "orders",
                "s1",
                session_timeout=1.0,
                auto_renew=auto_renew,
                on_lock_lost=lambda client, error: lost.append((client, error)),
            )
            server.put("orders", "s1", b"0")
            message = take(session)
            server.next(*[answer(500)] * 100)
            eventually(lambda: lost, "the loss was never told")
            so_far = len(server.seen)
            for call in (session.receive_message, session.renew_session_lock, lambda: session.complete_message(message)):
                with pytest.raises(SessionNotFoundError, match="expired"):
                    call()
            assert session.is_lock_lost
            assert len(server.seen) == so_far
            session.close()
    assert [client for client, _ in lost] == [session]


def test_an_error_in_on_lock_lost_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(client: SessionClient, error: SessionNotFoundError) -> None:
        raise RuntimeError("on purpose")

    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", on_lock_lost=fail)
        server.next(answer(410))
        with pytest.raises(SessionNotFoundError):
            session.receive_message(timeout=0)
    assert "on purpose" in caplog.text


def test_a_session_that_another_client_holds_is_refused_until_it_is_released(
    azsession_server: AzsessionServer, session: SessionClient
) -> None:
    session.receive_message(timeout=0)
    with azsession_server.provider() as other:
        refused = other.create_session_client("orders", "s1")
        with pytest.raises(SessionLockedError) as caught:
            refused.receive_message(timeout=0)
        assert caught.value.locked_until is not None
        assert caught.value.locked_until > datetime.now(timezone.utc) + timedelta(seconds=30)
        session.close()
        assert refused.receive_message(timeout=0) is None


def test_an_expired_lock_that_another_client_took_is_lost(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost: list[str] = []
    with azsession_server.provider() as provider:
        send(provider, b"0")
        first = provider.create_session_client(
            "orders", "s1", auto_renew=False, on_lock_lost=lambda client, error: lost.append(client.session_id)
        )
        message = take(first)
        with provider.create_session_client("orders", "s1") as second:
            eventually(lambda: lost)

            def got() -> bool:
                try:
                    return second.receive_message(timeout=1) is not None
                except SessionLockedError:
                    return False

            eventually(got)
            with pytest.raises(SessionNotFoundError):
                first.complete_message(message)
            with pytest.raises(SessionNotFoundError):
                first.renew_session_lock()
        first.close()
    assert lost == ["s1"]


def test_closing_a_session_of_a_missing_queue_does_not_warn_that_its_lock_lasts(caplog: pytest.LogCaptureFixture) -> None:
    with ServiceBusProvider.embedded(auto_create=False) as provider, caplog.at_level("WARNING", "azsession"):
        with provider.create_session_client("orders", "s1") as session, pytest.raises(QueueNotFoundError):
            session.receive_message(timeout=0)
        assert caplog.messages == []
