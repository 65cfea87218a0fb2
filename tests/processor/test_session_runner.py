"""How a processor handles sessions and messages, with a real gateway."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from azsession import (
    DeadLetter,
    DeadLetterSession,
    QueueNotFoundError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    SessionProcessor,
    ValidationError,
)
from azsession.processor import backoff
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .helpers import QUEUE, Gate, Seen, left, locked, send


@pytest.fixture
def provider(azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider) -> ServiceBusProvider:
    azsession_server.create_queue(QUEUE)
    return azsession_provider


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pause after a failure short."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.02)


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
        assert closed.wait(10)
        with provider.create_session_client(QUEUE, "a") as mine:
            assert mine.receive_message(timeout=0) is None


def test_one_slot_handles_many_sessions_with_one_message_each_without_waiting(provider: ServiceBusProvider) -> None:
    for number in range(30):
        send(provider, f"s{number}", ["only"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1):
        eventually(lambda: seen.count == 30)


def test_session_idle_timeout_keeps_an_empty_session_for_further_messages(provider: ServiceBusProvider) -> None:
    opened: list[str] = []
    seen = Seen()
    send(provider, "a", ["1"])
    with SessionProcessor(
        provider, QUEUE, seen, session_idle_timeout=20, on_session_opened=lambda session: opened.append(session.session_id)
    ):
        eventually(lambda: seen.count == 1)
        send(provider, "a", ["2"])
        eventually(lambda: seen.count == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert opened == ["a"]
    assert locked(provider) == []


def test_max_messages_per_session_makes_busy_sessions_take_turns(provider: ServiceBusProvider) -> None:
    for name in ("busy", "busy too"):
        send(provider, name, map(str, range(9)))
    send(provider, "other", ["x"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1, max_messages_per_session=4, prefetch=3):
        eventually(lambda: seen.count == 19)
    assert seen.by_session["busy"] == seen.by_session["busy too"] == [str(number) for number in range(9)]
    turns = [name for name, _ in itertools.groupby(name for name, _ in seen.order)]
    assert turns == ["busy", "busy too", "other", "busy", "busy too", "busy", "busy too"]
    eventually(lambda: (left(provider), locked(provider)) == (0, []))


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


def test_a_poison_message_is_retried_with_pauses_without_a_slot_until_the_delivery_limit(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = azsession_provider
    azsession_server.create_queue(QUEUE, max_delivery_count=3)
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.3)
    send(provider, "poison", ["bad", "good"])
    times: list[float] = []

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "bad":
            times.append(time.monotonic())
            raise RuntimeError("bad")

    seen = Seen(handler)
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.sessions_parked == 1)
        # Meanwhile the only slot is free for other sessions.
        send(provider, "good", map(str, range(20)))
        eventually(lambda: len(seen.by_session["good"]) == 20)
        eventually(lambda: seen.by_session["poison"] == ["bad", "bad", "bad", "good"], seconds=20)
        eventually(lambda: left(provider) == 0)
    assert times[1] - times[0] > 0.14
    assert times[2] - times[1] > 0.29
    assert seen.most_sessions == 1
    assert [dead.text() for dead in provider.dead_letters(QUEUE)] == ["bad"]


def test_stop_releases_parked_sessions(provider: ServiceBusProvider) -> None:
    send(provider, "poison", ["bad"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        raise RuntimeError("bad")

    with SessionProcessor(provider, QUEUE, handler, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.sessions_parked == 1)
        assert locked(provider) == ["poison"]
    assert locked(provider) == []
    assert left(provider) == 1


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


@pytest.mark.parametrize("exception", [DeadLetter, DeadLetterSession])
def test_a_dead_letter_exception_checks_its_arguments(exception: type[DeadLetter]) -> None:
    assert (str(exception("why")), exception("why", "more").description) == ("why", "more")
    for arguments in ((7,), ("x" * 4097,), ("why", 7)):
        with pytest.raises(ValidationError):
            exception(*arguments)  # type: ignore[arg-type]


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
    azsession_server.create_queue(QUEUE, lock_duration=1)
    send(azsession_provider, "a", ["slow", "next"])
    began: list[float] = []

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "slow":
            began.append(time.monotonic())
            eventually(lambda: time.monotonic() - began[0] > 1.5)
            assert not session.is_lock_lost

    seen = Seen(handler)
    with SessionProcessor(azsession_provider, QUEUE, seen) as processor:
        eventually(lambda: processor.stats.messages_done == 2)
    assert seen.by_session["a"] == ["slow", "next"]


def test_a_handler_sees_that_its_lock_is_lost_and_its_message_is_redelivered(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, quick: None
) -> None:
    azsession_server.create_queue(QUEUE, lock_duration=1)
    send(azsession_provider, "a", ["slow", "next"])
    lost: list[bool] = []
    errors: list[tuple[type, str | None]] = []

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "slow" and not lost:
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


def test_session_ids_limits_the_sessions_and_each_has_a_slot(provider: ServiceBusProvider) -> None:
    for name in ("a", "b", "c"):
        send(provider, name, ["1"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "a"]):
        eventually(lambda: seen.count == 2)
        # Each slot waits for messages in its own session.
        send(provider, "b", ["2"])
        eventually(lambda: seen.count == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert dict(seen.by_session) == {"a": ["1"], "b": ["1", "2"]}
    assert locked(provider) == []


def test_more_session_ids_than_slots_take_turns(provider: ServiceBusProvider) -> None:
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "c"], max_concurrent_sessions=2):
        for number, name in enumerate(("c", "a", "b", "a"), 1):
            send(provider, name, [str(number)])
            eventually(lambda number=number: seen.count == number)  # type: ignore[misc]
    assert dict(seen.by_session) == {"c": ["1"], "a": ["2", "4"], "b": ["3"]}


def test_a_listed_session_locked_by_another_holder_is_taken_later(provider: ServiceBusProvider) -> None:
    send(provider, "a", ["1"])
    errors: list[BaseException] = []
    seen = Seen()
    with provider.create_session_client(QUEUE, "a") as holder:
        holder.get_session_state()
        with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b"], on_error=lambda e, *_: errors.append(e)):
            send(provider, "b", ["1"])
            eventually(lambda: seen.count == 1)
            assert seen.order == [("b", "1")]
            holder.close()
            eventually(lambda: seen.count == 2, seconds=20)
    assert errors == []


def test_a_missing_queue_stops_the_processor() -> None:
    from azsession.broker.embedded import EmbeddedBroker
    from azsession.server import AccessKey, GatewayService

    with (
        GatewayService(EmbeddedBroker(), [AccessKey.generate()]) as service,
        ServiceBusProvider.from_connection_string(service.connection_string()) as strict,
    ):
        processor = SessionProcessor(strict, "missing", Seen())
        with pytest.raises(QueueNotFoundError):
            processor.run()
        processor.start()
        eventually(lambda: "stopping" in repr(processor))
        with pytest.raises(QueueNotFoundError):
            processor.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_concurrent_sessions": 0},
        {"session_ids": []},
        {"session_ids": "a"},
        {"session_ids": [""]},
        {"max_messages_per_session": 0},
        {"session_idle_timeout": -1},
        {"prefetch": 0},
        {"on_error": "print"},
        {"grace_period": float("nan")},
        {"max_renewal": "1"},
    ],
)
def test_the_error_names_the_invalid_option(provider: ServiceBusProvider, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="session id" if wrong.get("session_ids") == [""] else next(iter(wrong))):
        SessionProcessor(provider, QUEUE, Seen(), **wrong)


def test_parked_sessions_that_are_due_do_not_exceed_the_number_of_slots(provider: ServiceBusProvider, quick: None) -> None:
    for number in range(12):
        send(provider, f"s{number}", ["1", "2"])
    gate = Gate()
    gate.opened.set()

    def fail_first(message: ReceivedMessage, session: SessionClient) -> None:
        gate()
        if message.delivery_count == 1 and message.text() == "1":
            raise RuntimeError("first time")

    seen = Seen(fail_first)
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=3, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.messages_done == 24)
    assert seen.most_sessions <= 3
    assert all(texts == ["1", "1", "2"] for texts in seen.by_session.values())
