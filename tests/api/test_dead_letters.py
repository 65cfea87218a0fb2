"""Dead letters of one session: listing them, and sending them again in order."""

from __future__ import annotations

import pytest

from azsession import Message, QueueNotFoundError, ServiceBusProvider, ValidationError

from ..conftest import eventually
from .conftest import Arrangement, left, send, take, take_many


def dead_letter(provider: ServiceBusProvider, queue: str, session_id: str, *bodies: str) -> None:
    """Send messages to a session, and dead-letter them."""
    send(provider, queue, *bodies, session_id=session_id)
    with provider.create_session_client(queue, session_id) as session:
        for message in take_many(session, len(bodies)):
            session.dead_letter_message(message, "broken", "for a test")


def dead(provider: ServiceBusProvider, queue: str, session_id: str | None = None) -> list[str]:
    return [letter.text() for letter in provider.dead_letters(queue, 1000, session_id=session_id)]


def test_the_dead_letters_of_a_session_are_listed(provider: ServiceBusProvider, queue: str) -> None:
    for session_id in ("s1", "a&b=c/ä", ""):
        dead_letter(provider, queue, session_id, f"{session_id}:1", f"{session_id}:2")
    assert dead(provider, queue, "s1") == ["s1:1", "s1:2"]
    assert dead(provider, queue, "a&b=c/ä") == ["a&b=c/ä:1", "a&b=c/ä:2"]
    assert dead(provider, queue, "") == [":1", ":2"]
    assert dead(provider, queue, "unknown") == []
    assert len(dead(provider, queue)) == 6
    first = provider.dead_letters(queue, 1, session_id="s1")
    assert [letter.text() for letter in first] == ["s1:1"]
    rest = provider.dead_letters(queue, 10, first[0].sequence_number + 1, session_id="s1")
    assert [letter.text() for letter in rest] == ["s1:2"]


def test_the_dead_letters_of_a_session_are_resubmitted_in_order(provider: ServiceBusProvider, queue: str) -> None:
    dead_letter(provider, queue, "s1", "one", "two", "three")
    dead_letter(provider, queue, "s2", "other")
    send(provider, queue, "newer")
    assert provider.resubmit_session(queue, "s1") == 3
    assert left(provider, queue) == ["newer", "one", "two", "three"]
    assert dead(provider, queue) == ["other"]
    with provider.create_session_client(queue, "s1") as session:
        for expected in ("newer", "one", "two", "three"):
            message = take(session)
            assert (message.text(), message.delivery_count, message.dead_letter_reason) == (expected, 1, None)
            session.complete_message(message)
    assert provider.resubmit_session(queue, "s1") == 0


def test_the_session_of_a_queue_that_does_not_exist_has_no_dead_letters(provider: ServiceBusProvider) -> None:
    with pytest.raises(QueueNotFoundError):
        provider.resubmit_session("nowhere", "s1")
    with pytest.raises(ValidationError):
        provider.resubmit_session("nowhere", "s" * 129)
    with pytest.raises(ValidationError):
        provider.dead_letters("nowhere", session_id="s" * 129)


def test_a_resubmitted_message_keeps_the_types_of_its_attributes(provider: ServiceBusProvider, queue: str) -> None:
    sent = Message("x", session_id="s1", message_id="m1", attributes={"bytes": b"\x00", "none": None, "number": 2**64 - 1})
    provider.send_message(queue, sent)
    with provider.create_session_client(queue, "s1") as session:
        session.dead_letter_message(take(session), "broken")
        assert provider.resubmit_session(queue, "s1") == 1
        again = take(session)
    assert (again.attributes, again.message_id) == (sent.attributes, "m1")


def test_resubmitting_from_a_subscription_reaches_it_again(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    subscription = arrangement.queue("resent/subscriptions/audit")
    target = "resent" if arrangement.is_azure else subscription
    provider.send_message(target, Message("x", session_id="s1"))
    with provider.create_session_client(subscription, "s1") as session:
        session.dead_letter_message(take(session), "broken")
        assert provider.resubmit_session(subscription, "s1") == 1
        assert take(session).text() == "x"
    eventually(lambda: provider.dead_letters(subscription) == [])
