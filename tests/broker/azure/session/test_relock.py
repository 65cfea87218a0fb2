"""Links that are detached and connections that are dropped under holders of sessions: the lock is taken again where nobody
else had it, what is in hand stays in hand, and else the holder is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from azsession import ConnectionFailedError, QueueError, SessionLockedError, SessionNotFoundError
from azsession.broker.azure import AzureBroker
from azsession.broker.azure.session import relock
from azsession.broker.base import Disposition, Settlement

from ....conftest import eventually
from ....standin.require import require_standin
from ..holders import QUEUE, Holder, broker_on, completed, in_thread, send, texts, waits_in

if TYPE_CHECKING:
    from tests.standin import StandIn

#: What takes a holder's link away.
LOSSES: dict[str, Callable[[StandIn], object]] = {
    "link-detached": lambda namespace: namespace.detach_links(QUEUE),
    "connection-dropped": lambda namespace: namespace.drop_connections(),
    "connection-closed": lambda namespace: namespace.drop_connections(polite=True),
}


@pytest.fixture(autouse=True)
def _time_for_thieves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a holder whose first try was refused wait before the second, so that somebody else can be the first."""
    monkeypatch.setattr(relock, "RELOCK_PAUSE", 0.8)


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    """A namespace with one queue whose locks last."""
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture
def broker(namespace: StandIn) -> Iterator[AzureBroker]:
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def other(namespace: StandIn) -> Iterator[AzureBroker]:
    """Another process's broker."""
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture(params=list(LOSSES.values()), ids=list(LOSSES))
def lose_link(request: pytest.FixtureRequest) -> Callable[[StandIn], object]:
    call: Callable[[StandIn], object] = request.param
    return call


def held_again(namespace: StandIn, holder: Holder) -> None:
    """Return when the stand-in has the session locked, and the broker knows what is in hand."""
    broker = holder.broker

    def is_held() -> bool:
        session = broker._registry.held(QUEUE, holder.session_id)
        return session is not None and session.link is not None

    eventually(lambda: holder.session_id in namespace.locked_sessions(QUEUE) and broker._loop.run(is_held))


# Nobody else had it


