"""The numbers of queues, and who holds their sessions."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta, timezone

import attrs
import pytest

from azsession import Message, QueueNotFoundError, QueueStatistics, ServiceBusProvider

from .conftest import Arrangement, send, take, take_many


def test_a_queue_without_messages_has_no_sessions(provider: ServiceBusProvider, arrangement: Arrangement, queue: str) -> None:
    found = provider.queue_statistics(queue)
    assert (found.name, found.session_count, found.locked_session_count) == (queue, 0, 0)
    assert found.oldest_enqueued_at is None
    if not arrangement.is_azure:
        assert set(attrs.astuple(found)) == {queue, 0, None}


def test_messages_and_sessions_are_counted(provider: ServiceBusProvider, arrangement: Arrangement, queue: str) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=2)
    for name in ("held", "free", "free too"):
        send(provider, queue, "a", "b", "c", session_id=name)
    provider.schedule_messages(
        queue, [Message("later", session_id="free")], datetime.now(timezone.utc) + timedelta(minutes=10)
    )
    with provider.create_session_client(queue, "held") as session:
        first, second, _ = take_many(session, 3)
        session.defer_message(first)
        session.dead_letter_message(second, "broken")
        found = provider.queue_statistics(queue)
    oldest = found.oldest_enqueued_at
    if arrangement.is_azure:
        # Azure tells which sessions have messages, and this process or gateway knows which of them it holds.
        assert found == QueueStatistics(name=queue, session_count=3, locked_session_count=1)
        return
    assert oldest is not None
    assert before <= oldest <= datetime.now(timezone.utc)
    assert attrs.evolve(found, oldest_enqueued_at=None) == QueueStatistics(
        name=queue,
        active_count=7,
        scheduled_count=1,
        deferred_count=1,
        dead_letter_count=1,
        session_count=3,
        waiting_session_count=2,
        locked_session_count=1,
    )
    assert provider.queue_statistics(queue).locked_session_count == 0


def test_the_list_of_sessions_names_their_holders(provider: ServiceBusProvider, arrangement: Arrangement, queue: str) -> None:
    send(provider, queue, "a", session_id="held")
    send(provider, queue, "a", session_id="free")
    with provider.create_session_client(queue, "held") as session:
        take(session)
        session.set_session_state(b"x")
        free, held = provider.list_sessions(queue)
    assert held.holder is not None
    assert held.holder.partition(",")[0] == f"{socket.gethostname()}:{os.getpid()}"
    assert held.locked_until is not None
    assert (free.holder, free.locked_until) == (None, None)
    described = [(info.deferred_count, info.has_state, info.oldest_enqueued_at is None) for info in (free, held)]
    assert described == ([(None, None, True)] * 2 if arrangement.is_azure else [(0, False, False), (0, True, False)])


def test_a_queue_that_does_not_exist_has_no_statistics(provider: ServiceBusProvider) -> None:
    with pytest.raises(QueueNotFoundError):
        provider.queue_statistics("nowhere")
