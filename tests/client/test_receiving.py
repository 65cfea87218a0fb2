"""Receiving from a gateway: messages fetched ahead, deferred messages, and the next available session."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import NoSessionAvailableError, ProviderError, ServiceBusProvider, SessionClient, ValidationError

from .orders import send, take


def test_messages_fetched_ahead_do_not_overtake_an_abandoned_message(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, *(b"%d" % n for n in range(6)))
    seen = []
    for message in session.messages(timeout=0, prefetch=4):
        seen.append(message.body)
        if message.body in (b"1", b"4") and message.delivery_count == 1:
            session.abandon_message(message)
        else:
            session.complete_message(message)
    assert seen == [b"0", b"1", b"1", b"2", b"3", b"4", b"4", b"5"]


def test_closing_gives_messages_fetched_ahead_back(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, b"0", b"1", b"2")
    with azsession_provider.create_session_client("orders", "s1") as session:
        session.complete_message(next(session.messages(timeout=5, prefetch=10)))
    with azsession_provider.create_session_client("orders", "s1") as session:
        assert [message.body for message in session.receive_messages(10, timeout=5)] == [b"1", b"2"]


def test_a_deferred_message_is_received_by_its_sequence_number(
    azsession_provider: ServiceBusProvider, session: SessionClient
) -> None:
    send(azsession_provider, b"0", b"1")
    first = take(session)
    assert first.sequence_number is not None
    session.defer_message(first)
    assert take(session).body == b"1"
    again = session.receive_deferred_messages([first.sequence_number])
    assert [message.body for message in again] == [b"0"]
    session.complete_message(again[0])
    with pytest.raises(ProviderError) as caught:
        session.receive_deferred_messages([first.sequence_number])
    assert caught.value.code == "MessageNotFound"


@pytest.mark.parametrize("numbers", [[], [0], [1.5], ["1"], [1] * 1001])
def test_wrong_sequence_numbers_are_refused(session: SessionClient, numbers: Any) -> None:
    with pytest.raises(ValidationError):
        session.receive_deferred_messages(numbers)


def test_the_next_available_session_is_accepted(azsession_provider: ServiceBusProvider) -> None:
    send(azsession_provider, b"0", session_id="a/b é")
    with azsession_provider.create_session_client("orders", accept_timeout=5) as session:
        assert session.session_id == "a/b é"
        assert take(session).body == b"0"
        with pytest.raises(NoSessionAvailableError):
            azsession_provider.create_session_client("orders", accept_timeout=0)
