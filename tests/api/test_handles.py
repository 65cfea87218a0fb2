"""Lock handles: another process holds the session, and the first one detaches."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from azsession import (
    InvalidReceiptError,
    QueueError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
    UnsupportedOperationError,
    ValidationError,
)

from ..conftest import eventually
from .conftest import (
    ARRANGEMENTS,
    Arrangement,
    AzureBehindGateway,
    AzureInProcess,
    EmbeddedOverHTTP,
    left,
    send,
    take,
    take_many,
)

portable = pytest.mark.parametrize(
    "arrangement",
    [kind for kind in ARRANGEMENTS if not (kind.is_azure and kind.in_process)],
    indirect=True,
    ids=lambda kind: kind.name,
)


@pytest.fixture
def other(arrangement: Arrangement) -> ServiceBusProvider:
    """The provider of the other process. The embedded broker in process has only one provider."""
    return arrangement.provider()


def everything(session: SessionClient) -> list[Callable[[], object]]:
    """Return every call that only a holder may make."""
    return [
        lambda: session.receive_message(timeout=0),
        lambda: next(session.messages(timeout=0)),
        lambda: session.receive_deferred_messages([1]),
        session.renew_session_lock,
        session.get_session_state,
        lambda: session.set_session_state(b"x"),
        lambda: session.dead_letter_session("x"),
        session.lock_handle,
    ]


@portable
def test_another_process_receives_settles_renews_keeps_state_and_releases(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a", "b", "c")
    session = provider.create_session_client(queue, "s1")
    first = take(session)
    handle, receipt = session.lock_handle(), str(first.receipt)
    session.detach()
    with other.session_from_handle(handle) as moved:
        assert (moved.session_id, moved.queue_name) == ("s1", queue)
        second = take(moved)
        assert second.text() == "b"
        moved.complete_message(receipt)
        moved.complete_message(second)
        moved.set_session_state(b"state")
        assert moved.get_session_state() == b"state"
        assert moved.renew_session_lock() == moved.session_expires_at
        with provider.create_session_client(queue, "s1") as rival, pytest.raises(SessionLockedError):
            rival.receive_message(timeout=0)
    with provider.create_session_client(queue, "s1") as following:
        assert take(following).text() == "c"


@portable
def test_a_detached_client_is_closed_and_releases_nothing(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        take(session)
        handle = session.lock_handle()
        session.detach()
        session.detach()
        assert session.closed
        for call in everything(session):
            with pytest.raises(SessionNotFoundError, match="closed"):
                call()
    with other.session_from_handle(handle) as moved:
        assert moved.renew_session_lock()


@portable
def test_both_hold_the_session_until_one_of_them_releases_it(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a", "b")
    with provider.create_session_client(queue, "s1") as session:
        first = take(session)
        moved = other.session_from_handle(session.lock_handle())
        assert take(moved).text() == "b"
        session.complete_message(first)
    with moved, pytest.raises(SessionNotFoundError):
        moved.renew_session_lock()


@portable
def test_a_handle_of_a_session_that_was_released_is_of_no_use(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        handle = session.lock_handle()
    for number in range(4):
        with other.session_from_handle(handle, auto_renew=False) as moved, pytest.raises(SessionNotFoundError):
            everything(moved)[number if number < 1 else number + 2]()
    with other.session_from_handle(handle) as moved, pytest.raises((InvalidReceiptError, SessionNotFoundError)):
        moved.complete_message(message)
    assert left(provider, queue) == ["a"]


@portable
def test_the_lock_is_renewed_from_the_start(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=5.0)
    send(provider, queue, "a")
    session = provider.create_session_client(queue, "s1")
    take(session)
    handle = session.lock_handle()
    session.detach()
    with arrangement.provider().session_from_handle(handle) as moved:
        began = moved.session_expires_at
        eventually(lambda: moved.session_expires_at > began)
        time.sleep(6)
        assert not moved.is_lock_lost
        moved.renew_session_lock()


@portable
def test_a_lost_lock_is_reported(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(lock_duration=1.0)
    lost: list[QueueError] = []
    session = provider.create_session_client(queue, "s1", auto_renew=False)
    handle = session.lock_handle()
    session.detach()
    time.sleep(1.5)
    with provider.create_session_client(queue, "s1") as rival:
        eventually(lambda: _takes(rival))
        with arrangement.provider().session_from_handle(handle, on_lock_lost=lambda _, error: lost.append(error)) as moved:
            eventually(lambda: lost)
            assert moved.is_lock_lost


def _takes(session: SessionClient) -> bool:
    try:
        session.get_session_state()
    except SessionLockedError:
        return False
    return True


@portable
def test_messages_fetched_ahead_are_left_for_the_next_process(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str
) -> None:
    send(provider, queue, "a", "b", "c", "d")
    session = provider.create_session_client(queue, "s1")
    first = next(session.messages(timeout=10, prefetch=10))
    handle = session.lock_handle()
    session.detach()
    with other.session_from_handle(handle) as moved:
        moved.complete_message(first)
        assert [(each.text(), each.delivery_count) for each in take_many(moved, 3)] == [("b", 1), ("c", 1), ("d", 1)]


@portable
@pytest.mark.parametrize("session_id", ["", "..", "a//b\x00"], ids=["empty", "dots", "odd"])
def test_a_handle_carries_any_session_id(
    provider: ServiceBusProvider, other: ServiceBusProvider, queue: str, session_id: str
) -> None:
    send(provider, queue, "a", session_id=session_id)
    session = provider.create_session_client(queue, session_id)
    handle = session.lock_handle()
    session.detach()
    with other.session_from_handle(handle) as moved:
        moved.complete_message(take(moved))
        assert moved.session_id == session_id


@portable
def test_a_handle_shows_nowhere(provider: ServiceBusProvider, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    session = provider.create_session_client(queue, "s1")
    handle = session.lock_handle()
    assert str(handle)[5:] not in repr(handle)
    assert pickle.loads(pickle.dumps(str(handle))) == handle
    session.detach()
    with provider.session_from_handle(handle) as moved:
        moved.receive_message(timeout=0)
        shown = [repr(moved), repr(session), repr(provider)]
    damaged = handle[:-6]
    with pytest.raises(ValidationError) as caught:
        provider.session_from_handle(damaged)
    shown += [str(caught.value), repr(caught.value), caplog.text]
    assert all(handle[8:40] not in text for text in shown)


@pytest.mark.parametrize("handle", ["", "azl1.", "azl1.WzFd", "azl9.x", "text", None, 5, b"azl1.", "azl1." + "A" * 5000])
def test_text_that_is_not_a_handle_is_refused(provider: ServiceBusProvider, handle: Any) -> None:
    for text in (handle, "azs1.WyJxIl0"):
        with pytest.raises((ValidationError, UnsupportedOperationError)):
            provider.session_from_handle(text)


@pytest.mark.parametrize("arrangement", [AzureInProcess], indirect=True, ids=lambda kind: kind.name)
def test_straight_to_azure_no_lock_can_be_handed_over(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        with pytest.raises(UnsupportedOperationError, match="AMQP link"):
            session.lock_handle()
        session.complete_message(message)
    with pytest.raises(UnsupportedOperationError, match="AMQP link"):
        provider.session_from_handle(_handle(queue))


def _handle(queue: str) -> str:
    """Return the handle of a session that somebody may hold."""
    with ServiceBusProvider.embedded() as elsewhere:
        session = elsewhere.create_session_client(queue, "s1")
        handle = session.lock_handle()
        session.close_session()
        return handle


def test_a_client_of_a_receipt_says_that_it_can_only_settle(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b")
    with provider.create_session_client(queue, "s1") as session:
        messages: list[ReceivedMessage] = take_many(session, 2)
        with provider.session_from_receipt(str(messages[0].receipt)) as other:
            for call in everything(other):
                with pytest.raises(UnsupportedOperationError, match="only settle"):
                    call()
            other.complete_message(messages[0])
        session.complete_message(messages[1])
    assert left(provider, queue) == []


_OTHER_PROCESS = """
import sys
from azsession import ServiceBusProvider
connection_string, handle, receipt = sys.argv[1:]
with ServiceBusProvider.from_connection_string(connection_string) as provider:
    with provider.session_from_handle(handle) as session:
        session.complete_message(receipt)
        print(session.receive_message(timeout=10).text())
"""


@pytest.mark.parametrize("arrangement", [EmbeddedOverHTTP, AzureBehindGateway], indirect=True, ids=lambda kind: kind.name)
def test_the_session_moves_to_another_process(arrangement: Arrangement, provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b")
    session = provider.create_session_client(queue, "s1")
    message = take(session)
    handle = session.lock_handle()
    session.detach()
    command = [sys.executable, "-c", _OTHER_PROCESS, arrangement.connection_string, handle, str(message.receipt)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("b\n", "")
    with provider.create_session_client(queue, "s1") as following:
        # The other process released the session: nothing waits for the lock to expire.
        assert take(following).text() == "b"
