"""Queues whose messages expire as Azure documents it: all of a session together, when a client receives from the session."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from azsession import Message, ServiceBusProvider

from ..conftest import eventually
from .conftest import Arrangement, left, take


@pytest.fixture
def queue(arrangement: Arrangement) -> str:
    return arrangement.queue(sessions_expire_together=True, dead_letter_on_expiration=True)


def send_three(provider: ServiceBusProvider, queue: str) -> None:
    """Send messages of which the second expires first, and wait until it should have expired."""
    times = {"a": None, "b": 0.3, "c": 3600}
    provider.send_messages(queue, [Message(body, session_id="s", time_to_live=ttl) for body, ttl in times.items()])
    provider.send_message(queue, Message("other", session_id="t"))
    # The brokers of these tests have this machine's clock.
    sent = time.monotonic()
    eventually(lambda: time.monotonic() > sent + 0.4)


def test_one_expired_message_expires_its_session_when_it_is_received(provider: ServiceBusProvider, queue: str) -> None:
    send_three(provider, queue)
    # Nobody receives from the session.
    assert left(provider, queue, "s") == ["a", "b", "c"]
    with provider.create_session_client(queue, "s") as session:
        assert session.receive_message(timeout=0) is None
        assert left(provider, queue, "s") == []
        provider.send_message(queue, Message("later", session_id="s"))
        assert take(session).text() == "later"
    letters = provider.dead_letters(queue)
    assert [(each.text(), each.dead_letter_reason) for each in letters] == [(text, "TTLExpiredException") for text in "abc"]
    assert left(provider, queue, "t") == ["other"]


def test_deferred_messages_do_not_expire_with_their_session(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_message(queue, Message("deferred", session_id="s", time_to_live=2.5))
    with provider.create_session_client(queue, "s") as session:
        message = take(session)
        session.defer_message(message)
    expiry = message.expires_at
    assert expiry is not None
    eventually(lambda: datetime.now(timezone.utc) > expiry)
    send_three(provider, queue)
    with provider.create_session_client(queue, "s") as session:
        assert session.receive_message(timeout=0) is None
        assert message.sequence_number is not None
        assert [each.text() for each in session.receive_deferred_messages([message.sequence_number])] == ["deferred"]
