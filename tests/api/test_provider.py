"""`ServiceBusProvider`: making one, peeking, dead letters, wrong arguments, closing, and many sessions at once."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from azsession import (
    AuthenticationFailedError,
    ConfigurationError,
    Message,
    NoSessionAvailableError,
    ProviderError,
    QueueError,
    QueueNotFoundError,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
    ValidationError,
)

from .conftest import REACHABLE, Arrangement, left, number_of, send, take, take_many

reachable = pytest.mark.parametrize("arrangement", REACHABLE, indirect=True, ids=lambda kind: kind.name)

#: The name of no queue. A request about it fails with another error than a wrong argument.
NOWHERE = "nowhere"


# Making a provider


@reachable
def test_a_provider_is_made_from_the_environment(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", arrangement.connection_string)
    with ServiceBusProvider.from_env(session_timeout=20) as other:
        assert other.config.session_timeout == 20
        send(other, queue, "a")
    assert left(provider, queue) == ["a"]


@reachable
def test_a_wrong_key_is_refused(arrangement: Arrangement, queue: str) -> None:
    start, name, rest = arrangement.connection_string.partition("SharedAccessKey=")
    wrong = start + name + "d3Jvbmc=" + rest[len(rest.partition(";")[0]) :]
    with ServiceBusProvider.from_connection_string(wrong) as other:
        for call in _calls_about(other, queue):
            with pytest.raises(AuthenticationFailedError):
                call()


# Peeking and listing


def test_peeking_does_not_receive_messages(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *"abcd")
    received, deferred = take_many(session, 2)
    session.defer_message(deferred)
    for _ in range(2):
        peeked = provider.peek_messages(queue, "s1")
        assert [(message.text(), message.state) for message in peeked] == [
            ("a", "Active"),
            ("b", "Deferred"),
            ("c", "Active"),
            ("d", "Active"),
        ]
    assert [message.sequence_number for message in peeked[:2]] == [received.sequence_number, deferred.sequence_number]
    assert take(session).text() == "c"


def test_peeking_respects_its_start_and_its_count(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, *map(str, range(12)))
    everything = provider.peek_messages(queue, "s1", 1000)
    assert [message.text() for message in everything] == [str(n) for n in range(12)]
    assert [message.text() for message in provider.peek_messages(queue, "s1")] == [str(n) for n in range(10)]
    number = everything[4].sequence_number
    assert number is not None
    some = provider.peek_messages(queue, "s1", max_message_count=3, from_sequence_number=number)
    assert some == everything[4:7]
    last = everything[-1].sequence_number
    assert last is not None
    assert provider.peek_messages(queue, "s1", from_sequence_number=last + 1) == []
    assert provider.peek_messages(queue, "s2") == []


def test_sessions_with_messages_are_listed_by_id(provider: ServiceBusProvider, queue: str) -> None:
    assert provider.list_sessions(queue) == []
    for session_id in ("b", "a/b", "é", "C"):
        send(provider, queue, "0", "1", session_id=session_id)
    assert [info.session_id for info in provider.list_sessions(queue)] == ["C", "a/b", "b", "é"]
    with provider.create_session_client(queue, "b") as session:
        session.complete_messages(take_many(session, 2))
    assert [info.session_id for info in provider.list_sessions(queue)] == ["C", "a/b", "é"]


# Dead letters


def test_dead_letters_of_all_sessions_are_listed(provider: ServiceBusProvider, queue: str) -> None:
    properties: dict[str, Any] = {"subject": "invoice", "attributes": {"tries": 3, "last": True}}
    for session_id in "ab":
        provider.send_message(queue, Message(f"of {session_id}", session_id=session_id, **properties))
        with provider.create_session_client(queue, session_id) as session:
            session.dead_letter_message(take(session), "bad", "very")
    letters = provider.dead_letters(queue)
    assert [(letter.session_id, letter.text(), letter.state) for letter in letters] == [
        ("a", "of a", "DeadLettered"),
        ("b", "of b", "DeadLettered"),
    ]
    assert {(letter.subject, letter.dead_letter_reason, letter.dead_letter_description) for letter in letters} == {
        ("invoice", "bad", "very")
    }
    assert all(letter.attributes == {"tries": 3, "last": True} for letter in letters)
    first, second = (letter.sequence_number for letter in letters)
    assert first is not None
    assert second is not None
    assert provider.dead_letters(queue, max_message_count=1) == letters[:1]
    assert provider.dead_letters(queue, from_sequence_number=first + 1) == letters[1:]
    assert provider.dead_letters(queue, from_sequence_number=second + 1) == []


def test_a_resubmitted_message_is_the_last_of_its_session(provider: ServiceBusProvider, queue: str) -> None:
    sent = Message("a", session_id="s1", message_id="m1", subject="invoice", attributes={"tries": 3})
    provider.send_message(queue, sent)
    with provider.create_session_client(queue, "s1") as session:
        session.dead_letter_message(take(session), "bad")
    send(provider, queue, "b")
    (letter,) = provider.dead_letters(queue)
    provider.resubmit(queue, letter.sequence_number or 0)
    assert provider.dead_letters(queue) == []
    with provider.create_session_client(queue, "s1") as session:
        messages = take_many(session, 2)
        assert [message.text() for message in messages] == ["b", "a"]
        assert number_of(messages[1]) > number_of(messages[0])
        again = messages[1]
        assert (again.subject, again.attributes, again.delivery_count) == ("invoice", {"tries": 3}, 1)
        assert (again.dead_letter_reason, again.dead_letter_description) == (None, None)


def test_a_dead_letter_is_deleted(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *"abc")
    for message in take_many(session, 3):
        session.dead_letter_message(message, "bad")
    letters = provider.dead_letters(queue)
    provider.delete_dead_letter(queue, letters[1].sequence_number or 0)
    assert provider.dead_letters(queue) == [letters[0], letters[2]]
    assert left(provider, queue) == []


def test_an_unknown_dead_letter_is_not_found(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, "a", "b")
    first, alive = take_many(session, 2)
    session.dead_letter_message(first, "bad")
    for call in (provider.resubmit, provider.delete_dead_letter):
        for number in (number_of(alive), 2**39):
            with pytest.raises(ProviderError) as caught:
                call(queue, number)
            assert caught.value.code == "MessageNotFound"
    assert len(provider.dead_letters(queue)) == 1


# Refusals


def _calls_about(provider: ServiceBusProvider, queue: str) -> list[Callable[[], object]]:
    return [
        lambda: provider.send_message(queue, Message(b"x", session_id="s1")),
        lambda: provider.send_messages(queue, [Message(b"x", session_id="s1")]),
        lambda: provider.create_session_client(queue, accept_timeout=0),
        lambda: provider.create_session_client(queue, "s1").receive_message(timeout=0),
        lambda: provider.create_session_client(queue, "s1").get_session_state(),
        lambda: provider.list_sessions(queue),
        lambda: provider.peek_messages(queue, "s1"),
        lambda: provider.dead_letters(queue),
        lambda: provider.resubmit(queue, 1),
        lambda: provider.delete_dead_letter(queue, 1),
    ]


def test_an_unknown_queue_is_not_found(provider: ServiceBusProvider) -> None:
    for call in _calls_about(provider, NOWHERE):
        with pytest.raises(QueueNotFoundError) as caught:
            call()
        assert not caught.value.is_transient


def _wrong_calls(provider: ServiceBusProvider) -> list[Callable[[], object]]:
    client = provider.create_session_client
    named: Any = client(NOWHERE, "s1")
    anything: Any = provider
    wrong: list[Callable[[], object]] = [
        lambda: anything.send_message(NOWHERE, b"no Message"),
        lambda: provider.send_message(NOWHERE, Message(b"without a session")),
        lambda: provider.send_messages(NOWHERE, [Message(b"x", session_id="s1"), Message(b"without")]),
        lambda: client(NOWHERE, accept_timeout=-1),
        lambda: client(NOWHERE, "s1", session_timeout=0),
        lambda: client(NOWHERE, "s1", max_renewal=-1),
        lambda: named.receive_message(timeout=-1),
        lambda: named.receive_message(timeout="5"),
        lambda: named.receive_messages(0),
        lambda: named.receive_messages(1001),
        lambda: named.messages(prefetch=0),
        lambda: named.messages(timeout=float("nan")),
        lambda: named.receive_deferred_messages([]),
        lambda: named.receive_deferred_messages([0]),
        lambda: named.dead_letter_session(5),
        lambda: named.dead_letter_session("x" * 4097),
        lambda: named.dead_letter_message("receipt", None),
        lambda: named.dead_letter_message("receipt", "why", "x" * 4097),
        lambda: named.set_session_state(5),
        lambda: named.set_session_state("\ud800"),
        lambda: provider.peek_messages(NOWHERE, "s1", max_message_count=0),
        lambda: provider.peek_messages(NOWHERE, "s1", from_sequence_number=-1),
        lambda: provider.dead_letters(NOWHERE, max_message_count=1001),
        lambda: provider.dead_letters(NOWHERE, from_sequence_number=-1),
        lambda: provider.resubmit(NOWHERE, 0),
        lambda: provider.delete_dead_letter(NOWHERE, -1),
    ]
    for session_id in ("s" * 129, "\ud800", 5):
        wrong.append(lambda session_id=session_id: client(NOWHERE, session_id))  # type: ignore[misc]
        wrong.append(lambda session_id=session_id: provider.peek_messages(NOWHERE, session_id))  # type: ignore[misc]
    for queue in ("", "a b", "a//b", "a/../b", "a/subscriptions/", "../a", "q" * 261, "größe", None):
        wrong += [lambda call=call: call() for call in _calls_about(provider, queue)]  # type: ignore[arg-type, misc]
    return wrong


def test_wrong_arguments_are_refused_before_a_request_is_made(provider: ServiceBusProvider) -> None:
    for call in _wrong_calls(provider):
        with pytest.raises(ValidationError) as caught:
            call()
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, QueueError)


@pytest.mark.parametrize(
    "fields",
    [
        {"body": 5},
        {"session_id": "s" * 129},
        {"message_id": "m" * 129},
        {"correlation_id": 5},
        {"time_to_live": 0},
        {"time_to_live": timedelta(seconds=-1)},
        {"scheduled_enqueue_time": datetime(2100, 1, 1)},
        {"scheduled_enqueue_time": "tomorrow"},
        {"attributes": {"a": [1]}},
        {"attributes": {"a": datetime(2100, 1, 1)}},
        {"attributes": {"": "no name"}},
        {"attributes": {"a": 2**64}},
        {"attributes": {"a": float("inf")}},
    ],
    ids=str,
)
def test_a_message_with_wrong_fields_is_refused_when_it_is_created(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Message(**{"body": b"x", "session_id": "s1", **fields})


# Closing


def test_a_closed_provider_refuses_every_call(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0")
    session = provider.create_session_client(queue, "s1")
    message = take(session)
    provider.close()
    provider.close()
    assert session.closed
    with pytest.raises(SessionNotFoundError):
        session.complete_message(message)
    for call in (*_calls_about(provider, queue), lambda: provider.session_from_receipt(message.receipt)):
        with pytest.raises(ConfigurationError, match="closed"):
            call()
    assert "closed" in repr(provider)


def test_closing_a_provider_releases_its_sessions(arrangement: Arrangement, provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a", "b")
    with provider:
        session = provider.create_session_client(queue, "s1")
        session.complete_message(take(session))
        assert take(session).text() == "b"
    assert session.closed
    with arrangement.provider().create_session_client(queue, "s1") as other:
        assert take(other).text() == "b"


def test_closing_a_provider_ends_waiting_calls(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0")
    session = provider.create_session_client(queue, "s1")
    take(session)
    waits: dict[str, Callable[[], object]] = {
        "receive": lambda: session.receive_message(timeout=300),
        "next session": lambda: provider.create_session_client(queue, accept_timeout=300),
    }
    ended: dict[str, type[BaseException]] = {}

    def wait(name: str) -> None:
        try:
            waits[name]()
        except QueueError as error:
            ended[name] = type(error)

    threads = [threading.Thread(target=wait, args=(name,), daemon=True) for name in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.2)
        assert thread.is_alive()
    provider.close()
    for thread in threads:
        thread.join(20)
    assert ended == {"receive": SessionNotFoundError, "next session": ConfigurationError}


# Many sessions


def test_several_threads_handle_webhooks_with_each_session_in_order(
    provider: ServiceBusProvider, queue: str, webhooks: list[dict[str, Any]]
) -> None:
    sent: dict[str, list[int]] = defaultdict(list)
    for event in webhooks:
        sent[event["session_id"]].append(event["position"])
    messages = [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks]
    provider.send_messages(queue, messages[:200])

    taken: list[tuple[str, int]] = []
    counts: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while len(taken) < len(messages):
                try:
                    session = provider.create_session_client(queue, accept_timeout=0.3)
                except NoSessionAvailableError:
                    continue
                with session:
                    for message in session.messages(timeout=0, prefetch=5):
                        counts.append(message.delivery_count)
                        taken.append((session.session_id, message.json()["position"]))
                        session.complete_message(message)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    provider.send_messages(queue, messages[200:])
    for thread in threads:
        thread.join()
    assert errors == []
    got: dict[str, list[int]] = defaultdict(list)
    for session_id, position in taken:
        got[session_id].append(position)
    assert got == sent
    assert set(counts) == {1}
    assert provider.list_sessions(queue) == []
