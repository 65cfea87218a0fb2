"""Links that are detached, and connections that are dropped: the lock is taken again, and no message is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from azsession import (
    QueueError,
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, broker_on, completed, held_again, in_thread, send, texts, waits_in
from .conftest import LOSSES


def test_unsettled_messages_are_completed_after_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c", "d")
    unsettled = holder.take(2)
    lose_link(namespace)
    assert holder.complete(*unsettled) == [None, None]
    rest = holder.take(2)
    assert texts(rest) == ["c", "d"]
    assert [message.delivery_count for message in rest] == [1, 1]
    assert holder.complete(*rest) == [None, None]
    assert completed(namespace) == ["a", "b", "c", "d"]
    assert namespace.counts(QUEUE).active == 0


def test_a_link_that_is_lost_many_times_loses_no_message(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    bodies = [f"m{number:02}" for number in range(30)]
    send(broker, *bodies)
    for number, expected in enumerate(bodies):
        (message,) = holder.take()
        assert message.text() == expected
        list(LOSSES.values())[number % 3](namespace)
        assert holder.complete(message) == [None]
    assert completed(namespace) == bodies


def test_an_abandoned_message_comes_first_after_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c", "d", "e")
    a, b, c, d = holder.take(4)
    assert holder.settle(a, c, how=Disposition.ABANDON) == [None, None]
    lose_link(namespace)
    assert holder.complete(b, d) == [None, None]
    rest = holder.take(3)
    assert [(message.text(), message.delivery_count) for message in rest] == [("a", 2), ("c", 2), ("e", 1)]
    assert holder.complete(*rest) == [None] * 3


def test_a_settlement_whose_answer_was_lost_with_the_connection_is_done_once(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    a, b = holder.take(2)
    namespace.swallow("disposition")
    settled = in_thread(lambda: holder.complete(a))
    eventually(lambda: completed(namespace) == ["a"])
    lose_link(namespace)
    assert settled.result(10) == [None]
    assert holder.complete(a) == [None]
    assert holder.complete(b) == [None]
    assert completed(namespace) == ["a", "b"]


@pytest.mark.parametrize("how", [Disposition.ABANDON, Disposition.DEFER, Disposition.DEAD_LETTER])
def test_other_settlements_whose_answer_was_lost_are_done_once(
    namespace: Namespace, broker: AzureBroker, how: Disposition
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    a, b = holder.take(2)
    before = namespace.counts(QUEUE)
    namespace.swallow("disposition")
    settled = in_thread(lambda: holder.settle(a, how=how))
    eventually(lambda: namespace.counts(QUEUE).locked < before.locked)
    namespace.drop_connections()
    assert settled.result(10) == [None]
    if how is Disposition.ABANDON:
        (again,) = holder.take()
        assert (again.text(), again.delivery_count) == ("a", 2)
        assert holder.complete(again) == [None]
    assert holder.complete(b) == [None]
    counts = namespace.counts(QUEUE)
    assert (counts.deferred, counts.dead_letter) == (int(how is Disposition.DEFER), int(how is Disposition.DEAD_LETTER))


def test_a_settlement_that_never_arrived_is_sent_again(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    a, b = holder.take(2)
    namespace.refuse("attach", "com.microsoft:server-busy", 3)
    namespace.detach_links(QUEUE)
    assert holder.complete(a) == [None]
    assert holder.complete(b) == [None]
    assert completed(namespace) == ["a", "b"]


def test_a_waiting_receive_gets_a_message_that_is_sent_after_its_link_was_lost(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    waiting = in_thread(holder.receive)
    eventually(lambda: waits_in(holder) and "s1" in namespace.locked_sessions(QUEUE))
    lose_link(namespace)
    held_again(namespace, holder)
    with broker_on(namespace) as sender:
        send(sender, "a")
    (message,) = waiting.result(10)
    assert holder.complete(message) == [None]


def test_messages_that_were_not_handed_out_come_once_and_in_order_after_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    messages = holder.take()
    for _ in range(2):
        lose_link(namespace)
        messages += holder.take()
    assert texts(messages) == ["a", "b", "c"]
    assert holder.complete(*messages) == [None] * 3


def test_a_lock_is_renewed_for_a_waiting_receive_after_it_was_taken_again(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=3.0)
    holder = Holder(broker)
    waiting = in_thread(lambda: holder.receive(timeout=5.0))
    eventually(lambda: waits_in(holder) and "s1" in namespace.locked_sessions(QUEUE))
    namespace.detach_links(QUEUE)
    assert waiting.result(20) == []
    assert holder.renew() > 0


@pytest.mark.parametrize("refusal", ["com.microsoft:session-cannot-be-locked", "com.microsoft:server-busy"])
def test_the_lock_is_taken_again_after_azure_refused_it_for_some_time(
    namespace: Namespace, broker: AzureBroker, refusal: str
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    (message,) = holder.take()
    namespace.refuse("attach", refusal, 2)
    namespace.detach_links(QUEUE)
    assert holder.complete(message) == [None]


def test_a_link_that_is_lost_while_it_attaches_is_attached_again(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    a, b = holder.take(2)
    namespace.delay(0.05)
    for number in range(8):
        list(LOSSES.values())[number % 3](namespace)
        eventually(namespace.links)
    namespace.delay(0)
    assert holder.complete(a, b) == [None, None]
    assert completed(namespace) == ["a", "b"]


def test_requests_about_the_session_wait_for_its_link(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    holder.receive(timeout=0)
    broker.set_state(*holder.whose, b"1").result()
    lose_link(namespace)
    assert holder.renew() > 4
    lose_link(namespace)
    assert broker.get_state(*holder.whose).result() == b"1"
    lose_link(namespace)
    broker.set_state(*holder.whose, b"2").result()
    assert broker.get_state(*holder.whose).result() == b"2"


@pytest.mark.parametrize("operation", ["renew-session-lock", "get-session-state", "set-session-state"])
def test_a_request_whose_answer_was_lost_with_the_connection_is_sent_again(
    namespace: Namespace, broker: AzureBroker, operation: str
) -> None:
    holder = Holder(broker)
    holder.receive(timeout=0)
    broker.set_state(*holder.whose, b"1").result()
    calls: dict[str, Callable[[], object]] = {
        "renew-session-lock": holder.renew,
        "get-session-state": lambda: broker.get_state(*holder.whose).result(),
        "set-session-state": lambda: broker.set_state(*holder.whose, b"2").result(),
    }
    namespace.swallow(operation)
    before = namespace.log[operation]
    asked = in_thread(calls[operation])
    eventually(lambda: namespace.log[operation] > before)
    namespace.drop_connections()
    asked.result(10)
    assert broker.get_state(*holder.whose).result() == (b"2" if operation == "set-session-state" else b"1")


def test_deferred_messages_are_settled_after_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    messages = holder.take(3)
    holder.settle(*messages, how=Disposition.DEFER)
    numbers = [message.sequence_number or 0 for message in messages]
    a, b = broker.receive_deferred(*holder.whose, numbers[:2]).result()
    lose_link(namespace)
    assert holder.complete(a) == [None]
    assert holder.settle(b, how=Disposition.DEAD_LETTER) == [None]
    (c,) = broker.receive_deferred(*holder.whose, numbers[2:]).result()
    assert holder.complete(c) == [None]
    counts = namespace.counts(QUEUE)
    assert (counts.active, counts.deferred, counts.dead_letter) == (0, 0, 1)


@pytest.mark.parametrize("how", [Disposition.COMPLETE, Disposition.ABANDON])
def test_a_deferred_message_whose_settlement_was_not_answered_is_settled_once(
    namespace: Namespace, broker: AzureBroker, how: Disposition
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    holder.settle(*messages, how=Disposition.DEFER)
    number = messages[0].sequence_number or 0
    (message,) = broker.receive_deferred(*holder.whose, [number]).result()
    namespace.swallow("update-disposition")
    settled = in_thread(lambda: holder.settle(message, how=how))
    eventually(lambda: namespace.log["update-disposition"])
    namespace.drop_connections()
    assert settled.result(10) == [None]
    if how is Disposition.ABANDON:
        (again,) = broker.receive_deferred(*holder.whose, [number]).result()
        assert again.delivery_count == message.delivery_count + 1
        assert holder.complete(again) == [None]
    assert completed(namespace) == ["a"]


def test_two_hundred_sessions_are_locked_again(
    namespace: Namespace, broker: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holders = [Holder(broker, f"session-{number}") for number in range(200)]
    messages = []
    for holder in holders:
        send(broker, "a", "b", session_id=holder.session_id)
        messages.append(holder.take()[0])
    lose_link(namespace)
    for holder, message in zip(holders, messages, strict=True):
        assert holder.complete(message) == [None]
        assert texts(holder.take()) == ["b"]
    assert len(namespace.completed(QUEUE)) == 200
    # The broker may have locked a session of its own, to learn how long locks last.
    assert {holder.session_id for holder in holders} <= namespace.locked_sessions(QUEUE)


def test_a_session_is_released_while_its_link_is_lost(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker, lose_link: Callable[[Namespace], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    lose_link(namespace)
    holder.release()
    (again,) = Holder(other).take()
    assert (again.text(), again.delivery_count) == ("a", 1)
    with pytest.raises(SessionNotFoundError):
        holder.receive(timeout=0)
    assert holder.complete(a) == ["SessionLockLost"]


def test_disabling_an_entity_ends_its_locks(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    waiting = in_thread(holder.receive)
    eventually(lambda: waits_in(holder) and "s1" in namespace.locked_sessions(QUEUE))
    namespace.disable(QUEUE)
    with pytest.raises(QueueError) as caught:
        waiting.result(10)
    assert caught.value.code == "EntityDisabled"
    with pytest.raises(SessionNotFoundError):
        holder.receive(timeout=0)


def test_a_session_goes_on_after_its_token_expired(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,) = holder.take()
    namespace.expire_tokens()
    assert holder.complete(a) == [None]
    assert texts(holder.take()) == ["b"]


def test_calls_from_many_threads_in_one_session_survive_lost_links(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    bodies = [f"m{number:03}" for number in range(120)]
    send(broker, *bodies)
    seen: list[str] = []
    ended = threading.Event()

    def consume() -> None:
        while len(seen) < len(bodies):
            messages = holder.receive(5, timeout=0.2)
            seen.extend(texts(messages))
            if messages:
                assert holder.complete(*messages) == [None] * len(messages)

    def trouble() -> None:
        while not ended.wait(0.02):
            before = len(completed(namespace))
            namespace.detach_links(QUEUE)
            # On a busy machine, links that live for a short time only would never be of use.
            eventually(lambda before=before: ended.is_set() or len(completed(namespace)) > before, seconds=30)  # type: ignore[misc]

    making = in_thread(trouble)
    consuming = [in_thread(consume) for _ in range(4)]
    try:
        for one in consuming:
            one.result(30)
    finally:
        ended.set()
        making.result(10)
    assert sorted(seen) == bodies
    assert sorted(completed(namespace)) == bodies