def test_messages_in_hand_are_completed_after_the_link_was_lost(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c", "d")
    in_hand = holder.take(2)
    lose_link(namespace)
    assert holder.complete(*in_hand) == [None, None]
    rest = holder.take(2)
    assert texts(rest) == ["c", "d"]
    assert [message.delivery_count for message in rest] == [1, 1]
    assert holder.complete(*rest) == [None, None]
    assert completed(namespace) == ["a", "b", "c", "d"]
    assert namespace.counts(QUEUE).active == 0


def test_a_link_that_is_lost_again_and_again_costs_nothing(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    bodies = [f"m{number:02}" for number in range(30)]
    send(broker, *bodies)
    for number, expected in enumerate(bodies):
        (message,) = holder.take()
        assert message.text() == expected
        list(LOSSES.values())[number % 3](namespace)
        assert holder.complete(message) == [None]
    assert completed(namespace) == bodies


def test_a_message_that_was_given_back_before_comes_first_and_loses_nothing(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
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
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
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
    namespace: StandIn, broker: AzureBroker, how: Disposition
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


def test_a_settlement_that_never_arrived_is_sent_again(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    a, b = holder.take(2)
    namespace.refuse("attach", "com.microsoft:server-busy", 3)
    namespace.detach_links(QUEUE)
    assert holder.complete(a) == [None]
    assert holder.complete(b) == [None]
    assert completed(namespace) == ["a", "b"]


def test_a_receive_that_waits_gets_what_comes_after_its_link_was_lost(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
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


def test_what_was_fetched_and_not_handed_out_comes_once_and_in_order(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    messages = holder.take()
    for _ in range(2):
        lose_link(namespace)
        messages += holder.take()
    assert texts(messages) == ["a", "b", "c"]
    assert holder.complete(*messages) == [None] * 3


def test_a_lock_is_renewed_for_a_waiting_receive_after_it_was_taken_again(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder = Holder(broker)
    waiting = in_thread(lambda: holder.receive(timeout=2.5))
    eventually(lambda: waits_in(holder) and "s1" in namespace.locked_sessions(QUEUE))
    namespace.detach_links(QUEUE)
    assert waiting.result(10) == []
    assert holder.renew() > 0


@pytest.mark.parametrize("refusal", ["com.microsoft:session-cannot-be-locked", "com.microsoft:server-busy"])
def test_azure_may_keep_the_lock_of_a_lost_link_for_some_time(namespace: StandIn, broker: AzureBroker, refusal: str) -> None:
    holder = Holder(broker)
    send(broker, "a")
    (message,) = holder.take()
    namespace.refuse("attach", refusal, 2)
    namespace.detach_links(QUEUE)
    assert holder.complete(message) == [None]


def test_a_link_is_lost_while_it_is_attached_again(namespace: StandIn, broker: AzureBroker) -> None:
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


def test_calls_about_the_session_wait_for_its_link(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
) -> None:
    holder = Holder(broker)
    holder.receive(timeout=0)
    broker.set_state(*holder.whose, b"1")
    lose_link(namespace)
    assert holder.renew() > 50
    lose_link(namespace)
    assert broker.get_state(*holder.whose) == b"1"
    lose_link(namespace)
    broker.set_state(*holder.whose, b"2")
    assert broker.get_state(*holder.whose) == b"2"


@pytest.mark.parametrize("operation", ["renew-session-lock", "get-session-state", "set-session-state"])
def test_a_call_whose_answer_was_lost_with_the_connection_is_made_again(
    namespace: StandIn, broker: AzureBroker, operation: str
) -> None:
    holder = Holder(broker)
    holder.receive(timeout=0)
    broker.set_state(*holder.whose, b"1")
    calls: dict[str, Callable[[], object]] = {
        "renew-session-lock": holder.renew,
        "get-session-state": lambda: broker.get_state(*holder.whose),
        "set-session-state": lambda: broker.set_state(*holder.whose, b"2"),
    }
    namespace.swallow(operation)
    before = namespace.log[operation]
    asked = in_thread(calls[operation])
    eventually(lambda: namespace.log[operation] > before)
    namespace.drop_connections()
    asked.result(10)
    assert broker.get_state(*holder.whose) == (b"2" if operation == "set-session-state" else b"1")


def test_deferred_messages_in_hand_are_settled_after_the_link_was_lost(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    messages = holder.take(3)
    holder.settle(*messages, how=Disposition.DEFER)
    numbers = [message.sequence_number or 0 for message in messages]
    a, b = broker.receive_deferred(*holder.whose, numbers[:2])
    lose_link(namespace)
    assert holder.complete(a) == [None]
    assert holder.settle(b, how=Disposition.DEAD_LETTER) == [None]
    (c,) = broker.receive_deferred(*holder.whose, numbers[2:])
    assert holder.complete(c) == [None]
    counts = namespace.counts(QUEUE)
    assert (counts.active, counts.deferred, counts.dead_letter) == (0, 0, 1)


@pytest.mark.parametrize("how", [Disposition.COMPLETE, Disposition.ABANDON])
def test_a_deferred_message_whose_settlement_was_not_answered_is_settled_once(
    namespace: StandIn, broker: AzureBroker, how: Disposition
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    holder.settle(*messages, how=Disposition.DEFER)
    number = messages[0].sequence_number or 0
    (message,) = broker.receive_deferred(*holder.whose, [number])
    namespace.swallow("update-disposition")
    settled = in_thread(lambda: holder.settle(message, how=how))
    eventually(lambda: namespace.log["update-disposition"])
    namespace.drop_connections()
    assert settled.result(10) == [None]
    if how is Disposition.ABANDON:
        (again,) = broker.receive_deferred(*holder.whose, [number])
        assert again.delivery_count == message.delivery_count + 1
        assert holder.complete(again) == [None]
    assert completed(namespace) == ["a"]


def test_two_hundred_sessions_are_held_again(
    namespace: StandIn, broker: AzureBroker, lose_link: Callable[[StandIn], object]
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
    assert len(namespace.locked_sessions(QUEUE)) == 200


def test_the_session_is_not_given_to_one_who_accepts_any_in_the_same_process(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,) = holder.take()
    others = [Holder(broker) for _ in range(3)]
    accepting = [in_thread(one.accept_next) for one in others]
    eventually(lambda: broker._loop.run(lambda: len(broker._registry._pending)) == 3)
    # Azure gives it to one that waits as soon as its link is gone.
    namespace.detach_links(QUEUE, "s1")
    assert holder.complete(a) == [None]
    assert texts(holder.take()) == ["b"]
    for name in ("s2", "s3", "s4"):
        send(broker, "x", session_id=name)
    assert {future.result(10) for future in accepting} == {"s2", "s3", "s4"}


# Releasing meanwhile


def test_a_session_is_released_while_its_link_is_lost(
    namespace: StandIn, broker: AzureBroker, other: AzureBroker, lose_link: Callable[[StandIn], object]
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


# Somebody else had it


@pytest.fixture
def taken(namespace: StandIn, broker: AzureBroker, other: AzureBroker) -> tuple[Holder, Holder]:
    """A holder with messages in hand whose session was taken by another when its link was lost."""
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a", "b", "c")
    # Attaches are refused until the other one has it: the holder tries again after a while.
    holder.take(2)
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    thief.take(2)
    return holder, thief


def in_hand(holder: Holder) -> list[str]:
    """Return the lock tokens of what is in a holder's hands."""
    session = holder.broker._registry.held(QUEUE, holder.session_id)
    return [] if session is None else [message.token for message in session.unsettled]


@pytest.mark.parametrize("how", [Disposition.COMPLETE, Disposition.ABANDON, Disposition.DEFER, Disposition.DEAD_LETTER])
def test_a_holder_is_told_when_another_settled_one_of_its_messages(
    namespace: StandIn, taken: tuple[Holder, Holder], how: Disposition
) -> None:
    holder, thief = taken
    waiting = in_thread(holder.receive)
    session = thief.broker._registry.held(QUEUE, "s1")
    assert session is not None
    first = next(iter(session.unsettled)).token
    assert thief.broker.settle(QUEUE, "s1", [Settlement(first, how, "", None)]) == [None]
    thief.release()
    with pytest.raises(SessionNotFoundError):
        waiting.result(10)
    with pytest.raises(SessionNotFoundError):
        holder.renew()


def test_a_settlement_that_was_never_sent_does_not_pass_for_done_by_another(
    namespace: StandIn, taken: tuple[Holder, Holder]
) -> None:
    holder, thief = taken
    tokens = in_hand(holder)
    settling = in_thread(
        lambda: holder.broker.settle(QUEUE, "s1", [Settlement(token, Disposition.COMPLETE) for token in tokens])
    )
    stolen = in_hand(thief)
    assert thief.broker.settle(QUEUE, "s1", [Settlement(token, Disposition.COMPLETE) for token in stolen]) == [None] * 2
    thief.release()
    assert settling.result(10) == ["SessionLockLost"] * 2


def test_a_session_that_another_took_and_left_as_it_was_goes_on(namespace: StandIn, taken: tuple[Holder, Holder]) -> None:
    holder, thief = taken
    thief.release()
    assert texts(holder.take()) == ["c"]
    assert namespace.counts(QUEUE).locked == 3


def test_a_session_that_another_keeps_is_lost_when_the_lock_would_have_ended(
    namespace: StandIn, broker: AzureBroker, other: AzureBroker
) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a")
    holder.take()
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    thief.take()
    with pytest.raises(SessionNotFoundError):
        holder.receive()
    with pytest.raises((SessionNotFoundError, SessionLockedError)):
        holder.receive()


def test_a_holder_is_told_when_another_changed_the_state(namespace: StandIn, broker: AzureBroker, other: AzureBroker) -> None:
    holder, thief = Holder(broker), Holder(other)
    holder.receive(timeout=0)
    assert broker.get_state(*holder.whose) is None
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    thief.receive(timeout=0)
    other.set_state(*thief.whose, b"theirs")
    thief.release()
    with pytest.raises(SessionNotFoundError):
        broker.set_state(*holder.whose, b"mine")
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    third = Holder(other)
    third.receive(timeout=0)
    assert other.get_state(*third.whose) == b"theirs"


def test_a_deferred_message_in_hand_that_another_completed_tells_that_the_lock_is_lost(
    namespace: StandIn, broker: AzureBroker, other: AzureBroker
) -> None:
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a")
    messages = holder.take()
    holder.settle(*messages, how=Disposition.DEFER)
    number = messages[0].sequence_number or 0
    (mine,) = broker.receive_deferred(*holder.whose, [number])
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    thief.receive(timeout=0)
    (theirs,) = other.receive_deferred(*thief.whose, [number])
    assert thief.complete(theirs) == [None]
    thief.release()
    assert holder.complete(mine) == ["SessionLockLost"]


# The lock ends


def test_a_lock_that_expired_is_lost(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    waiting = in_thread(holder.receive)
    eventually(lambda: waits_in(holder))
    namespace.expire_session_lock(QUEUE, "s1")
    with pytest.raises(SessionNotFoundError):
        waiting.result(10)
    assert holder.complete(a) == ["SessionLockLost"]
    (again,) = Holder(broker).take()
    assert again.delivery_count == 2


def test_a_lock_that_ran_out_while_the_link_was_lost_is_lost(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder = Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    namespace.refuse("attach", "com.microsoft:server-busy", 1000)
    namespace.detach_links(QUEUE)
    settling = in_thread(lambda: holder.complete(a))
    assert settling.result(10) == ["SessionLockLost"]
    namespace._refusals.clear()
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert texts(Holder(broker).take()) == ["a"]


def test_a_namespace_that_cannot_be_reached_for_longer_than_the_lock_has_lost_it(broker_then_none: Holder) -> None:
    with pytest.raises(SessionNotFoundError):
        broker_then_none.receive(timeout=10.0)
    with pytest.raises(SessionNotFoundError):
        broker_then_none.receive(timeout=10.0)


@pytest.fixture
def broker_then_none() -> Iterator[Holder]:
    """A holder whose namespace is gone."""
    with ExitStack() as stack:
        with require_standin()() as namespace:
            namespace.create_queue(QUEUE, lock_duration=1.0)
            broker = stack.enter_context(broker_on(namespace))
            send(broker, "a")
            holder = Holder(broker)
            holder.take()
        yield holder


def test_a_message_that_expired_while_the_link_was_lost_ends_the_lock(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", time_to_live=timedelta(milliseconds=200))
    (a,) = holder.take()

    def is_lost() -> bool:
        # Locked, it outlives its time. Without the lock it is gone, and whether another had it cannot be told.
        namespace.detach_links(QUEUE)
        return broker._loop.run(lambda: broker._registry.held(QUEUE, "s1")) is None

    eventually(is_lost)
    assert holder.complete(a) == ["SessionLockLost"]


def test_an_entity_that_was_disabled_ends_its_locks(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    waiting = in_thread(holder.receive)
    eventually(lambda: waits_in(holder) and "s1" in namespace.locked_sessions(QUEUE))
    namespace.disable(QUEUE)
    with pytest.raises(QueueError) as caught:
        waiting.result(10)
    assert caught.value.code == "EntityDisabled"
    with pytest.raises(SessionNotFoundError):
        holder.receive(timeout=0)


def test_tokens_that_expired_are_put_again_and_the_session_goes_on(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,) = holder.take()
    namespace.expire_tokens()
    assert holder.complete(a) == [None]
    assert texts(holder.take()) == ["b"]


def test_an_expired_lock_goes_to_one_who_accepts_any_in_the_same_process(namespace: StandIn, broker: AzureBroker) -> None:
    holder, heir = Holder(broker), Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    accepting = in_thread(heir.accept_next)
    eventually(lambda: broker._loop.run(lambda: len(broker._registry._pending)))
    namespace.expire_session_lock(QUEUE, "s1")
    assert accepting.result(10) == "s1"
    assert texts(heir.take()) == ["a"]
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert holder.complete(a) == ["MessageLockLost"]


# Azure does not answer


@pytest.fixture
def hasty(namespace: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureBroker]:
    """A broker that gives up early."""
    monkeypatch.setattr("azsession.broker.azure.session.relock.VERIFY_TIMEOUT", 0.3)
    monkeypatch.setattr("azsession.broker.azure.session.held_session.ANSWER_TIME", 0.2)
    monkeypatch.setattr("azsession.broker.azure.session.pending_receives.DRAIN_TIMEOUT", 0.3)
    with broker_on(namespace, request_timeout=1.0) as broker:
        yield broker


def test_an_attach_that_is_not_answered_is_given_up(namespace: StandIn, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    send(hasty, "a")
    namespace.swallow("attach")
    with pytest.raises(ConnectionFailedError):
        holder.receive()
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    (a,) = Holder(hasty).take()
    assert holder.complete(a) == [None]


def test_an_attach_for_any_session_that_is_not_answered_is_given_up(namespace: StandIn, hasty: AzureBroker) -> None:
    send(hasty, "a")
    namespace.swallow("attach")
    with pytest.raises(ConnectionFailedError):
        Holder(hasty).accept_next(timeout=0.1)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert Holder(hasty).accept_next() == "s1"


def test_an_attach_that_is_not_answered_when_the_link_was_lost_is_tried_again(namespace: StandIn, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    send(hasty, "a")
    (a,) = holder.take()
    namespace.swallow("attach")
    namespace.detach_links(QUEUE)
    held_again(namespace, holder)
    assert holder.complete(a) == [None]


def test_a_question_that_is_not_answered_when_the_link_was_lost_is_asked_again(
    namespace: StandIn, hasty: AzureBroker
) -> None:
    holder = Holder(hasty)
    holder.receive(timeout=0)
    hasty.set_state(*holder.whose, b"1")
    namespace.swallow("get-session-state")
    namespace.detach_links(QUEUE)
    held_again(namespace, holder)
    assert holder.renew() > 0
