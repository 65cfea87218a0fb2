"""Bugs that torture runs found. The gateway is real, and the proxy injects the faults that each test chooses."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import ConnectionFailedError, SessionNotFoundError
from azsession.server import AccessKey, GatewayService
from azsession.testing import AzsessionServer

from ..support.ports import free_port
from .proxy import Proxy


class Scripted(Proxy):
    """A proxy that injects the faults of a script, one for each exchange, and none after that.

    Attributes:
        script: The next faults.
        closes: Refuse new connections after the next fault.
    """

    def __init__(self, server: AzsessionServer) -> None:
        super().__init__(int(server.url.rpartition(":")[2]), 0)
        self.connection_string = server.connection_string.replace(server.url, f"http://127.0.0.1:{self.port}")
        self.script: list[str] = []
        self.closes = False

    def _choose(self) -> tuple[str | None, random.Random]:
        fault = self.script.pop(0) if self.script else None
        if fault is not None and self.closes:
            self.stop_accepting()
        return fault, random.Random(0)


@contextmanager
def scripted(server: AzsessionServer) -> Iterator[tuple[Scripted, ServiceBusProvider]]:
    """Yield a proxy and a provider that makes each request at most twice and has already connected once."""
    proxy = Scripted(server)
    try:
        with ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=1) as provider:
            provider.list_sessions("orders")
            yield proxy, provider
    finally:
        proxy.close()


@pytest.mark.parametrize("fault", ["cut after the request", "cut within the answer", "wrong types"])
@pytest.mark.parametrize("count", [1, 2])
def test_later_messages_do_not_overtake_those_of_a_lost_response(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, fault: str, count: int
) -> None:
    azsession_provider.send_messages("orders", [Message(text, session_id="s") for text in ("one", "two", "three")])
    with scripted(azsession_server) as (proxy, provider), provider.create_session_client("orders", "s") as session:
        proxy.script = [fault] * 2
        with pytest.raises(ConnectionFailedError) as caught:
            session.receive_messages(count, 0)
        assert caught.value.maybe_delivered
        received = [message for _ in range(3) for message in session.receive_messages(count, 0)]
        assert [message.text() for message in received] == ["one", "two", "three"]
        assert [message.delivery_count for message in received] == [1, 1, 1]
        session.complete_messages(received)
        assert session.receive_message(0) is None


def test_a_receive_after_one_that_never_reached_the_gateway_returns_new_messages(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    with scripted(azsession_server) as (proxy, provider):
        session = provider.create_session_client("orders", "s")
        assert session.receive_message(0) is None
        proxy.script = ["cut before the request"] * 2
        with pytest.raises(ConnectionFailedError):
            session.receive_message(0)
        assert session.receive_message(0) is None
        azsession_provider.send_message("orders", Message("one", session_id="s"))
        message = session.receive_message(0)
        assert message is not None
        session.complete_message(message)
        session.close_session()


def test_an_envelope_without_messages_is_a_broken_response_to_a_receive(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("orders", Message("one", session_id="s"))
    with scripted(azsession_server) as (proxy, provider):
        proxy.bodies = (b"[]",)
        with provider.create_session_client("orders", "s") as session:
            proxy.script = ["wrong types"] * 2
            with pytest.raises(ConnectionFailedError, match="malformed response"):
                session.receive_messages(10, 0)
            assert [message.text() for message in session.receive_messages(10, 0)] == ["one"]


@pytest.mark.parametrize("then", ["refused connections", "503 Service Unavailable", "401 Unauthorized", "403 Forbidden"])
@pytest.mark.parametrize("operation", ["send", "complete"])
def test_a_refused_retry_does_not_hide_that_an_earlier_attempt_may_have_taken_effect(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, operation: str, then: str
) -> None:
    azsession_provider.send_message("orders", Message("one", session_id="s"))
    with scripted(azsession_server) as (proxy, provider):
        session = provider.create_session_client("orders", "s")
        message = session.receive_message(0)
        assert message is not None
        calls = {
            "send": lambda: provider.send_message("orders", Message("two", session_id="s")),
            "complete": lambda: session.complete_message(message),
        }
        # Only the first attempt reaches the gateway. After a refused token, the client retries once with a new token.
        proxy.closes = then == "refused connections"
        proxy.statuses = (then,)
        proxy.script = ["cut after the request", "wrong status", "wrong status"]
        with pytest.raises(ConnectionFailedError) as caught:
            calls[operation]()
        proxy.script = []
        assert caught.value.maybe_delivered
        session.close_session()
    left = azsession_provider.peek_messages("orders", "s")
    assert [each.text() for each in left] == (["one", "two"] if operation == "send" else [])


def test_a_restarted_gateway_does_not_grant_a_session_again_to_a_holder_that_lost_it(tmp_path: Path) -> None:
    keys = [AccessKey("root", "c2VjcmV0")]

    port = free_port()

    def served() -> GatewayService:
        return GatewayService(EmbeddedBroker(tmp_path / "data.db", auto_create=True), keys, port=port)

    with served() as before:
        connection_string = before.connection_string()
        provider = ServiceBusProvider.from_connection_string(connection_string)
        provider.send_messages("orders", [Message(text, session_id="s") for text in ("one", "two")])
        early = provider.create_session_client("orders", "s")
        message = early.receive_message(0)
        assert message is not None
        never_answered = provider.create_session_client("orders", "t")
    with provider, served():
        with provider.create_session_client("orders", "s") as late:
            taken = late.receive_message(0)
            assert taken is not None
            # The end of the gateway was no failure of the message.
            assert (taken.text(), taken.delivery_count) == ("one", 1)
            late.complete_message(taken)
        # The session is free, and the restarted gateway does not know the old lock. The old holder must still get an error.
        with pytest.raises(SessionNotFoundError):
            early.receive_message(0)
        assert early.is_lock_lost
        # A client that has not used its lock may take it.
        assert never_answered.receive_message(0) is None
        never_answered.close_session()
