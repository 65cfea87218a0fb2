"""Handing a session over: what the clients send, and what they believe about the lock."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import attrs
import pytest

from azsession import ServiceBusProvider, UnsupportedOperationError
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.lock_handle import LockHandle
from azsession.client.session import holder_of
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import PlainServer
from .orders import send, take


@pytest.mark.parametrize("expires_in", [-3600, 0, 3600], ids=["past", "now", "far"])
def test_a_clock_that_is_wrong_does_not_make_a_handle_useless(
    azsession_provider: ServiceBusProvider, expires_in: float
) -> None:
    send(azsession_provider, b"0")
    session = azsession_provider.create_session_client("orders", "s1")
    handle = LockHandle.parse(session.lock_handle())
    session.detach()
    wrong = attrs.evolve(handle, expires_at=datetime.now(timezone.utc) + timedelta(seconds=expires_in))
    with azsession_provider.session_from_handle(wrong.text(), auto_renew=False) as moved:
        # Never longer than the lock can last.
        assert 0 < holder_of(moved).lock.seconds_left() <= 60
        moved.complete_message(take(moved))


def test_detaching_sends_no_release_and_no_renewal(azsession_server: AzsessionServer) -> None:
    with ServiceBusProvider.from_connection_string(azsession_server.connection_string) as provider:
        send(provider, b"0")
        session = provider.create_session_client("orders", "s1")
        take(session)
        session.detach()
    with ServiceBusProvider.from_connection_string(azsession_server.connection_string) as provider:
        (info,) = provider.list_sessions("orders")
        assert info.locked_until is not None


def test_detaching_before_the_lock_is_held_sends_nothing(azsession_provider: ServiceBusProvider) -> None:
    session = azsession_provider.create_session_client("orders", "s1")
    session.detach()
    assert session.closed
    session.close_session()


def test_a_receive_that_waits_ends_when_the_client_detaches(azsession_provider: ServiceBusProvider) -> None:
    session = azsession_provider.create_session_client("orders", "s1")
    handle = session.lock_handle()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            session.receive_message(timeout=60)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: holder_of(session).pending._calls)  # type: ignore[attr-defined]
    began = time.monotonic()
    session.detach()
    thread.join(20)
    assert time.monotonic() - began < 10
    assert errors
    send(azsession_provider, b"0")
    with azsession_provider.session_from_handle(handle) as moved:
        assert take(moved).body == b"0"


def test_a_plain_server_has_no_lock_to_hand_over() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1")
        with pytest.raises(UnsupportedOperationError, match="hand over"):
            session.lock_handle()


def test_a_detach_whose_request_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as server:
        service = server.enter_context(GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()]))
        text = service.connection_string()
        with ServiceBusProvider.from_connection_string(text, retry_attempts=0, request_timeout=2) as provider:
            send(provider, b"0", b"1", b"2")
            session = provider.create_session_client("orders", "s1", auto_renew=False)
            next(session.messages(timeout=10, prefetch=10))
            server.close()
            with caplog.at_level(logging.WARNING):
                session.detach()
            assert session.closed
    assert "were not given back" in caplog.text
