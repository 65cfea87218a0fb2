"""Scheduling messages, cancelling them, and purging queues and sessions."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message, ProviderError, QueueNotFoundError, ServiceBusProvider, SessionLockedError, ValidationError

from ..conftest import eventually
from .conftest import Arrangement, left, send, take, take_many

LATER = timedelta(hours=1)


def now() -> datetime:
    return datetime.now(timezone.utc)


def messages(*bodies: str, session_id: str = "s1") -> list[Message]:
    return [Message(body, session_id=session_id) for body in bodies]


def states(provider: ServiceBusProvider, queue: str, session_id: str = "s1") -> list[tuple[str, str]]:
    return [(message.text(), message.state) for message in provider.peek_messages(queue, session_id, 1000)]


# Scheduling


def test_scheduled_messages_are_not_available_before_their_time(provider: ServiceBusProvider, queue: str) -> None:
    numbers = provider.schedule_messages(queue, messages("a", "b"), now() + LATER)
    assert len(set(numbers)) == 2
    assert states(provider, queue) == [("a", "Scheduled"), ("b", "Scheduled")]
    assert [message.sequence_number for message in provider.peek_messages(queue, "s1")] == numbers
    with provider.create_session_client(queue, "s1") as session:
        assert session.receive_message(timeout=0) is None


def test_scheduled_messages_arrive_in_the_order_of_their_times(provider: ServiceBusProvider, queue: str) -> None:
    start = now()
    provider.schedule_messages(queue, messages("b"), start + timedelta(seconds=3.5))
    provider.schedule_messages(queue, messages("a"), start + timedelta(seconds=3))
    with provider.create_session_client(queue, "s1") as session:
        assert session.receive_message(timeout=0) is None
        assert [message.text() for message in take_many(session, 2)] == ["a", "b"]


def test_a_time_that_has_passed_means_now(provider: ServiceBusProvider, queue: str) -> None:
    assert len(provider.schedule_messages(queue, messages("a"), now() - LATER)) == 1
    assert states(provider, queue) == [("a", "Active")]


def test_the_time_replaces_that_of_the_messages(provider: ServiceBusProvider, queue: str) -> None:
    message = Message("a", session_id="s1", scheduled_enqueue_time=now() + LATER)
    provider.schedule_messages(queue, [message], now() - LATER)
    assert states(provider, queue) == [("a", "Active")]


def test_one_message_is_scheduled_without_a_list(provider: ServiceBusProvider, queue: str) -> None:
    [number] = provider.schedule_messages(queue, Message("a", session_id="s1"), now() + LATER)
    assert [message.sequence_number for message in provider.peek_messages(queue, "s1")] == [number]


def test_many_messages_get_their_numbers_in_order(provider: ServiceBusProvider, queue: str) -> None:
    numbers = provider.schedule_messages(queue, messages(*map(str, range(1100))), now() + LATER)
    assert len(numbers) == 1100
    assert numbers == sorted(numbers)
    provider.cancel_scheduled_messages(queue, numbers)
    assert states(provider, queue) == []


def test_a_number_that_is_given_twice_is_cancelled_once(provider: ServiceBusProvider, queue: str) -> None:
    first, second = provider.schedule_messages(queue, messages("a", "b"), now() + LATER)
    provider.cancel_scheduled_messages(queue, [first, first])
    assert [message.sequence_number for message in provider.peek_messages(queue, "s1")] == [second]


def test_scheduling_nothing_makes_no_request(provider: ServiceBusProvider) -> None:
    assert provider.schedule_messages("nowhere", [], now()) == []
    provider.cancel_scheduled_messages("nowhere", [])


def test_messages_of_several_sessions_are_scheduled_on_any_queue(
    arrangement: Arrangement, provider: ServiceBusProvider
) -> None:
    """Azure may refuse one request with messages for several partitions of a partitioned entity."""
    queue = arrangement.queue(**({"partitioned": True} if arrangement.is_azure else {}))
    given = [Message(str(n), session_id=f"s{n % 3}") for n in range(7)]
    numbers = provider.schedule_messages(queue, given, now() + LATER)
    for name in ("s0", "s1", "s2"):
        peeked = provider.peek_messages(queue, name)
        assert [message.text() for message in peeked] == [str(n) for n in range(7) if f"s{n % 3}" == name]
        assert [numbers[int(message.text())] for message in peeked] == [message.sequence_number for message in peeked]
    provider.cancel_scheduled_messages(queue, numbers)
    assert provider.list_sessions(queue) == []


# Cancelling


def test_a_cancelled_message_never_arrives(provider: ServiceBusProvider, queue: str) -> None:
    first, second = provider.schedule_messages(queue, messages("a", "b"), now() + LATER)
    provider.cancel_scheduled_messages(queue, [first])
    assert states(provider, queue) == [("b", "Scheduled")]
    provider.cancel_scheduled_messages(queue, iter([second]))
    assert states(provider, queue) == []
    assert provider.list_sessions(queue) == []


def test_a_message_of_send_messages_is_cancelled_by_its_peeked_number(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_message(queue, Message("a", session_id="s1", scheduled_enqueue_time=now() + LATER))
    [peeked] = provider.peek_messages(queue, "s1")
    provider.cancel_scheduled_messages(queue, [peeked.sequence_number])
    assert states(provider, queue) == []


def test_cancelling_what_is_not_scheduled_is_an_error(provider: ServiceBusProvider, queue: str) -> None:
    [number] = provider.schedule_messages(queue, messages("a"), now() + LATER)
    send(provider, queue, "active", session_id="s2")
    [active] = provider.peek_messages(queue, "s2")
    provider.cancel_scheduled_messages(queue, [number])
    for wrong in (number, active.sequence_number, 999):
        with pytest.raises(ProviderError) as caught:
            provider.cancel_scheduled_messages(queue, [wrong])
        assert caught.value.code == "MessageNotFound"
    assert left(provider, queue, "s2") == ["active"]


def test_wrong_arguments_are_refused(provider: ServiceBusProvider, queue: str) -> None:
    for call in (
        lambda: provider.schedule_messages(queue, messages("a"), datetime(2100, 1, 1)),
        lambda: provider.schedule_messages(queue, messages("a"), 5),  # type: ignore[arg-type]
        lambda: provider.schedule_messages(queue, [Message("a")], now()),
        lambda: provider.cancel_scheduled_messages(queue, [0]),
        lambda: provider.cancel_scheduled_messages(queue, ["1"]),  # type: ignore[list-item]
        lambda: provider.cancel_scheduled_messages(queue, 5),  # type: ignore[arg-type]
        lambda: provider.purge(queue, 5),  # type: ignore[arg-type]
        lambda: provider.purge("a b"),
    ):
        with pytest.raises(ValidationError):
            call()
    assert provider.list_sessions(queue) == []


# Purging


def fill(provider: ServiceBusProvider, queue: str, session_id: str) -> None:
    """Put an active, a deferred, a scheduled and a dead message into a session, and a state."""
    send(provider, queue, "dead", "deferred", "active", session_id=session_id)
    with provider.create_session_client(queue, session_id) as session:
        session.dead_letter_message(take(session), "bad")
        session.defer_message(take(session))
        session.set_session_state(b"state")
    provider.schedule_messages(queue, messages("scheduled", session_id=session_id), now() + LATER)


@pytest.mark.parametrize("session_id", ["s1", ""])
def test_purging_a_session_deletes_its_messages_only(provider: ServiceBusProvider, queue: str, session_id: str) -> None:
    fill(provider, queue, session_id)
    send(provider, queue, "other", session_id="s2")
    assert provider.purge(queue, session_id) == 3
    assert left(provider, queue, session_id) == []
    assert left(provider, queue, "s2") == ["other"]
    assert [message.text() for message in provider.dead_letters(queue)] == ["dead"]
    with provider.create_session_client(queue, session_id) as session:
        assert session.receive_message(timeout=0) is None
        assert session.get_session_state() == b"state"
    assert provider.purge(queue, session_id) == 0
    assert provider.purge(queue, "no such session") == 0


def test_purging_a_queue_deletes_the_messages_of_all_sessions(provider: ServiceBusProvider, queue: str) -> None:
    for name in ("s1", "", "s3"):
        fill(provider, queue, name)
    provider.schedule_messages(queue, messages("x", session_id="only scheduled"), now() + LATER)
    assert provider.purge(queue) == 10
    for name in ("s1", "", "s3", "only scheduled"):
        assert left(provider, queue, name) == []
    assert len(provider.dead_letters(queue)) == 3
    assert provider.purge(queue) == 0
    send(provider, queue, "new")
    with provider.create_session_client(queue, accept_timeout=10) as session:
        assert take(session).text() == "new"


def test_a_session_that_is_held_is_not_purged(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b", session_id="held")
    send(provider, queue, "c", session_id="free")
    for name in ("held", "free"):
        provider.schedule_messages(queue, messages("later", session_id=name), now() + LATER)
    with provider.create_session_client(queue, "held") as session:
        message = take(session)
        with pytest.raises(SessionLockedError):
            provider.purge(queue, "held")
        assert provider.purge(queue) == 2
        session.complete_message(message)
        assert left(provider, queue, "held") == ["b", "later"]
    eventually(lambda: provider.purge(queue, "held") == 2)


def test_a_large_session_is_purged(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, messages(*map(str, range(1300))))
    assert provider.purge(queue) == 1300
    assert left(provider, queue) == []


def test_an_unknown_queue_is_reported(provider: ServiceBusProvider) -> None:
    for call in (
        lambda: provider.purge("nowhere"),
        lambda: provider.purge("nowhere", "s"),
        lambda: provider.schedule_messages("nowhere", messages("a"), now()),
        lambda: provider.cancel_scheduled_messages("nowhere", [1]),
    ):
        with pytest.raises(QueueNotFoundError):
            call()
