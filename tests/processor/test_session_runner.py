"""What a processor does with sessions and messages, against a real gateway."""

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
    """Let sessions that failed come again soon."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.02)


def test_every_session_is_handled_in_order_and_one_message_at_a_time(provider: ServiceBusProvider) -> None:
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


def test_a_session_that_ran_empty_is_released_at_once(provider: ServiceBusProvider) -> None:
    closed = threading.Event()
    send(provider, "a", ["1"])
    with SessionProcessor(provider, QUEUE, Seen(), on_session_closed=lambda session: closed.set()):
        assert closed.wait(10)
        with provider.create_session_client(QUEUE, "a") as mine:
            assert mine.receive_message(timeout=0) is None


def test_one_slot_takes_many_sessions_of_one_message_without_idling(provider: ServiceBusProvider) -> None:
    for number in range(30):
        send(provider, f"s{number}", ["only"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1):
        eventually(lambda: seen.count == 30)


def test_with_an_idle_timeout_the_session_is_kept_for_what_comes(provider: ServiceBusProvider) -> None:
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


def test_busy_sessions_give_way_after_their_share(provider: ServiceBusProvider) -> None:
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


def test_a_message_that_fails_is_never_overtaken(provider: ServiceBusProvider, quick: None) -> None:
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


def test_a_poison_message_neither_spins_nor_takes_a_slot_and_ends_at_the_delivery_limit(
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
        # The only slot is free for others meanwhile.
        send(provider, "good", map(str, range(20)))
        eventually(lambda: len(seen.by_session["good"]) == 20)
        eventually(lambda: seen.by_session["poison"] == ["bad", "bad", "bad", "good"], seconds=20)
        eventually(lambda: left(provider) == 0)
    assert times[1] - times[0] > 0.14
    assert times[2] - times[1] > 0.29
    assert seen.most_sessions == 1
    assert [dead.text() for dead in provider.dead_letters(QUEUE)] == ["bad"]


def test_parked_sessions_are_released_at_stop(provider: ServiceBusProvider) -> None:
    send(provider, "poison", ["bad"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        raise RuntimeError("bad")

    with SessionProcessor(provider, QUEUE, handler, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.sessions_parked == 1)
        assert locked(provider) == ["poison"]
    assert locked(provider) == []
    assert left(provider) == 1


def test_dead_letter_ends_one_message_and_the_session_goes_on(provider: ServiceBusProvider) -> None:
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


def test_dead_letter_session_ends_all_that_is_left(provider: ServiceBusProvider) -> None:
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


@pytest.mark.parametrize("verdict", [DeadLetter, DeadLetterSession])
def test_a_verdict_is_checked_where_it_is_made(verdict: type[DeadLetter]) -> None:
    assert (str(verdict("why")), verdict("why", "more").description) == ("why", "more")
    for arguments in ((7,), ("x" * 4097,), ("why", 7)):
        with pytest.raises(ValidationError):
            verdict(*arguments)  # type: ignore[arg-type]


def test_what_a_handler_settles_itself_is_done(provider: ServiceBusProvider) -> None:
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


def test_a_handler_that_outlives_its_lock_is_told_and_its_message_is_not_done(
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


def test_hooks_see_each_session_and_may_fail(provider: ServiceBusProvider, caplog: pytest.LogCaptureFixture) -> None:
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


def test_only_chosen_sessions_are_taken_each_with_a_slot(provider: ServiceBusProvider) -> None:
    for name in ("a", "b", "c"):
        send(provider, name, ["1"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "a"]):
        eventually(lambda: seen.count == 2)
        # Each slot waits in its own session.
        send(provider, "b", ["2"])
        eventually(lambda: seen.count == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert dict(seen.by_session) == {"a": ["1"], "b": ["1", "2"]}
    assert locked(provider) == []


def test_more_chosen_sessions_than_slots_take_turns(provider: ServiceBusProvider) -> None:
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "c"], max_concurrent_sessions=2):
        for number, name in enumerate(("c", "a", "b", "a"), 1):
            send(provider, name, [str(number)])
            eventually(lambda number=number: seen.count == number)  # type: ignore[misc]
    assert dict(seen.by_session) == {"c": ["1"], "a": ["2", "4"], "b": ["3"]}


def test_a_chosen_session_that_another_holds_is_taken_later(provider: ServiceBusProvider) -> None:
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


def test_a_queue_that_is_not_there_ends_it() -> None:
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
def test_a_wrong_setting_is_named(provider: ServiceBusProvider, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="session id" if wrong.get("session_ids") == [""] else next(iter(wrong))):
        SessionProcessor(provider, QUEUE, Seen(), **wrong)


def test_no_more_handlers_run_than_there_are_slots_when_parked_sessions_come_back(
    provider: ServiceBusProvider, quick: None
) -> None:
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
