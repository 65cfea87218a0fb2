"""Closing clients and providers while other threads use them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from azsession import Message, ServiceBusConfig, ServiceBusProvider, SessionNotFoundError
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..conftest import eventually
from ..support.closing import check_that_closing_ends_every_kind_of_call
from ..support.internals import pending_calls
from ..support.thread_group import ThreadGroup
from .servers import KEY, Handler, QuietHTTPServer, SilentServer


def _send(provider: ServiceBusProvider, names: list[tuple[str, str]]) -> None:
    provider.send_messages("q", [Message(name, session_id=session) for session, name in names])


def test_closing_ends_the_receives_of_all_threads(azsession_provider: ServiceBusProvider) -> None:
    client = azsession_provider.create_session_client("q", "s")
    client.receive_message(timeout=0)
    group = ThreadGroup()
    for _ in range(8):
        group.start(client.receive_message, 300)
    eventually(lambda: len(pending_calls(client)) == 8)
    client.close_session()
    group.join(20)
    assert [type(error) for error in group.errors] == [SessionNotFoundError] * 8
    # The server released the lock at once.
    with azsession_provider.create_session_client("q", "s") as other:
        assert other.receive_message(timeout=0) is None


def test_closing_ends_receives_from_a_server_that_does_not_answer() -> None:
    with SilentServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        client = provider.create_session_client("q", "s")
        group = ThreadGroup()
        for _ in range(8):
            group.start(client.receive_message, 300)
        for _ in range(8):
            assert server.asked.acquire(timeout=20)
        client.close_session()
        group.join(20)
    assert [type(error) for error in group.errors] == [SessionNotFoundError] * 8


def test_closing_the_provider_ends_each_kind_of_call(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    check_that_closing_ends_every_kind_of_call(
        provider, lambda held: len(pending_calls(held)) >= 1 and len(pending_calls(provider)) == 1
    )


def test_closing_from_many_threads_releases_the_session_once(azsession_server: AzsessionServer) -> None:
    for _ in range(5):
        provider, group = azsession_server.provider(), ThreadGroup()
        clients = [provider.create_session_client("q", f"s{n}") for n in range(4)]
        for client in clients:
            client.receive_message(timeout=0)
        for close in [provider.close, *(client.close for client in clients)] * 3:
            group.start(close)
        group.join()
        assert group.errors == []


class _SilentRelease(Handler):
    """A server of version 1 without messages. It never answers a release."""

    def answer(self) -> None:
        if self.path.endswith("/release"):
            self.server.released.append(self.path)
            self.server.stopping.wait()
        elif self.command == "DELETE" and "timeout=300" in self.path:
            self.server.waiting.release()
            self.server.stopping.wait()
        else:
            self.give(204, {"Azsession-Protocol": "1", "Azsession-Lock-Expires-In": "60"})


def test_closing_the_provider_waits_only_once_for_a_server_that_does_not_answer() -> None:
    group = ThreadGroup()
    with QuietHTTPServer(_SilentRelease) as server:
        server.released, server.waiting = [], threading.Semaphore(0)
        provider = ServiceBusProvider.from_connection_string(server.connection_string)
        clients = [provider.create_session_client("q", f"s{n}") for n in range(6)]
        for client in clients:
            client.receive_message(timeout=0)
            group.start(client.receive_message, 300)
        for _ in clients:
            assert server.waiting.acquire(timeout=20)
        provider.close()
        group.join(20)
        assert [type(error) for error in group.errors] == [SessionNotFoundError] * 6
        assert len(set(server.released)) == 1


class _HeldBack(BaseAdapter):
    """Answers a receive when `let` is set. Its connections cannot be closed from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = threading.Event(), threading.Event()

    def send(self, request: Any, **settings: Any) -> requests.Response:  # type: ignore[override]
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code, response._content = 200, b"body"
        if "/head" in request.url:
            self.asked.set()
            self.let.wait(20)
            response.headers["BrokerProperties"] = '{"LockToken": "token-1", "SequenceNumber": 1}'
        return response

    def close(self) -> None:
        pass


def test_a_message_that_arrives_after_closing_is_not_returned() -> None:
    adapter = _HeldBack()
    with requests.Session() as http:
        http.mount("http://", adapter)
        config = ServiceBusConfig(connection_string=f"Endpoint=http://127.0.0.1:1/;{KEY}")
        with ServiceBusProvider(config, http=http) as provider:
            client = provider.create_session_client("q", "s")
            group = ThreadGroup()
            group.start(client.receive_message, 300)
            assert adapter.asked.wait(20)
            client.close_session()
            adapter.let.set()
            group.join()
    assert [type(error) for error in group.errors] == [SessionNotFoundError]
    assert holder_of(client).lock.tokens() == []
    with pytest.raises(SessionNotFoundError):
        client.complete_message("token-1")
