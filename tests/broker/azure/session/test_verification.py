"""Another holder had the session while its link was lost: the lock is lost, unless nothing changed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from azsession import (
    SessionLockedError,
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition, Settlement

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, in_thread, send, texts


@pytest.fixture
def taken(namespace: Namespace, broker: AzureBroker, other: AzureBroker) -> tuple[Holder, Holder]:
    """A holder with unsettled messages, and another one that took the session when the first one's link was lost."""
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a", "b", "c")
    # The first attach of the holder is refused, so that the thief is first.
    holder.take(2)
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE) and not namespace.refusals())
    thief.take(2)
    return holder, thief


def unsettled_tokens(holder: Holder) -> list[str]:
    """Return the lock tokens of a holder's unsettled messages."""
    session = holder.broker._registry.held(QUEUE, holder.session_id)
    return [] if session is None else [message.token for message in session.unsettled]


@pytest.mark.parametrize("how", [Disposition.COMPLETE, Disposition.ABANDON, Disposition.DEFER, Disposition.DEAD_LETTER])
def test_the_lock_is_lost_if_another_holder_settled_a_message(
    namespace: Namespace, taken: tuple[Holder, Holder], how: Disposition
) -> None:
    holder, thief = taken
    waiting = in_thread(holder.receive)
    session = thief.broker._registry.held(QUEUE, "s1")
    assert session is not None
    first = next(iter(session.unsettled)).token
    assert thief.broker.settle(QUEUE, "s1", [Settlement(first, how, "", None)]).result() == [None]
    thief.release()
    with pytest.raises(SessionNotFoundError):
        waiting.result(10)
    with pytest.raises(SessionNotFoundError):
        holder.renew()


def test_a_settlement_that_was_not_sent_fails_if_another_holder_completed_the_message(
    namespace: Namespace, taken: tuple[Holder, Holder]
) -> None:
    holder, thief = taken
    tokens = unsettled_tokens(holder)
    settling = in_thread(
        lambda: holder.broker.settle(QUEUE, "s1", [Settlement(token, Disposition.COMPLETE) for token in tokens]).result()
    )
    stolen = unsettled_tokens(thief)
    assert (
        thief.broker.settle(QUEUE, "s1", [Settlement(token, Disposition.COMPLETE) for token in stolen]).result() == [None] * 2
    )
    thief.release()
    assert settling.result(10) == ["SessionLockLost"] * 2


def test_a_session_that_another_holder_left_unchanged_is_held_again(
    namespace: Namespace, taken: tuple[Holder, Holder]
) -> None:
    holder, thief = taken
    thief.release()
    assert texts(holder.take()) == ["c"]
    assert namespace.counts(QUEUE).locked == 3


def test_a_session_that_another_holder_keeps_is_lost_when_its_lock_expires(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a")
    holder.take()
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE) and not namespace.refusals())
    thief.take()
    with pytest.raises(SessionNotFoundError):
        holder.receive()
    with pytest.raises((SessionNotFoundError, SessionLockedError)):
        holder.receive()


def test_the_lock_is_lost_if_another_holder_changed_the_state(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    holder, thief = Holder(broker), Holder(other)
    holder.receive(timeout=0)
    assert broker.get_state(*holder.whose).result() is None
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE) and not namespace.refusals())
    thief.receive(timeout=0)
    other.set_state(*thief.whose, b"theirs").result()
    thief.release()
    with pytest.raises(SessionNotFoundError):
        broker.set_state(*holder.whose, b"mine").result()
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    third = Holder(other)
    third.receive(timeout=0)
    assert other.get_state(*third.whose).result() == b"theirs"


def test_the_lock_is_lost_if_another_holder_completed_a_deferred_message(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    holder, thief = Holder(broker), Holder(other)
    send(broker, "a")
    messages = holder.take()
    holder.settle(*messages, how=Disposition.DEFER)
    number = messages[0].sequence_number or 0
    (mine,) = broker.receive_deferred(*holder.whose, [number]).result()
    namespace.refuse("attach", "com.microsoft:server-busy")
    namespace.detach_links(QUEUE)
    eventually(lambda: not namespace.locked_sessions(QUEUE) and not namespace.refusals())
    thief.receive(timeout=0)
    (theirs,) = other.receive_deferred(*thief.whose, [number]).result()
    assert thief.complete(theirs) == [None]
    thief.release()
    assert holder.complete(mine) == ["SessionLockLost"]


def test_the_lock_is_lost_if_an_unsettled_message_expired_while_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", time_to_live=timedelta(seconds=3))
    (a,) = holder.take()

    def is_lost() -> bool:
        # A locked message does not expire. Without the lock it does, as if another holder had completed it.
        namespace.detach_links(QUEUE)
        return broker._loop.run(lambda: broker._registry.held(QUEUE, "s1")) is None

    eventually(is_lost)
    assert holder.complete(a) == ["SessionLockLost"]
