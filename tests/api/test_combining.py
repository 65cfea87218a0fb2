"""Combined requests in each arrangement: a loop that settles its messages, and sessions that are closed with a settlement."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

import pytest

from azsession import (
    InvalidReceiptError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
)
from azsession.client import receiving, settling
from azsession.client.cancellation import PendingCalls
from azsession.client.holder import LockOptions
from azsession.client.provider import core_of
from azsession.client.session import holder_of

from ..conftest import eventually
from ..support.internals import pending_calls
from .conftest import left, number_of, send, take


def rest(provider: ServiceBusProvider, queue: str) -> list[tuple[str, int]]:
    """Complete the messages of ``s1`` in a new client. Return their texts and delivery counts."""
    found = []
    with provider.create_session_client(queue, "s1") as session:
        for message in session.messages(timeout=1, prefetch=3):
            found.append((message.text(), message.delivery_count))
            session.complete_message(message)
    return found


@pytest.mark.parametrize("prefetch", [1, 2, 10])
def test_a_loop_gets_each_message_once_and_in_order(
    provider: ServiceBusProvider, queue: str, session: SessionClient, prefetch: int
) -> None:
    send(provider, queue, *map(str, range(7)))
    settle: list[Callable[[ReceivedMessage], None]] = [
        session.complete_message,
        session.defer_message,
        lambda message: session.dead_letter_message(message, "why"),
    ]
    seen = []
    for number, message in enumerate(islice(session.messages(timeout=20, prefetch=prefetch), 7)):
        seen.append((message.text(), message.delivery_count, number_of(message)))
        settle[number % 3](message)
    assert [(text, count) for text, count, _ in seen] == [(str(number), 1) for number in range(7)]
    assert [letter.text() for letter in provider.dead_letters(queue)] == ["2", "5"]
    deferred = session.receive_deferred_messages([seen[1][2], seen[4][2]])
    assert [message.text() for message in deferred] == ["1", "4"]
    session.complete_messages(deferred)
    assert left(provider, queue) == []


def test_a_message_that_was_sent_during_the_handling_comes_in_its_turn(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "0")
    seen = []
    for message in islice(session.messages(timeout=20, prefetch=3), 5):
        seen.append(message.text())
        if len(seen) < 5:
            send(provider, queue, str(len(seen)))
        session.complete_message(message)
    assert seen == ["0", "1", "2", "3", "4"]
    assert left(provider, queue) == []


def test_messages_that_came_with_a_settlement_go_back_uncounted(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "a", "b", "c")
    messages = session.messages(timeout=5, prefetch=1)
    session.complete_message(next(messages))
    session.close_session()
    assert rest(provider, queue) == [("b", 1), ("c", 1)]


def accepted(provider: ServiceBusProvider, queue: str, prefetch: int) -> tuple[SessionClient, ReceivedMessage]:
    """Take a session as a processor does. Return it with its first message."""
    session = core_of(provider).accept_next(queue, LockOptions(30), 20.0, PendingCalls(), prefetch=prefetch)
    assert session is not None
    # Azure sends the messages after the session, so that they may not be there yet.
    message = receiving.next_ahead(holder_of(session)) or receiving.fetch(holder_of(session), 10.0, prefetch)
    assert message is not None
    return session, message


def test_a_session_is_taken_with_its_first_messages_and_closed_with_the_last_settlement(
    provider: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a", "b")
    session, first = accepted(provider, queue, 5)
    assert (session.session_id, first.text(), first.delivery_count) == ("s1", "a", 1)
    session.complete_message(first)
    settling.settle_and_close(holder_of(session), take(session))
    assert session.closed
    assert left(provider, queue) == []
    with provider.create_session_client(queue, "s1") as other:  # It is free at once.
        assert other.receive_message(timeout=0) is None


def test_closing_with_a_settlement_returns_the_other_messages_uncounted(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b", "c", "d")
    session, first = accepted(provider, queue, 3)
    take(session)
    settling.settle_and_close(holder_of(session), first)
    assert rest(provider, queue) == [("b", 1), ("c", 1), ("d", 1)]


def test_a_failed_settlement_is_raised_and_the_session_is_closed(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    session, first = accepted(provider, queue, 1)
    session.complete_message(first)
    with pytest.raises(InvalidReceiptError):
        settling.settle_and_close(holder_of(session), first)
    assert session.closed
    with provider.create_session_client(queue, "s1") as other:
        assert other.receive_message(timeout=0) is None


def test_a_receive_that_waits_ends_when_its_session_is_closed_with_a_settlement(
    provider: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a")
    session, first = accepted(provider, queue, 1)
    errors: list[BaseException] = []

    def receive() -> None:
        try:
            session.receive_message(timeout=60)
        except SessionNotFoundError as error:
            errors.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    eventually(lambda: pending_calls(session))
    settling.settle_and_close(holder_of(session), first)
    thread.join(20)
    assert [type(error) for error in errors] == [SessionNotFoundError]
    with provider.create_session_client(queue, "s1") as other:
        assert other.receive_message(timeout=0) is None
