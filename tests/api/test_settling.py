"""Settling messages, and the receipts with which they are settled."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from azsession import (
    InvalidReceiptError,
    ProviderError,
    ReceiptHandle,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
)

from .conftest import Arrangement, left, number_of, send, take, take_many

Settle = Callable[[SessionClient, ReceivedMessage], None]

#: The settlements.
WAYS: dict[str, Settle] = {
    "complete": lambda session, message: session.complete_message(message),
    "complete many": lambda session, message: session.complete_messages([message]),
    "abandon": lambda session, message: session.abandon_message(message),
    "defer": lambda session, message: session.defer_message(message),
    "dead-letter": lambda session, message: session.dead_letter_message(message, "bad"),
}
every_way = pytest.mark.parametrize("settle", WAYS.values(), ids=WAYS)

UNKNOWN = "6b2d11f2-0ab2-4b2e-9f7a-1f6f2f0e9d3c"


# Settlements


def test_a_completed_message_is_gone(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "0", "1")
    with provider.create_session_client(queue, "s1") as session:
        session.complete_message(take(session))
    assert left(provider, queue) == ["1"]
    assert provider.dead_letters(queue) == []


def test_an_abandoned_message_comes_back_first(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *"abc")
    for count in (1, 2, 3):
        message = take(session)
        assert (message.text(), message.delivery_count) == ("a", count)
        session.abandon_message(message)
    messages = take_many(session, 3)
    assert [message.text() for message in messages] == ["a", "b", "c"]
    assert [message.delivery_count for message in messages] == [4, 1, 1]


def test_messages_that_were_abandoned_in_reverse_come_again_in_order(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abc")
    for message in reversed(take_many(session, 3)):
        session.abandon_message(message)
    assert [message.text() for message in take_many(session, 3)] == ["a", "b", "c"]


def test_prefetched_messages_do_not_overtake_an_abandoned_message(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abcdef")
    seen = []
    for message in session.messages(timeout=0.1, prefetch=4):
        seen.append(message.text())
        if seen.count(message.text()) == 1 and message.text() in "be":
            session.abandon_message(message)
        else:
            session.complete_message(message)
    assert seen == [*"abbcdeef"]


def test_a_message_that_fails_too_often_is_dead_lettered(arrangement: Arrangement, provider: ServiceBusProvider) -> None:
    queue = arrangement.queue(max_delivery_count=3)
    send(provider, queue, "poison", "fine")
    with provider.create_session_client(queue, "s1") as session:
        for count in (1, 2, 3):
            message = take(session)
            assert (message.text(), message.delivery_count) == ("poison", count)
            session.abandon_message(message)
        assert take(session).text() == "fine"
    (letter,) = provider.dead_letters(queue)
    assert (letter.text(), letter.dead_letter_reason) == ("poison", "MaxDeliveryCountExceeded")


def test_a_dead_lettered_message_keeps_its_reason_and_description(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "a", "b")
    first, second = take_many(session, 2)
    session.dead_letter_message(first, "größer als erlaubt", "see “the manual”")
    session.dead_letter_message(second, "bad")
    letters = provider.dead_letters(queue)
    assert [(letter.text(), letter.dead_letter_reason, letter.dead_letter_description) for letter in letters] == [
        ("a", "größer als erlaubt", "see “the manual”"),
        ("b", "bad", None),
    ]
    assert left(provider, queue) == []


def test_a_deferred_message_is_received_only_by_its_sequence_number(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abc")
    messages = take_many(session, 3)
    numbers = [number_of(message) for message in messages]
    for message in messages[:2]:
        session.defer_message(message)
    session.complete_message(messages[2])
    assert session.receive_message(timeout=0) is None
    again = session.receive_deferred_messages(numbers[:2])
    assert [(message.text(), message.sequence_number) for message in again] == [("a", numbers[0]), ("b", numbers[1])]
    session.complete_message(again[0])
    session.dead_letter_message(again[1], "bad")
    assert left(provider, queue) == []
    assert [letter.text() for letter in provider.dead_letters(queue)] == ["b"]


def test_a_deferred_message_stays_deferred_for_the_next_holder(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        message = take(session)
        session.defer_message(message)
    with provider.create_session_client(queue, "s1") as session:
        assert session.receive_message(timeout=0) is None
        (again,) = session.receive_deferred_messages([number_of(message)])
        session.abandon_message(again)
        (again,) = session.receive_deferred_messages([number_of(message)])
        session.complete_message(again)
    assert left(provider, queue) == []


def test_a_message_that_is_not_deferred_is_not_found_by_its_sequence_number(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "a", "b")
    first, second = take_many(session, 2)
    session.defer_message(first)
    for numbers in ([number_of(second)], [number_of(second) + 1000], [number_of(first), number_of(second)]):
        with pytest.raises(ProviderError) as caught:
            session.receive_deferred_messages(numbers)
        assert caught.value.code == "MessageNotFound"
    # The call is all or nothing: the first message is still deferred.
    assert [message.text() for message in session.receive_deferred_messages([number_of(first)])] == ["a"]


def test_many_messages_are_completed_at_once(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, *map(str, range(50)))
    messages = take_many(session, 50)
    session.complete_messages([*messages[:20], *(message.receipt for message in messages[20:40])])
    session.complete_messages([])
    session.complete_messages(str(message.receipt) for message in messages[40:49])
    assert left(provider, queue) == ["49"]


def test_dead_lettering_a_session_moves_and_counts_all_its_messages(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abcde")
    send(provider, queue, "other", session_id="s2")
    first, second = take_many(session, 2)
    session.complete_message(first)
    session.defer_message(second)
    received = take(session)
    assert session.dead_letter_session("poison", "more") == 4
    letters = provider.dead_letters(queue)
    assert sorted(letter.text() for letter in letters) == ["b", "c", "d", "e"]
    assert {(letter.session_id, letter.dead_letter_reason, letter.dead_letter_description) for letter in letters} == {
        ("s1", "poison", "more")
    }
    assert left(provider, queue) == []
    assert left(provider, queue, "s2") == ["other"]
    with pytest.raises(InvalidReceiptError):
        session.complete_message(received)
    assert session.dead_letter_session("poison") == 0


# Receipts


def test_a_message_its_receipt_and_the_receipts_text_settle(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abcd")
    session.complete_message(take(session))
    session.complete_message(take(session).receipt)
    session.complete_message(str(take(session).receipt))
    session.complete_message(pickle.loads(pickle.dumps(take(session).receipt)))
    assert left(provider, queue) == []


@every_way
def test_a_message_cannot_be_settled_twice(
    provider: ServiceBusProvider, queue: str, session: SessionClient, settle: Settle
) -> None:
    send(provider, queue, "a")
    message = take(session)
    settle(session, message)
    for again in WAYS.values():
        with pytest.raises(InvalidReceiptError):
            again(session, message)


@every_way
def test_a_message_that_was_not_received_here_cannot_be_settled(session: SessionClient, settle: Settle) -> None:
    receipts: list[Any] = [
        ReceiptHandle(UNKNOWN),
        str(ReceiptHandle(UNKNOWN, queue_name=session.queue_name, session_id="s1")),
        "azs1.damaged",
        "no receipt",
        "",
        None,
    ]
    for receipt in receipts:
        with pytest.raises(InvalidReceiptError):
            settle(session, receipt)


def test_a_receipt_of_another_session_is_refused(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, "a")
    send(provider, queue, "b", session_id="s2")
    take(session)
    with provider.create_session_client(queue, "s2") as other, pytest.raises(InvalidReceiptError):
        session.complete_message(take(other))


def test_completing_many_messages_completes_the_valid_ones(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, *"abc")
    messages = take_many(session, 3)
    # This client does not know that its receipt was used.
    provider.session_from_receipt(messages[1].receipt).dead_letter_message(messages[1], "bad")
    with pytest.raises(InvalidReceiptError, match="1 of 3"):
        session.complete_messages(messages)
    assert left(provider, queue) == []
    assert [letter.text() for letter in provider.dead_letters(queue)] == ["b"]


@every_way
def test_another_provider_settles_with_the_receipts_text(
    provider: ServiceBusProvider, queue: str, session: SessionClient, settle: Settle
) -> None:
    send(provider, queue, "a", "b")
    message = take(session)
    elsewhere = provider.session_from_receipt(str(message.receipt))
    assert (elsewhere.session_id, elsewhere.queue_name) == ("s1", queue)
    settle(elsewhere, message)
    elsewhere.close_session()
    # The holder still has the lock, and the message is settled.
    session.renew_session_lock()
    expected = {"complete": ["b"], "complete many": ["b"], "dead-letter": ["b"]}
    way = next(name for name in WAYS if WAYS[name] is settle)
    assert left(provider, queue) == expected.get(way, ["a", "b"])
    assert take(session).text() == ("a" if way == "abandon" else "b")


def test_repeating_the_settlement_of_another_provider_succeeds(
    provider: ServiceBusProvider, queue: str, session: SessionClient
) -> None:
    send(provider, queue, "a", "b")
    completed, dead = take_many(session, 2)
    provider.session_from_receipt(completed.receipt).complete_message(completed.receipt)
    session.complete_message(completed)
    provider.session_from_receipt(dead.receipt).dead_letter_message(dead.receipt, "bad")
    session.dead_letter_message(dead, "bad")
    assert len(provider.dead_letters(queue)) == 1


def test_a_settlement_that_differs_from_another_providers_is_refused(provider: ServiceBusProvider, queue: str) -> None:
    pairs = list(itertools.permutations((way for way in WAYS if way != "complete many"), 2))
    # One session for each settlement, so that an abandoned message does not come again.
    for number, (first, second) in enumerate(pairs):
        send(provider, queue, "a", session_id=f"s{number}")
        with provider.create_session_client(queue, f"s{number}") as session:
            message = take(session)
            WAYS[first](provider.session_from_receipt(message.receipt), message)
            with pytest.raises(InvalidReceiptError):
                WAYS[second](session, message)
            assert not session.is_lock_lost
            session.renew_session_lock()


def test_a_receipt_is_invalid_after_its_session_is_closed(provider: ServiceBusProvider, queue: str) -> None:
    send(provider, queue, "a")
    with provider.create_session_client(queue, "s1") as session:
        receipt = str(take(session).receipt)
    with pytest.raises(InvalidReceiptError):
        provider.session_from_receipt(receipt).complete_message(receipt)
    assert left(provider, queue) == ["a"]


def test_a_forged_receipt_settles_nothing(provider: ServiceBusProvider, queue: str, session: SessionClient) -> None:
    send(provider, queue, "a")
    take(session)
    forged = str(ReceiptHandle(UNKNOWN, queue_name=queue, session_id="s1"))
    with pytest.raises(InvalidReceiptError):
        provider.session_from_receipt(forged).complete_message(forged)
    assert left(provider, queue) == ["a"]
    session.renew_session_lock()


def test_text_that_is_not_a_receipt_is_refused(provider: ServiceBusProvider) -> None:
    texts: list[Any] = ["", "azs1.", "azs1.damaged", "azs9.WyJxIl0", "nothing", None, 7]
    for text in texts:
        with pytest.raises(InvalidReceiptError):
            provider.session_from_receipt(text)
