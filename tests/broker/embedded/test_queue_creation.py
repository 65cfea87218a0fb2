"""Queues that the first message creates, and that reading does not create."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from azsession import Message, QueueNotFoundError, QueueSettings, ServiceBusProvider
from azsession.broker.embedded import queue_creation

Read = Callable[[ServiceBusProvider], object]


def _receive(provider: ServiceBusProvider) -> object:
    with provider.create_session_client("q", "s") as session:
        return session.receive_message(timeout=0)


def _state(provider: ServiceBusProvider) -> object:
    with provider.create_session_client("q", "s") as session:
        return session.get_session_state()


READS: dict[str, tuple[Read, object]] = {
    "list_sessions": (lambda provider: provider.list_sessions("q"), []),
    "peek_messages": (lambda provider: provider.peek_messages("q", "s"), []),
    "dead_letters": (lambda provider: provider.dead_letters("q"), []),
    "receive_message": (_receive, None),
    "get_session_state": (_state, None),
}


@pytest.mark.parametrize("name", READS)
def test_reading_finds_nothing_and_creates_no_queue(name: str, tmp_path: Path) -> None:
    read, found = READS[name]
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        assert read(provider) == found
        assert provider.list_queues() == []
        with pytest.raises(QueueNotFoundError):
            provider.get_queue("q")
        with pytest.raises(QueueNotFoundError):
            provider.delete_queue("q")
    with ServiceBusProvider.embedded(tmp_path / "data.db", auto_create=False) as provider:
        with pytest.raises(QueueNotFoundError):
            read(provider)
        assert provider.list_queues() == []


def test_the_first_message_creates_the_queue_with_the_locks_of_its_readers(tmp_path: Path) -> None:
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        with provider.create_session_client("q", "s") as session:
            assert session.receive_message(timeout=0) is None
            provider.send_message("q", Message("first", session_id="s"))
            assert [queue.name for queue in provider.list_queues()] == ["q"]
            [info] = provider.list_sessions("q")
            assert info.locked_until is not None
            message = session.receive_message(timeout=0)
            assert message is not None
            session.complete_message(message)
        provider.send_message("q", Message("second", session_id="s"))
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        assert [message.text() for message in provider.peek_messages("q", "s")] == ["second"]


def test_a_state_creates_the_queue(tmp_path: Path) -> None:
    with (
        ServiceBusProvider.embedded(tmp_path / "data.db") as provider,
        provider.create_session_client("q", "s") as session,
    ):
        session.set_session_state(b"kept")
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        assert [info.session_id for info in provider.list_sessions("q")] == ["s"]


def test_a_queue_that_readers_await_can_be_created_with_other_settings() -> None:
    with ServiceBusProvider.embedded() as provider:
        provider.list_sessions("q")
        assert provider.create_queue("q", QueueSettings(lock_duration=7))
        assert provider.get_queue("q").settings.lock_duration == 7


def test_queues_of_awaited_names_get_ids_of_their_own(tmp_path: Path) -> None:
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        provider.list_sessions("awaited")
        for name in ("a", "b"):
            provider.send_message(name, Message(name, session_id="s"))
        provider.delete_queue("b")
        provider.send_message("awaited", Message("awaited", session_id="s"))
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        provider.send_message("c", Message("c", session_id="s"))
        for name in ("a", "awaited", "c"):
            assert [message.text() for message in provider.peek_messages(name, "s")] == [name]


def test_names_of_readers_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_creation, "MAX_AWAITED", 3)
    with ServiceBusProvider.embedded() as provider, provider.create_session_client("held", "s") as session:
        session.receive_message(timeout=0)
        for number in range(20):
            provider.list_sessions(f"q{number}")
        provider.send_message("held", Message("x", session_id="s"))
        assert session.receive_message(timeout=0) is not None
