"""Abandoning with a delay: the session is given to nobody until the delay has passed, and then goes on with this message."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from azsession import (
    NoSessionAvailableError,
    ServiceBusProvider,
    SessionLockedError,
    SessionProcessor,
    ValidationError,
)
from azsession.processor import backoff

from ..conftest import eventually
from .conftest import left, send, take, take_many


@pytest.mark.parametrize("delay", [2.5, timedelta(seconds=2.5)], ids=["seconds", "timedelta"])
def test_the_holder_gets_the_message_again_after_the_delay(provider: ServiceBusProvider, queue: str, delay: Any) -> None:
    send(provider, queue, "a", "b", "c")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        began = time.monotonic()
        session.abandon_message(message, delay=delay)
        assert session.receive_message(timeout=0) is None
        again = take(session)
        assert time.monotonic() - began >= 2.5
        assert (again.text(), again.delivery_count) == ("a", 2)
        session.complete_message(again)
        assert [each.text() for each in take_many(session, 2)] == ["b", "c"]


def test_nobody_gets_the_session_before_the_delay_has_passed(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b")
    send(provider, queue, "other", session_id="s2")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        began = time.monotonic()
        session.abandon_message(message, delay=5)
    with provider.create_session_client(queue, "s1") as other, pytest.raises(SessionLockedError):
        other.receive_message(timeout=0)
    with provider.create_session_client(queue, accept_timeout=0) as healthy:
        assert healthy.session_id == "s2"
        healthy.complete_message(take(healthy))
        with pytest.raises(NoSessionAvailableError):
            provider.create_session_client(queue, accept_timeout=0)
    with provider.create_session_client(queue, accept_timeout=20) as next_one:
        assert time.monotonic() - began >= 5
        assert next_one.session_id == "s1"
        again = take(next_one)
        assert (again.text(), again.delivery_count) == ("a", 2)
        next_one.complete_message(again)
        assert take(next_one).text() == "b"


def test_other_unsettled_messages_can_be_settled_meanwhile(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b", "c")
    with provider.create_session_client(queue, "s1") as session:
        first, second = take_many(session, 2)
        session.abandon_message(first, delay=1)
        session.complete_message(second)
        session.set_session_state(b"paused")
        session.renew_session_lock()
        assert session.get_session_state() == b"paused"
        assert [each.text() for each in take_many(session, 2)] == ["a", "c"]


def test_unsettled_messages_of_a_closed_session_come_again_in_order(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b", "c")
    with provider.create_session_client(queue, "s1") as session:
        first, _ = take_many(session, 2)
        session.abandon_message(first, delay=1)
    with provider.create_session_client(queue, accept_timeout=20) as session:
        assert [(each.text(), each.delivery_count) for each in take_many(session, 3)] == [("a", 2), ("b", 1), ("c", 1)]


def test_new_messages_do_not_end_the_delay(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        began = time.monotonic()
        session.abandon_message(take(session), delay=1)
        send(provider, queue, "b")
        assert [each.text() for each in take_many(session, 2)] == ["a", "b"]
        assert time.monotonic() - began >= 1


def test_a_delay_of_0_is_none(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        for delay in (0, 0.0, timedelta(0), None):
            session.abandon_message(take(session), delay=delay)
        message = session.receive_message(timeout=10)
        assert message is not None
        assert message.delivery_count == 5


def test_a_wrong_delay_is_refused(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        wrong: list[Any] = [-1, -0.001, timedelta(seconds=-1), float("nan"), float("inf"), 1e10, "1", timedelta.max]
        for delay in wrong:
            with pytest.raises(ValidationError, match="delay"):
                session.abandon_message(message, delay=delay)
        session.complete_message(message)


def test_a_huge_delay_holds_the_session_until_it_is_purged_or_the_end(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        session.abandon_message(take(session), delay=1e9)
        assert session.receive_message(timeout=0.2) is None
    with pytest.raises(NoSessionAvailableError):
        provider.create_session_client(queue, accept_timeout=0.2)
    assert left(provider, queue) == ["a"]
    assert provider.purge(queue, "s1") == 1
    send(provider, queue, "b")
    with provider.create_session_client(queue, accept_timeout=10) as session:
        assert take(session).text() == "b"


def test_a_processor_lets_the_broker_hold_a_failed_session_back(
    provider: ServiceBusProvider, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 6.0)
    send(provider, queue, "a", "b")
    failed_at: list[float] = []

    def handler(message: Any, session: Any) -> None:
        failed_at.append(time.monotonic())
        raise RuntimeError("the first attempt fails")

    with SessionProcessor(provider, queue, handler, on_error=lambda *_: None):
        eventually(lambda: failed_at)
    # The processor has ended, and still nobody gets the session before the pause is over.
    with pytest.raises(NoSessionAvailableError):
        provider.create_session_client(queue, accept_timeout=0)
    with provider.create_session_client(queue, accept_timeout=20) as session:
        assert time.monotonic() - failed_at[0] >= 3
        assert [(each.text(), each.delivery_count) for each in take_many(session, 2)] == [("a", 2), ("b", 1)]
