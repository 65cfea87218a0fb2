"""Locks that expire, and locks that a waiting receive keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from azsession import (
    SessionLockedError,
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker

from ....conftest import eventually
from ....namespaces import Namespace
from ....namespaces.choice import namespace_on
from ..holders import QUEUE, Holder, broker_on, in_thread, send, texts, waits_in


def test_a_lock_that_expired_is_lost(namespace: Namespace, broker: AzureBroker) -> None:
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


def test_a_lock_that_expired_while_the_link_was_lost_is_lost(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder = Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    namespace.refuse("attach", "com.microsoft:server-busy", 1000)
    namespace.detach_links(QUEUE)
    settling = in_thread(lambda: holder.complete(a))
    assert settling.result(10) == ["SessionLockLost"]
    namespace.refuse_no_more()
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert texts(Holder(broker).take()) == ["a"]


def test_the_lock_is_lost_if_the_namespace_cannot_be_reached_until_it_expires(broker_then_none: Holder) -> None:
    with pytest.raises(SessionNotFoundError):
        broker_then_none.receive(timeout=10.0)
    with pytest.raises(SessionNotFoundError):
        broker_then_none.receive(timeout=10.0)


@pytest.fixture
def broker_then_none(server: str) -> Iterator[Holder]:
    """A holder whose namespace has gone."""
    with ExitStack() as stack:
        with namespace_on(server) as namespace:
            namespace.create_queue(QUEUE, lock_duration=1.0)
            broker = stack.enter_context(broker_on(namespace))
            send(broker, "a")
            holder = Holder(broker)
            holder.take()
        yield holder


def test_the_lock_of_a_silent_holder_expires(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder, next_holder = Holder(broker), Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    with pytest.raises(SessionLockedError):
        next_holder.receive(timeout=0)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert texts(next_holder.take()) == ["a"]
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert holder.complete(a) == ["MessageLockLost"]


def test_the_lock_of_an_accepted_session_expires_without_a_receive(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    send(broker, "a")
    holder = Holder(broker)
    assert holder.accept_next() == "s1"
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert Holder(broker).accept_next() == "s1"
    with pytest.raises(SessionNotFoundError):
        holder.receive(timeout=0)


def test_a_waiting_receive_keeps_the_lock(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=3.0)
    first, accepted = Holder(broker), Holder(broker)
    send(broker, "a", session_id="s2")
    assert accepted.accept_next() == "s2"
    (a,) = accepted.take()
    waits = [in_thread(partial(one.receive, timeout=7.0)) for one in (first, accepted)]
    assert [waiting.result(20) for waiting in waits] == [[], []]
    assert namespace.log["renew-session-lock"] >= 4
    assert accepted.complete(a) == [None]
    assert first.renew() > 0


def test_failed_renewals_are_repeated_before_the_lock_expires(namespace: Namespace, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=4.0)
    holder = Holder(broker)
    waiting = in_thread(lambda: holder.receive(timeout=5.0))
    eventually(lambda: waits_in(holder) and namespace.locked_sessions(QUEUE))
    namespace.refuse("renew-session-lock", "com.microsoft:server-busy", 2)
    assert waiting.result(20) == []
    assert holder.renew() > 0
