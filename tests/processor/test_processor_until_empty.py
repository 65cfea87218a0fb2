"""A processor that stops when no session has a message."""

from __future__ import annotations

import threading
import time

import pytest

from azsession import QueueSettings, ReceivedMessage, ServiceBusProvider, SessionClient, SessionProcessor, ValidationError
from azsession.processor import backoff
from azsession.processor.backoff import BROKER_MARGIN
from azsession.processor.sources import SHORT_POLL

from ..conftest import eventually
from .front import Front
from .helpers import QUEUE, Gate, Seen, left, locked, send


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("session_ids", [None, ["a", "b", "c", "next"]])
@pytest.mark.parametrize("share", [None, 2])
def test_run_ends_after_the_last_message_also_of_sessions_that_handlers_send_to(
    provider: ServiceBusProvider, slots: int, session_ids: list[str] | None, share: int | None
) -> None:
    for name in ("a", "b", "c"):
        send(provider, name, map(str, range(5)))

    def send_more(message: ReceivedMessage, session: SessionClient) -> None:
        if session.session_id == "c" and message.text() == "4":
            send(provider, "a", ["again"])
        if message.text() == "again":
            send(provider, "next", ["last"])

    seen = Seen(send_more)
    processor = SessionProcessor(
        provider,
        QUEUE,
        seen,
        max_concurrent_sessions=slots,
        session_ids=session_ids,
        max_messages_per_session=share,
        until_empty=True,
    )
    processor.run()
    numbers = [str(number) for number in range(5)]
    assert dict(seen.by_session) == {"a": [*numbers, "again"], "b": numbers, "c": numbers, "next": ["last"]}
    assert (left(provider), locked(provider)) == (0, [])
    assert processor.stats.messages_done == 17


@pytest.mark.parametrize("session_ids", [None, ["a"]])
def test_an_empty_queue_ends_the_processor_soon(provider: ServiceBusProvider, session_ids: list[str] | None) -> None:
    began = time.monotonic()
    SessionProcessor(provider, QUEUE, Seen(), session_ids=session_ids, until_empty=True).run()
    assert time.monotonic() - began < 15


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("session_ids", [None, ["a", "b"]])
def test_a_failed_message_is_tried_again_before_the_end(provider: ServiceBusProvider, session_ids: list[str] | None) -> None:
    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "bad" and message.delivery_count == 1:
            raise ZeroDivisionError

    send(provider, "a", ["bad", "good"])
    send(provider, "b", ["1"])
    seen = Seen(fail_once)
    SessionProcessor(provider, QUEUE, seen, session_ids=session_ids, on_error=lambda *_: None, until_empty=True).run()
    assert seen.by_session["a"] == ["bad", "bad", "good"]
    assert left(provider) == 0


@pytest.mark.parametrize("session_ids", [None, ["a"]])
def test_a_session_whose_failed_message_was_abandoned_slowly_is_waited_for(
    front: Front, monkeypatch: pytest.MonkeyPatch, session_ids: list[str] | None
) -> None:
    # The abandon takes longer than the pause that it begins. The pause lasts longer than a request waits for a session.
    pause = 2.0 * SHORT_POLL
    monkeypatch.setattr(backoff, "FIRST_PAUSE", pause)

    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.delivery_count == 1:
            front.open_gate.clear()
            threading.Timer(pause + 2.0 * BROKER_MARGIN, front.open_gate.set).start()
            raise ZeroDivisionError

    send(front.provider, "a", ["bad"])
    seen = Seen(fail_once)
    SessionProcessor(front.provider, QUEUE, seen, session_ids=session_ids, on_error=lambda *_: None, until_empty=True).run()
    assert seen.by_session["a"] == ["bad", "bad"]


@pytest.mark.parametrize("session_ids", [None, ["a"]])
def test_a_session_that_the_broker_holds_back_for_long_is_waited_for(
    provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch, session_ids: list[str] | None
) -> None:
    # Longer than a request waits for a session.
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 6.0 * SHORT_POLL)

    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.delivery_count == 1:
            raise ZeroDivisionError

    send(provider, "a", ["bad"])
    seen = Seen(fail_once)
    SessionProcessor(provider, QUEUE, seen, session_ids=session_ids, on_error=lambda *_: None, until_empty=True).run()
    assert seen.by_session["a"] == ["bad", "bad"]


@pytest.mark.usefixtures("quick")
def test_a_message_that_always_fails_ends_as_a_dead_letter(azsession_provider: ServiceBusProvider) -> None:
    def fail(message: ReceivedMessage, session: SessionClient) -> None:
        raise ZeroDivisionError

    azsession_provider.create_queue(QUEUE, QueueSettings(max_delivery_count=3))
    send(azsession_provider, "a", ["bad"])
    processor = SessionProcessor(azsession_provider, QUEUE, fail, on_error=lambda *_: None, until_empty=True)
    processor.run()
    assert processor.stats.messages_failed == 3
    assert [message.text() for message in azsession_provider.dead_letters(QUEUE)] == ["bad"]


@pytest.mark.parametrize("session_ids", [None, ["held", "a"]])
def test_a_session_that_another_client_holds_is_not_waited_for(
    provider: ServiceBusProvider, session_ids: list[str] | None
) -> None:
    send(provider, "held", ["1"])
    send(provider, "a", ["1"])
    with provider.create_session_client(QUEUE, "held") as other:
        assert other.receive_message(timeout=0) is not None
        seen = Seen()
        SessionProcessor(provider, QUEUE, seen, session_ids=session_ids, until_empty=True).run()
        assert dict(seen.by_session) == {"a": ["1"]}
        assert not other.is_lock_lost


def test_the_processor_waits_for_a_handler_that_runs_and_takes_its_next_messages(provider: ServiceBusProvider) -> None:
    gate = Gate()
    send(provider, "a", ["slow"])
    seen = Seen(lambda message, session: gate() if message.text() == "slow" else None)
    processor = SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=3, until_empty=True)
    processor.start()
    assert gate.reached.wait(30)
    began = processor.stats.seconds_waited
    # The other slots ask for sessions again and again meanwhile, and find none.
    eventually(lambda: processor.stats.seconds_waited - began > 4, seconds=60)
    assert "running" in repr(processor)
    send(provider, "b", ["later"])
    eventually(lambda: seen.by_session["b"] == ["later"])
    gate.opened.set()
    eventually(lambda: processor.stats.messages_done == 2 and "stopping" in repr(processor), seconds=60)
    assert processor.stop()


def test_until_empty_is_true_or_false(provider: ServiceBusProvider) -> None:
    with pytest.raises(ValidationError, match="until_empty must be True or False, not 'no'"):
        SessionProcessor(provider, QUEUE, Seen(), until_empty="no")  # type: ignore[arg-type]
