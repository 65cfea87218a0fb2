"""How a processor handles sessions and messages, with a real gateway."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from azsession import (
    DeadLetter,
    DeadLetterSession,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    SessionProcessor,
)
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .helpers import QUEUE, Seen, left, lengthen_locks, locked, send


def test_each_session_is_handled_in_order_and_one_message_at_a_time(provider: ServiceBusProvider) -> None:
    for number in range(20):
        send(provider, f"s{number}", map(str, range(12)))
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=4, prefetch=5) as processor:
        eventually(lambda: processor.stats.messages_done == 240)
        eventually(lambda: processor.stats.sessions_done >= 20)
        assert processor.stats.messages_per_second > 0
    assert all(seen.by_session[f"s{number}"] == [str(each) for each in range(12)] for number in range(20))
    assert seen.most_of_one == 1
    assert seen.most_sessions <= 4
    assert (left(provider), locked(provider)) == (0, [])
    assert processor.stats.messages_failed == processor.stats.sessions_open == 0


def test_an_empty_session_is_released_at_once(provider: ServiceBusProvider) -> None:
    closed = threading.Event()
    send(provider, "a", ["1"])
    with SessionProcessor(provider, QUEUE, Seen(), on_session_closed=lambda session: closed.set()):
        assert closed.wait(30)
        with provider.create_session_client(QUEUE, "a") as mine:
            assert mine.receive_message(timeout=0) is None


def test_session_idle_timeout_keeps_an_empty_session_for_further_messages(provider: ServiceBusProvider) -> None:
    opened: list[str] = []
    seen = Seen()
    send(provider, "a", ["1"])
    with SessionProcessor(
        provider, QUEUE, seen, session_idle_timeout=100, on_session_opened=lambda session: opened.append(session.session_id)
    ):
        eventually(lambda: seen.count == 1)
        send(provider, "a", ["2"])
        eventually(lambda: seen.count == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 50
    assert opened == ["a"]
    assert locked(provider) == []


def test_no_message_overtakes_a_failed_one(provider: ServiceBusProvider, quick: None) -> None:
    send(provider, "a", ["1", "2", "3", "4"])
    errors: list[tuple[str, str | None, str | None]] = []

    def fail_twice(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2" and message.delivery_count < 3:
            raise RuntimeError("not yet")

    def on_error(error: BaseException, session: Any, message: Any) -> None:
        errors.append((str(error), session.session_id, message.text()))

    seen = Seen(fail_twice)
    with SessionProcessor(provider, QUEUE, seen, on_error=on_error) as processor:
        eventually(lambda: processor.stats.messages_done == 4)
        assert processor.stats.messages_failed == 2
    assert seen.by_session["a"] == ["1", "2", "2", "2", "3", "4"]
    assert errors == [("not yet", "a", "2")] * 2


def test_dead_letter_affects_one_message_and_the_session_continues(provider: ServiceBusProvider) -> None:
    send(provider, "a", ["1", "2", "3"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            raise DeadLetter("unreadable", "second of three")

    seen = Seen(handler)
    with SessionProcessor(provider, QUEUE, seen) as processor:
        eventually(lambda: processor.stats.messages_done == 2)
        assert processor.stats.messages_dead_lettered == 1
    assert seen.by_session["a"] == ["1", "2", "3"]
    (dead,) = provider.dead_letters(QUEUE)
    assert (dead.text(), dead.dead_letter_reason, dead.dead_letter_description) == ("2", "unreadable", "second of three")


def test_dead_letter_session_dead_letters_all_messages_that_are_left(provider: ServiceBusProvider) -> None:
    send(provider, "a", map(str, range(15)))
    send(provider, "b", ["x"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "1":
            raise DeadLetterSession("customer is gone")

    seen = Seen(handler)
    with SessionProcessor(provider, QUEUE, seen, prefetch=4) as processor:
        eventually(lambda: left(provider) == 0)
        eventually(lambda: processor.stats.messages_dead_lettered == 14)
    assert seen.by_session == {"a": ["0", "1"], "b": ["x"]}
    assert {dead.dead_letter_reason for dead in provider.dead_letters(QUEUE)} == {"customer is gone"}


def test_a_message_settled_by_the_handler_counts_as_done(provider: ServiceBusProvider) -> None:
    send(provider, "a", ["1", "2", "3"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "1":
            session.complete_message(message)
        elif message.text() == "2":
            session.defer_message(message)

    with SessionProcessor(provider, QUEUE, handler) as processor:
        eventually(lambda: processor.stats.messages_done == 3)
        assert processor.stats.messages_failed == 0


def test_the_lock_is_renewed_while_a_handler_runs(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider
) -> None:
    # The renewal comes in the middle of the lock. So the machine has 3 seconds for it.
    azsession_server.create_queue(QUEUE, lock_duration=8)
    send(azsession_provider, "a", ["slow", "next"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "slow":
            before = session.session_expires_at
            eventually(lambda: session.session_expires_at > before)
            assert not session.is_lock_lost

    seen = Seen(handler)
    with SessionProcessor(azsession_provider, QUEUE, seen) as processor:
        eventually(lambda: processor.stats.messages_done == 2)
    assert seen.by_session["a"] == ["slow", "next"]


def test_a_handler_sees_that_its_lock_is_lost_and_its_message_is_redelivered(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, quick: None
) -> None:
    azsession_server.create_queue(QUEUE, lock_duration=2)
    send(azsession_provider, "a", ["slow", "next"])
    lost: list[bool] = []
    errors: list[tuple[type, str | None]] = []

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "slow" and not lost:
            lengthen_locks(azsession_server)
            eventually(lambda: session.is_lock_lost)
            lost.append(session.is_lock_lost)
            with pytest.raises(SessionNotFoundError):
                session.complete_message(message)

    def on_error(error: BaseException, session: Any, message: Any) -> None:
        errors.append((type(error), message.text()))

    seen = Seen(handler)
    with SessionProcessor(
        azsession_provider, QUEUE, seen, max_renewal=0, max_concurrent_sessions=1, on_error=on_error
    ) as processor:
        eventually(lambda: processor.stats.messages_done == 2)
        assert processor.stats.messages_failed == 1
    assert lost == [True]
    assert seen.by_session["a"] == ["slow", "slow", "next"]
    assert errors == [(SessionNotFoundError, "slow")]


def test_session_hooks_are_called_and_their_errors_are_only_logged(
    provider: ServiceBusProvider, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[str, str, bool]] = []

    def hook(name: str) -> Any:
        def call(session: SessionClient) -> None:
            calls.append((name, session.session_id, session.closed))
            raise RuntimeError("in a hook")

        return call

    send(provider, "a", ["1", "2"])
    with SessionProcessor(
        provider, QUEUE, Seen(), on_session_opened=hook("opened"), on_session_closed=hook("closed")
    ) as processor:
        eventually(lambda: len(calls) == 2)
        assert processor.stats.messages_done == 2
    assert calls == [("opened", "a", False), ("closed", "a", True)]
    assert caplog.text.count("a hook of the session processor failed") == 2
