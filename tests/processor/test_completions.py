"""Completions in the background: `SessionProcessor(settle_in_background=...)` and a real gateway."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import (
    DeadLetter,
    DeadLetterSession,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
    ValidationError,
)
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .front import Front, Reported, Sessions, first_alone, processing, until_failed
from .helpers import QUEUE, Seen, left, lengthen_locks, locked, send


@pytest.mark.parametrize("limit", [1, 3])
def test_up_to_n_completions_are_unconfirmed_while_the_next_message_is_handled(
    provider: ServiceBusProvider, front: Front, limit: int
) -> None:
    behind: list[int] = []

    def count(message: ReceivedMessage, session: SessionClient) -> None:
        behind.append(len(behind) - front.confirmed)

    seen = Seen(count)
    send(provider, "a", map(str, range(9)))
    front.open_gate.clear()
    sessions = Sessions()
    with processing(front, seen, limit, on_session_opened=sessions) as processor:
        eventually(lambda: seen.count == limit + 1 and sessions.has_waiter())
        assert processor.stats.messages_done == 0
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 9)
    assert seen.by_session["a"] == [str(each) for each in range(9)]
    assert behind[: limit + 1] == list(range(limit + 1))
    assert max(behind) == limit
    assert (left(provider), locked(provider)) == (0, [])


def test_completions_that_wait_are_sent_together(provider: ServiceBusProvider, front: Front) -> None:
    seen = first_alone(front)
    send(provider, "a", map(str, range(8)))
    front.open_gate.clear()
    with processing(front, seen, 10, session_idle_timeout=20) as processor:
        eventually(lambda: seen.count == 8)
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 8)
    assert front.settled == [{"complete": 1}, {"complete": 7}]


def test_messages_fetched_ahead_need_no_request_of_their_own(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", map(str, range(20)))
    with processing(front, Seen(), 3) as processor:
        eventually(lambda: processor.stats.messages_done == 20)
    assert {name for each in front.settled for name in each} == {"complete"}


def test_a_failed_completion_stops_the_session_and_is_reported_with_its_message(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    reported = Reported()

    def fail(message: ReceivedMessage, session: SessionClient) -> None:
        if seen.count == 3:
            front.refuse = 1
            front.open_gate.set()
            until_failed(session)

    seen = first_alone(front, fail)
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 5, on_error=reported) as processor:
        eventually(lambda: processor.stats.messages_done == 4)
        assert processor.stats.messages_failed == 1
    # Messages 2 and 3 were handled and not completed, so that they did not overtake message 1.
    assert seen.by_session["a"] == ["1", "2", "3", "1", "2", "3", "4"]
    assert reported.all == [(ValidationError, "1")]


def test_the_failure_of_the_last_completion_is_found_before_the_release(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    reported, seen = Reported(), Seen()
    send(provider, "a", ["1"])
    front.refuse = 1
    with processing(front, seen, 5, on_error=reported, session_idle_timeout=0.01) as processor:
        eventually(lambda: processor.stats.messages_done == 1)
        assert processor.stats.messages_failed == 1
    assert reported.all == [(ValidationError, "1")]


@pytest.mark.parametrize("request_", [DeadLetter("bad"), DeadLetterSession("bad")], ids=repr)
def test_no_message_is_dead_lettered_behind_one_that_could_not_be_completed(
    provider: ServiceBusProvider, front: Front, quick: None, request_: Exception
) -> None:
    def judge(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2":
            if seen.count == 2:
                until_failed(session)
            raise request_

    seen = Seen(judge)
    send(provider, "a", ["1", "2"])
    front.refuse = 1
    with processing(front, seen, 5, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.messages_dead_lettered == 1)
    assert seen.by_session["a"] == ["1", "2", "1", "2"]
    assert [each.text() for each in provider.dead_letters(QUEUE)] == ["2"]


def test_a_failed_completion_ends_the_wait_for_the_next_message(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    reported = Reported()
    send(provider, "a", ["1"])
    front.refuse = 1
    with processing(front, Seen(), 5, on_error=reported, session_idle_timeout=100) as processor:
        eventually(lambda: processor.stats.messages_done == 1)
    assert reported.texts == ["1"]


def test_all_messages_of_a_request_that_fails_are_reported(provider: ServiceBusProvider, front: Front, quick: None) -> None:
    reported = Reported()
    seen = first_alone(front, lambda message, session: seen.count == 4 and until_failed(session))
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 5, on_error=reported) as processor:
        eventually(lambda: front.waiting == 1 and seen.count == 4)
        front.refuse_after(1)
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 4)
        assert processor.stats.messages_failed == 2
    assert reported.texts == ["2", "3"]
    assert seen.by_session["a"] == ["1", "2", "3", "4", "2", "3", "4"]


def test_messages_whose_lock_is_lost_are_reported_and_come_again(
    azsession_server: AzsessionServer, front: Front, provider: ServiceBusProvider, quick: None
) -> None:
    azsession_server.create_queue("short", lock_duration=2)
    reported = Reported()

    def lose(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "2" and seen.count == 2:
            lengthen_locks(azsession_server, "short")
            eventually(lambda: session.is_lock_lost and locked(provider, "short") == [])
            front.open_gate.set()

    seen = Seen(lose)
    send(provider, "a", ["1", "2", "3"], "short")
    front.open_gate.clear()
    options: dict[str, Any] = {"max_renewal": 0, "max_concurrent_sessions": 1, "on_error": reported}
    with SessionProcessor(front.provider, "short", seen, settle_in_background=1, **options) as processor:
        eventually(lambda: processor.stats.messages_done == 3)
    assert seen.by_session["a"] == ["1", "2", "1", "2", "3"]
    assert reported.texts[0] == "1"


def test_earlier_messages_are_completed_before_one_is_abandoned(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    def fail_once(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "3" and message.delivery_count == 1:
            raise RuntimeError("not now")

    reported, seen = Reported(), first_alone(front, fail_once)
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 5, on_error=reported) as processor:
        eventually(lambda: seen.count == 3)
        front.open_gate.set()
        eventually(lambda: processor.stats.messages_done == 4)
        assert processor.stats.messages_failed == 1
    assert front.settled[:2] == [{"complete": 1}, {"complete": 1}]
    # Message 4 goes back with it.
    assert front.settled[2:4] == [{"release": 1}, {"abandon": 1}]
    assert seen.by_session["a"] == ["1", "2", "3", "3", "4"]
    assert reported.all == [(RuntimeError, "3")]


@pytest.mark.parametrize("request_", [DeadLetter("bad"), DeadLetterSession("bad"), None], ids=repr)
def test_only_messages_that_are_left_are_dead_lettered(
    provider: ServiceBusProvider, front: Front, request_: Exception | None
) -> None:
    def judge(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "3":
            if request_ is not None:
                raise request_
            session.dead_letter_session("bad")

    seen = Seen(judge)
    send(provider, "a", ["1", "2", "3", "4"])
    front.open_gate.clear()
    with processing(front, seen, 5) as processor:
        eventually(lambda: seen.count == 3)
        front.open_gate.set()
        eventually(lambda: left(provider) == 0)
        eventually(lambda: processor.stats.sessions_done == 1)
    dead = [each.text() for each in provider.dead_letters(QUEUE)]
    assert dead == (["3"] if isinstance(request_, DeadLetter) else ["3", "4"])
