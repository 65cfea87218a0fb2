"""What torture found, step by step: each of these broke a promise once. The gateway is real, and the proxy between is the
torture's, with one fault instead of many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from azsession import Message, ServiceBusProvider
from azsession.errors import ConnectionFailedError
from azsession.testing import AzsessionServer

from .proxy import Proxy


class Faulty(Proxy):
    """A proxy that does one thing to every exchange while it is told to, and maybe closes its port after the first."""

    closes = False

    def __init__(self, server: AzsessionServer, fault: str) -> None:
        super().__init__(int(server.url.rpartition(":")[2]), 0, (fault,), lambda name: self._after())
        self.connection_string = server.connection_string.replace(server.url, f"http://127.0.0.1:{self.port}")

    def _after(self) -> None:
        if self.closes:
            self.stop_accepting()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.rate = 1.0
        yield
        self.rate = 0.0


@contextmanager
def faulty(server: AzsessionServer, fault: str) -> Iterator[tuple[Faulty, ServiceBusProvider]]:
    proxy = Faulty(server, fault)
    try:
        with ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=1) as provider:
            yield proxy, provider
    finally:
        proxy.close()


@pytest.mark.parametrize("fault", ["cut after the request", "cut within the answer", "wrong types"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_lost_answer_held_is_not_overtaken_by_later_messages(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, fault: str, count: int
) -> None:
    azsession_provider.send_messages("orders", [Message(text, session_id="s") for text in ("one", "two", "three")])
    with faulty(azsession_server, fault) as (proxy, provider), provider.create_session_client("orders", "s") as session:
        assert provider.list_sessions("orders")
        with proxy.at_work(), pytest.raises(ConnectionFailedError) as caught:
            session.receive_messages(count, 0)
        assert caught.value.maybe_delivered
        received = [message for _ in range(3) for message in session.receive_messages(count, 0)]
        assert [message.text() for message in received] == ["one", "two", "three"]
        assert [message.delivery_count for message in received] == [1, 1, 1]
        session.complete_messages(received)
        assert session.receive_message(0) is None


def test_a_receive_after_one_that_never_arrived_gets_what_there_is(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    with faulty(azsession_server, "cut before the request") as (proxy, provider):
        session = provider.create_session_client("orders", "s")
        assert session.receive_message(0) is None
        with proxy.at_work(), pytest.raises(ConnectionFailedError):
            session.receive_message(0)
        assert session.receive_message(0) is None
        azsession_provider.send_message("orders", Message("one", session_id="s"))
        message = session.receive_message(0)
        assert message is not None
        session.complete_message(message)
        session.close_session()


def test_an_envelope_without_messages_is_no_answer_to_a_receive(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    azsession_provider.send_message("orders", Message("one", session_id="s"))
    with faulty(azsession_server, "wrong types") as (proxy, provider):
        proxy.bodies = (b"[]",)
        with provider.create_session_client("orders", "s") as session:
            assert provider.list_sessions("orders")
            with proxy.at_work(), pytest.raises(ConnectionFailedError, match="broken answer"):
                session.receive_messages(10, 0)
            assert [message.text() for message in session.receive_messages(10, 0)] == ["one"]


@pytest.mark.parametrize("operation", ["send", "complete"])
def test_the_last_attempt_does_not_hide_that_an_earlier_one_may_have_taken_effect(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, operation: str
) -> None:
    azsession_provider.send_message("orders", Message("one", session_id="s"))
    with faulty(azsession_server, "cut after the request") as (proxy, provider):
        session = provider.create_session_client("orders", "s")
        message = session.receive_message(0)
        assert message is not None
        # The first attempt reaches the gateway, the second one nobody.
        proxy.closes = True
        calls = {
            "send": lambda: provider.send_message("orders", Message("two", session_id="s")),
            "complete": lambda: session.complete_message(message),
        }
        with proxy.at_work(), pytest.raises(ConnectionFailedError) as caught:
            calls[operation]()
        assert caught.value.maybe_delivered
    left = azsession_provider.peek_messages("orders", "s")
    assert [each.text() for each in left] == (["one", "two"] if operation == "send" else [])
