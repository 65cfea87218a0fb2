"""Duplicate detection by message id, as Microsoft's page about it describes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message, ServiceBusProvider

from .conftest import Arrangement, left, take


@pytest.fixture
def queue(arrangement: Arrangement) -> str:
    """A queue with duplicate detection for 10 minutes."""
    if arrangement.is_azure:
        return arrangement.queue(duplicate_detection=600.0)
    return arrangement.queue(requires_duplicate_detection=True, duplicate_detection_window=600.0)


def test_a_duplicate_is_accepted_and_dropped_whatever_its_session(provider: ServiceBusProvider, queue: str) -> None:
    sent = [("first", "a", "m"), ("other", "a", "n"), ("again", "a", "m"), ("again", "b", "m")]
    for body, name, message_id in sent:
        provider.send_message(queue, Message(body, session_id=name, message_id=message_id))
    assert (left(provider, queue, "a"), left(provider, queue, "b")) == (["first", "other"], [])


def test_duplicates_within_one_batch_are_dropped(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(body, session_id="s", message_id="m") for body in ("first", "again")])
    assert left(provider, queue, "s") == ["first"]


def test_a_settled_message_still_counts(provider: ServiceBusProvider, queue: str) -> None:
    message = Message("x", session_id="s", message_id="m")
    provider.send_message(queue, message)
    with provider.create_session_client(queue, "s") as session:
        session.complete_message(take(session))
        provider.send_message(queue, message)
        assert session.receive_message(timeout=0.2) is None


def test_a_scheduled_message_counts(provider: ServiceBusProvider, queue: str) -> None:
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    provider.send_message(queue, Message("later", session_id="s", message_id="m", scheduled_enqueue_time=at))
    provider.send_message(queue, Message("now", session_id="s", message_id="m"))
    assert left(provider, queue, "s") == ["later"]
