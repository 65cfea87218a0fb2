"""Exceptions of signal handlers reach the caller at once, whatever their type."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest
import requests

from azsession import (
    AuthenticationFailedError,
    ConnectionFailedError,
    Message,
    ProviderError,
    QueueError,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
)

from ..support.credentials import Credential
from ..support.plain_server import NEVER, PlainServer, answer
from .conftest import alarm

#: The bases of the exceptions. Errors of sockets and brokers have these types, too.
BASES = [
    Exception,
    BaseException,
    TimeoutError,
    ConnectionResetError,
    ValueError,
    RuntimeError,
    requests.ConnectionError,
    QueueError,
    ProviderError,
    ConnectionFailedError,
    SessionNotFoundError,
]


def raising(base: type[BaseException]) -> tuple[type[BaseException], Any]:
    """Return a new type of exceptions, and a signal handler that raises one."""
    kind = type("InterruptError", (base,), {})

    def handler(signum: int, frame: object) -> None:
        raise kind("from the handler")

    return kind, handler


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_an_exception_of_any_type_ends_a_waiting_receive_at_once(
    provider: ServiceBusProvider, queue: str, base: type[BaseException]
) -> None:
    kind, handler = raising(base)
    with provider.create_session_client(queue, "s") as session:
        session.receive_message(timeout=0)
        began = time.monotonic()
        with pytest.raises(kind) as caught, alarm(0.2, handler):
            session.receive_message(timeout=30)
        assert type(caught.value) is kind
        assert time.monotonic() - began < 10
        # The client and the session can be used afterwards.
        provider.send_message(queue, Message("1", session_id="s"))
        message = session.receive_message(timeout=20)
        assert message is not None
        session.complete_message(message)


@pytest.mark.parametrize("kind", [ConnectionResetError, TimeoutError, OSError], ids=lambda kind: kind.__name__)
def test_a_handler_that_raises_the_same_exception_each_time_is_not_mistaken_for_an_error_behind_it(
    provider: ServiceBusProvider, queue: str, kind: type[OSError]
) -> None:
    error = kind("from the handler")

    def handler(signum: int, frame: object) -> None:
        raise error

    with provider.create_session_client(queue, "s") as session:
        session.receive_message(timeout=0)
        for _ in range(2):
            with pytest.raises(kind) as caught, alarm(0.2, handler):
                session.receive_message(timeout=30)
            assert caught.value is error
            assert error.__context__ is None


@pytest.mark.parametrize("base", [Exception, TimeoutError, ProviderError], ids=lambda base: base.__name__)
def test_an_exception_ends_the_wait_for_a_session_at_once(
    provider: ServiceBusProvider, queue: str, base: type[BaseException]
) -> None:
    kind, handler = raising(base)
    began = time.monotonic()
    with pytest.raises(kind), alarm(0.2, handler):
        provider.create_session_client(queue, accept_timeout=30)
    assert time.monotonic() - began < 10
    provider.send_message(queue, Message("1", session_id="s"))
    with provider.create_session_client(queue, accept_timeout=20) as session:
        assert session.receive_message(timeout=20) is not None


@pytest.mark.parametrize("base", [Exception, TimeoutError, ProviderError], ids=lambda base: base.__name__)
def test_an_exception_ends_the_pause_between_two_attempts_at_once(base: type[BaseException]) -> None:
    kind, handler = raising(base)
    with PlainServer(listening=False) as server:
        provider = ServiceBusProvider.from_connection_string(server.connection_string, retry_attempts=100, retry_deadline=60)
        with provider, provider.create_session_client("q", "s") as session:
            began = time.monotonic()
            with pytest.raises(kind), alarm(0.5, handler):
                session.receive_message(timeout=60)
            assert time.monotonic() - began < 10


def test_an_exception_during_a_fetch_of_a_token_reaches_the_caller() -> None:
    kind, handler = raising(TimeoutError)
    credential = Credential()
    credential.now = time.time()
    credential.gate.clear()
    with PlainServer() as server:
        config: dict[str, Any] = {"credential": credential}
        with ServiceBusProvider.from_connection_string(f"Endpoint={server.url}/", **config) as provider:
            session = provider.create_session_client("q", "s")
            with pytest.raises(kind), alarm(0.2, handler):
                session.receive_message(timeout=0)
            # The fetch goes on, and the next call gets its token.
            credential.gate.set()
            session.receive_message(timeout=0)
            session.close()
    assert len(credential.fetched) == 1


def test_an_exception_in_a_callback_of_the_callers_thread_reaches_the_caller() -> None:
    kind, handler = raising(Exception)

    def on_lock_lost(client: SessionClient, error: SessionNotFoundError) -> None:
        signal.raise_signal(signal.SIGALRM)

    with (
        PlainServer() as server,
        ServiceBusProvider.from_connection_string(server.connection_string) as provider,
        provider.create_session_client("q", "s", on_lock_lost=on_lock_lost) as client,
    ):
        client.receive_message(timeout=0)
        server.next(answer(410))
        with pytest.raises(kind), alarm(60, handler):
            client.receive_message(timeout=0)
        assert client.is_lock_lost


def test_a_network_error_while_an_old_exception_is_handled_is_a_network_error() -> None:
    kind, handler = raising(TimeoutError)
    with PlainServer() as server:
        provider = ServiceBusProvider.from_connection_string(server.connection_string, request_timeout=0.3, retry_attempts=0)
        with provider, provider.create_session_client("q", "s") as session:
            try:
                with alarm(0.1, handler):
                    time.sleep(10)
            except kind:
                server.next(NEVER)
                with pytest.raises(ConnectionFailedError, match="timed out"):
                    session.receive_message(timeout=0)


def test_a_failing_credential_while_an_old_exception_is_handled_is_an_authentication_error() -> None:
    kind, handler = raising(TimeoutError)

    class Credential:
        def get_token(self, *scopes: str, **options: Any) -> Any:
            raise RuntimeError("no token")

    config: dict[str, Any] = {"credential": Credential()}
    with ServiceBusProvider.from_connection_string("Endpoint=http://127.0.0.1:9/", **config) as provider:
        try:
            with alarm(0.1, handler):
                time.sleep(10)
        except kind:
            with pytest.raises(AuthenticationFailedError):
                provider.list_sessions("q")
