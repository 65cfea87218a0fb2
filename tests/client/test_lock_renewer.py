"""The renewal of locks in the background."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from azsession import ServiceBusProvider
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import PlainServer, answer
from .orders import send, take


def test_the_renewer_keeps_a_lock_of_one_second_alive(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    with azsession_server.provider() as provider:
        send(provider, b"0")
        with provider.create_session_client("orders", "s1") as session:
            message = take(session)
            until = time.monotonic() + 3
            eventually(lambda: time.monotonic() > until)
            assert not session.is_lock_lost
            session.complete_message(message)
        assert provider.peek_messages("orders", "s1") == []


def test_the_renewal_stops_at_max_renewal(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost = threading.Event()
    with (
        azsession_server.provider() as provider,
        provider.create_session_client(
            "orders", "s1", max_renewal=1.2, on_lock_lost=lambda client, error: lost.set()
        ) as session,
    ):
        session.receive_message(timeout=0)
        began = time.monotonic()
        assert lost.wait(20)
        assert time.monotonic() - began > 1.2


def test_without_auto_renew_no_renewal_is_sent(azsession_server: AzsessionServer) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        with provider.create_session_client("orders", "s1", session_timeout=0.3, auto_renew=False) as session:
            session.receive_message(timeout=0)
            eventually(lambda: session.is_lock_lost)
        assert len(server.seen) == 1


def test_a_client_that_is_garbage_collected_warns_and_is_not_renewed() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:

        def forget_one() -> None:
            session = provider.create_session_client("orders", "s1", session_timeout=1)
            session.receive_message(timeout=0)
            eventually(lambda: len(server.seen) > 1, "it was never renewed")
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)
        so_far = len(server.seen)
        until = time.monotonic() + 1.2
        eventually(lambda: time.monotonic() > until)
        assert len(server.seen) == so_far


def test_a_log_handler_that_keeps_its_records_does_not_keep_a_client_alive(caplog: pytest.LogCaptureFixture) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:

        def forget_one() -> None:
            session = provider.create_session_client("orders", "s1", session_timeout=1)
            session.receive_message(timeout=0)
            server.next(answer(503))
            eventually(lambda: "could not be renewed" in caplog.text)
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)


def forget_and_collect(forget: Callable[[], None], warned: pytest.WarningsRecorder) -> None:
    forget()
    eventually(lambda: gc.collect() >= 0 and len(warned), "something holds the client")
