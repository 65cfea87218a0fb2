"""The renewal of locks in the background."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
import requests

from azsession import ServiceBusConfig, ServiceBusProvider, SessionClient, SessionNotFoundError
from azsession.client.lock_renewer import MAX_WORKERS
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import Fate, PlainServer, answer
from .orders import send, take


def test_the_renewer_keeps_a_lock_alive(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=3)
    with azsession_server.provider() as provider:
        send(provider, b"0")
        with provider.create_session_client("orders", "s1") as session:
            message = take(session)
            until = time.monotonic() + 5
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
            session = provider.create_session_client("orders", "s1", session_timeout=3)
            session.receive_message(timeout=0)
            eventually(lambda: len(server.seen) > 1, "it was never renewed")
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)
        so_far = len(server.seen)
        until = time.monotonic() + 2
        eventually(lambda: time.monotonic() > until)
        assert len(server.seen) == so_far


def test_a_log_handler_that_keeps_its_records_does_not_keep_a_client_alive(caplog: pytest.LogCaptureFixture) -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:

        def forget_one() -> None:
            session = provider.create_session_client("orders", "s1", session_timeout=4)
            session.receive_message(timeout=0)
            server.next(answer(503))
            eventually(lambda: "could not be renewed" in caplog.text)
            del session

        with pytest.warns(ResourceWarning, match="never closed") as warned:
            forget_and_collect(forget_one, warned)


def forget_and_collect(forget: Callable[[], None], warned: pytest.WarningsRecorder) -> None:
    forget()
    eventually(lambda: gc.collect() >= 0 and len(warned), "something holds the client")


# Failures


def with_hook(
    server: AzsessionServer, hook: Callable[[requests.Response], None]
) -> tuple[ServiceBusProvider, requests.Session]:
    """Return a provider whose requests call `hook` with each answer to a renewal."""

    def on_response(response: requests.Response, *args: object, **kwargs: object) -> None:
        if str(response.url).endswith("/renewlock"):
            hook(response)

    http = requests.Session()
    http.hooks["response"].append(on_response)
    config = ServiceBusConfig(connection_string=server.connection_string)
    return ServiceBusProvider(config, http=http), http


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_renewal_goes_on_after_any_exception(azsession_server: AzsessionServer, error: type[BaseException]) -> None:
    azsession_server.create_queue("orders", lock_duration=4)
    renewed: list[bool] = []

    def fail_once(response: requests.Response) -> None:
        renewed.append(True)
        if len(renewed) == 1:
            raise error("a hook failed")

    provider, http = with_hook(azsession_server, fail_once)
    with http, provider, provider.create_session_client("orders", "s1") as session:
        session.receive_message(timeout=0)
        eventually(lambda: len(renewed) >= 3)
        assert not session.is_lock_lost


def test_a_hook_that_always_fails_ends_as_a_lost_lock(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=1)
    lost = threading.Event()

    def fail(response: requests.Response) -> None:
        # The response of the server is lost with the exception, so that the client must not believe in the new lock.
        raise RuntimeError("a hook failed")

    provider, http = with_hook(azsession_server, fail)
    with http, provider:
        session = provider.create_session_client("orders", "s1", on_lock_lost=lambda client, error: lost.set())
        session.receive_message(timeout=0)
        assert lost.wait(20)


class OwnBaseError(BaseException):
    """Neither an `Exception` nor an exit."""


def test_callbacks_that_raise_do_not_end_the_renewal_of_other_sessions() -> None:
    def fail(client: SessionClient, error: SessionNotFoundError) -> None:
        raise OwnBaseError

    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        lost = [
            provider.create_session_client("orders", f"lost{n}", session_timeout=0.3, auto_renew=False, on_lock_lost=fail)
            for n in range(MAX_WORKERS + 8)
        ]
        for client in lost:
            client.receive_message(timeout=0)
        eventually(lambda: all(holder_of(client).lock.error is not None for client in lost))
        with provider.create_session_client("orders", "s1", session_timeout=3) as session:
            session.receive_message(timeout=0)
            eventually(lambda: sum(seen.path == "/orders/sessions/s1/renewlock" for seen in server.seen) >= 2)


@pytest.mark.parametrize("name", ["azsession-renewer", "azsession-renewer-worker"])
def test_renewal_begins_later_if_the_system_cannot_start_a_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start, refused = threading.Thread.start, []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        server.put("orders", "s1", b"0")
        # Half of this time is left for the first renewal, also on a busy machine.
        with provider.create_session_client("orders", "s1", session_timeout=5) as session:
            message = take(session)
            session.complete_message(message)
            eventually(lambda: any(seen.path.endswith("/renewlock") for seen in server.seen))
            assert refused
            assert not session.is_lock_lost


# The server's lock time


def lasts(seconds: float) -> Fate:
    return answer(204, {"Azsession-Protocol": "1", "Azsession-Lock-Expires-In": str(seconds)})


def test_a_lock_that_the_server_shortens_expires_earlier_and_is_renewed_in_time() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        server.next(lasts(60), lasts(5), lasts(60), lasts(60))
        with provider.create_session_client("orders", "s1") as session:
            session.receive_message(timeout=0)
            assert session.session_expires_at > datetime.now(timezone.utc) + timedelta(seconds=50)
            session.receive_message(timeout=0)
            assert session.session_expires_at < datetime.now(timezone.utc) + timedelta(seconds=5)
            eventually(lambda: len(server.seen) == 3)
            assert server.seen[2].path.endswith("/renewlock")
            eventually(lambda: session.session_expires_at > datetime.now(timezone.utc) + timedelta(seconds=50))


def test_many_changes_of_a_lock_leave_one_renewal(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as provider, provider.create_session_client("orders", "s1") as session:
        for _ in range(300):
            session.receive_message(timeout=0)
        renewer = core_of(provider).connection.renewer
        assert len(renewer._next) == 1
        # An entry is added only when the lock must be renewed earlier than before, by chance.
        assert len(renewer._due) < 40
