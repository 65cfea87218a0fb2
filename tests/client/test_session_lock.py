"""The lock of a session: when the client believes that it expires."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import responses

from azsession import ServiceBusProvider
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.plain_server import PlainServer
from .orders import CONNECTION_STRING, HEAD, send, take


def test_the_client_never_believes_in_a_later_expiry_than_the_server(azsession_server: AzsessionServer) -> None:
    azsession_server.create_queue("orders", lock_duration=10)
    with azsession_server.provider() as provider:
        send(provider, b"0")
        with provider.create_session_client("orders", "s1", auto_renew=False) as session:
            for _ in range(5):
                session.receive_message(timeout=0)
                believed = session.session_expires_at
                assert believed <= datetime.now(timezone.utc) + timedelta(seconds=10)
                # The server's date has whole seconds; the fraction is cut off.
                told = provider.list_sessions("orders")[0].locked_until
                assert told is not None
                assert believed < told + timedelta(seconds=1)


def test_the_expiry_counts_from_the_time_when_the_request_was_sent() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        session = provider.create_session_client("orders", "s1", session_timeout=5, auto_renew=False)
        before_the_answer: list[datetime] = []

        def put_later() -> None:
            eventually(lambda: server.seen)
            before_the_answer.append(datetime.now(timezone.utc))
            server.put("orders", "s1", b"late")

        thread = threading.Thread(target=put_later)
        thread.start()
        take(session)
        thread.join()
        assert session.session_expires_at < before_the_answer[0] + timedelta(seconds=5)
        session.close()


def test_a_lock_that_was_never_taken_is_not_lost(azsession_provider: ServiceBusProvider) -> None:
    lost: list[object] = []
    before = datetime.now(timezone.utc)
    with azsession_provider.create_session_client(
        "orders", "s1", session_timeout=0.05, on_lock_lost=lambda *args: lost.append(args)
    ) as session:
        assert timedelta(0) < session.session_expires_at - before < timedelta(seconds=5)
        eventually(lambda: datetime.now(timezone.utc) > session.session_expires_at)
        assert not session.is_lock_lost
        assert session.receive_message(timeout=0) is None
    assert lost == []


@responses.activate
def test_the_lock_time_of_the_server_takes_precedence_over_session_timeout() -> None:
    responses.delete(HEAD, status=204, headers={"Azsession-Lock-Expires-In": "20.5"})
    with ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        session = provider.create_session_client("orders", "s1", session_timeout=300)
        session.receive_message(timeout=0)
        assert session.session_expires_at < datetime.now(timezone.utc) + timedelta(seconds=20.5)
