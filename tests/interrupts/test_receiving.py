"""An interrupt of a receive loses no message and lets none overtake it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from azsession import ConnectionFailedError, Message, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.client.session import holder_of
from azsession.testing import AzsessionServer

from ..hostile.servers import FaultyProxy, raw
from .conftest import InterruptError, interrupted_in

BODIES = ["0", "1", "2", "3", "4", "5"]
#: The functions that a receive enters, in their order.
ENTERED = [
    "begin",
    "end",
    "request_id",
    "send",
    "_exchange",
    "read_received",
    "read_messages",
    "refresh",
    "watch",
    "register",
    "check",
]


def rest(session: SessionClient) -> list[str]:
    found = []
    while (message := session.receive_message(timeout=0)) is not None:
        found.append(message.text())
        session.complete_message(message)
    return found


WAYS: dict[str, Callable[[SessionClient], Any]] = {
    "one": lambda session: session.receive_message(timeout=10),
    "many": lambda session: session.receive_messages(3, timeout=10),
    "iterated": lambda session: next(session.messages(timeout=10, prefetch=4)),
}


@pytest.mark.parametrize("name", ENTERED)
@pytest.mark.parametrize("way", list(WAYS))
def test_after_an_interrupted_receive_all_messages_come_in_order(
    provider: ServiceBusProvider, queue: str, way: str, name: str
) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        with interrupted_in(name) as entered, pytest.raises(InterruptError):
            WAYS[way](session)
        assert entered
        assert holder_of(session).lock.fetches.begin(None) is None
        assert rest(session) == BODIES


@pytest.mark.parametrize(
    "name",
    ["request_id", "send", "_exchange", "read_settled_and_received", "register", "put_ahead", "refresh", "forget", "end"],
)
@pytest.mark.parametrize("settles_again", [True, False])
def test_after_an_interrupted_settlement_that_fetches_messages_they_come_in_order(
    provider: ServiceBusProvider, queue: str, name: str, settles_again: bool
) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=10, prefetch=2)
        session.complete_message(next(messages))
        last = next(messages)
        with interrupted_in(name) as entered, pytest.raises(InterruptError):
            session.complete_message(last)
        assert entered
        assert holder_of(session).lock.fetches.begin(None) is None
        if settles_again:
            session.complete_message(last)
            assert rest(session) == BODIES[2:]
        else:
            # The caller does not know whether the message is settled. If it is not, it comes when the session is closed.
            assert rest(session) == BODIES[2:]
            session.close()
            with provider.create_session_client(queue, "s") as again:
                assert rest(again) in ([], ["1"])


@pytest.mark.parametrize("name", ["take_ahead", "check"])
def test_after_an_interrupt_messages_that_were_fetched_ahead_come_in_order(
    provider: ServiceBusProvider, queue: str, name: str
) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        first = next(session.messages(timeout=10, prefetch=4))
        with interrupted_in(name), pytest.raises(InterruptError):
            session.receive_message(timeout=10)
        session.complete_message(first)
        assert rest(session) == BODIES[1:]


def test_an_interrupt_during_the_interrupts_own_handling_is_survived(provider: ServiceBusProvider, queue: str) -> None:
    """The next receive of the same thread takes over the request id."""
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        with interrupted_in("register"), pytest.raises(InterruptError), interrupted_later(session):
            session.receive_message(timeout=10)
        assert rest(session) == BODIES


class interrupted_later:
    """Make `undo_receive` of a session fail once, as a second interrupt would."""

    def __init__(self, session: SessionClient) -> None:
        self._lock: Any = holder_of(session).lock

    def __enter__(self) -> None:
        lock = self._lock

        def fail(receive: object) -> None:
            del lock.undo_receive
            raise InterruptError("again")

        lock.undo_receive = fail

    def __exit__(self, *_: object) -> None:
        assert "undo_receive" not in vars(self._lock)


def test_a_received_batch_that_was_returned_does_not_come_again(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        kept: list[ReceivedMessage] = session.receive_messages(3, timeout=10)
        with interrupted_in("send"), pytest.raises(InterruptError):
            session.receive_message(timeout=10)
        assert [message.text() for message in kept] == BODIES[:3]
        session.complete_messages(kept)
        assert rest(session) == BODIES[3:]


def test_a_first_receive_whose_answer_was_lost_lets_no_message_overtake(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as sender:
        sender.send_messages("q", [Message(body, session_id="s") for body in BODIES])
    with (
        FaultyProxy(int(azsession_server.url.rpartition(":")[2]), azsession_server.connection_string) as proxy,
        ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=0) as provider,
        provider.create_session_client("q", "s") as session,
    ):
        proxy.script(raw(b"", forwards=True))
        with pytest.raises(ConnectionFailedError) as caught:
            session.receive_message(timeout=10)
        assert caught.value.maybe_delivered
        assert rest(session) == BODIES
