"""Callers that cancel receives and accepts, places for those that wait, and the threads that they need."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

from azsession import ConnectionFailedError, ServiceBusConfig, ThrottledError
from azsession.broker.azure import AzureBroker, receiving
from azsession.broker.azure.operation import Operation
from azsession.broker.azure.receiving import SessionReceiver
from azsession.broker.calls import AcceptRequest, CallContext, Delivery, WaitingSlots

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, broker_on, connection_of, send, texts, waiting_accepts, waits_in
from .transport.raw_peer import Talk, raw_peer


def waiting_receive(namespace: Namespace, holder: Holder, **arguments: Any) -> Future[Delivery]:
    """Return the future of a receive that waits, and holds the lock."""
    before = waits_in(holder)
    receiving = holder.start_receive(**arguments)
    eventually(lambda: waits_in(holder) == before + 1 and holder.session_id in namespace.locked_sessions(QUEUE))
    return receiving


# Receives


def test_messages_that_come_after_a_receive_was_cancelled_go_to_the_next_receive(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    holder.receive(timeout=0)
    receiving = waiting_receive(namespace, holder, max_count=2, request_id="r1")
    assert receiving.cancel()
    send(broker, "a", "b", "c")
    messages = holder.take(3)
    assert [(message.text(), message.delivery_count) for message in messages] == [("a", 1), ("b", 1), ("c", 1)]


def test_messages_that_came_before_a_receive_was_cancelled_go_to_the_next_receive(
    namespace: Namespace, broker: AzureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_messages = SessionReceiver._wait_for_messages

    async def cancelled_at_last(
        self: SessionReceiver, receive: Any, session: Any, deadline: float, operation: Operation
    ) -> None:
        await wait_for_messages(self, receive, session, deadline, operation)
        if receive.max_count == 2:
            assert receive.future.result()
            assert operation.cancel()

    monkeypatch.setattr(SessionReceiver, "_wait_for_messages", cancelled_at_last)
    holder = Holder(broker)
    holder.receive(timeout=0)
    send(broker, "a", "b", "c")
    receiving = holder.start_receive(2, request_id="r1")
    with pytest.raises(CancelledError):
        receiving.result(10)
    messages = holder.take(3)
    assert [(message.text(), message.delivery_count) for message in messages] == [("a", 1), ("b", 1), ("c", 1)]


def test_a_receive_that_has_its_messages_cannot_be_cancelled(broker: AzureBroker) -> None:
    send(broker, "a")
    receiving = Holder(broker).start_receive()
    assert texts(list(receiving.result(10).messages)) == ["a"]
    assert not receiving.cancel()


def test_the_lock_that_a_cancelled_receive_took_is_free_at_once(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert waiting_receive(namespace, holder).cancel()
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    send(broker, "a")
    # Its holder has not lost the lock, because it never had it.
    assert texts(holder.receive()) == ["a"]


def test_a_cancelled_receive_keeps_a_lock_that_its_holder_has_used(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    receiving = waiting_receive(namespace, holder)
    assert holder.renew() > 0
    assert receiving.cancel()
    eventually(lambda: not waits_in(holder))
    assert holder.renew() > 0
    assert namespace.locked_sessions(QUEUE) == {"s1"}


def test_a_cancelled_receive_keeps_a_lock_in_which_another_receive_waits(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    first = waiting_receive(namespace, holder)
    second = waiting_receive(namespace, holder)
    assert first.cancel()
    send(broker, "a")
    assert texts(list(second.result(10).messages)) == ["a"]


def test_a_receive_can_be_cancelled_while_the_namespace_does_not_answer() -> None:
    def silent(talk: Talk) -> None:
        while talk.read(1):
            pass

    with raw_peer(silent) as peer:
        broker = AzureBroker(ServiceBusConfig(connection_string=peer.connection_string))
        try:
            receiving = Holder(broker).start_receive()
            eventually(lambda: broker._namespace._opening)
            assert receiving.cancel()
            eventually(lambda: broker._loop.run(lambda: not broker._registry._held))
        finally:
            broker.close()


# Accepts


def test_a_cancelled_accept_locks_no_session(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a", session_id="elsewhere")
    Holder(broker, "elsewhere").take()
    before = namespace.links()
    for _ in range(20):
        accepting = Holder(broker).start_accept()
        eventually(lambda: waiting_accepts(broker))
        assert accepting.cancel()
        eventually(lambda: not waiting_accepts(broker))
    eventually(lambda: namespace.links() == before)
    transport = connection_of(broker).transport
    eventually(lambda: sum(len(channel._links) for channel in transport._channels.values()) == before)
    send(broker, "a")
    assert namespace.locked_sessions(QUEUE) == {"elsewhere"}


@pytest.mark.parametrize("session_id", [None, "s1"])
def test_a_session_that_came_before_an_accept_was_cancelled_is_released(
    namespace: Namespace, broker: AzureBroker, monkeypatch: pytest.MonkeyPatch, session_id: str | None
) -> None:
    send(broker, "a")
    wait_until_opened = SessionReceiver._wait_until_opened

    async def cancelled_at_last(self: SessionReceiver, session: Any, seconds: float, operation: Operation) -> bool:
        is_granted = await wait_until_opened(self, session, seconds, operation)
        assert operation.cancel()
        return is_granted

    with monkeypatch.context() as patched:
        patched.setattr(SessionReceiver, "_wait_until_opened", cancelled_at_last)
        with pytest.raises(CancelledError):
            broker.accept(AcceptRequest(QUEUE, session_id, "x", timeout=10.0)).result(10)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert Holder(broker).accept_next() == "s1"


def test_an_accept_whose_answer_was_lost_is_undone(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a")
    holder = Holder(broker)
    assert holder.accept_next(request_id="r1") == "s1"
    holder.undo_accept()
    assert not namespace.locked_sessions(QUEUE)
    # The holder may take the session again.
    assert holder.accept_next(request_id="r1") == "s1"
    assert texts(holder.take()) == ["a"]


def test_an_accept_whose_second_answer_arrived_is_not_undone(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a")
    holder = Holder(broker)
    assert holder.accept_next(request_id="r1") == holder.accept_next(request_id="r1") == "s1"
    holder.undo_accept()
    assert namespace.locked_sessions(QUEUE) == {"s1"}
    assert holder.renew() > 0


# Places for those that wait


def test_a_receive_that_finds_no_place_to_wait_is_refused_and_takes_no_lock(
    namespace: Namespace, broker: AzureBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = CallContext(blocking=False, slots=WaitingSlots(1))
    first = waiting_receive(namespace, Holder(broker), context=context)
    second = Holder(broker, "s2")
    with pytest.raises(ThrottledError):
        second.start_receive(context=context).result(10)
    eventually(lambda: namespace.locked_sessions(QUEUE) == {"s1"})
    with pytest.raises(ThrottledError):
        Holder(broker).start_accept(context=context).result(10)
    eventually(lambda: not waiting_accepts(broker))
    # Calls that need not wait need no place. The machine may be busy.
    monkeypatch.setattr(receiving, "QUICKLY", 10.0)
    send(broker, "b", session_id="s2")
    assert texts(list(second.start_receive(context=context).result(10).messages)) == ["b"]
    assert first.cancel()
    waiting_receive(namespace, second, context=context).cancel()


# Threads


def test_500_waiting_receives_add_at_most_4_threads(namespace: Namespace) -> None:
    before = threading.active_count()
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(500)]
        waits = [holder.start_receive(timeout=60, context=CallContext(blocking=False)) for holder in holders]
        assert threading.active_count() <= before + 4
        eventually(lambda: len(namespace.locked_sessions(QUEUE)) == 500)
        assert threading.active_count() <= before + 4
        for number in range(0, 500, 10):
            send(broker, "a", session_id=f"s{number}")
        assert not wait(waits[::10], 20).not_done
        assert all(texts(list(waiting.result().messages)) == ["a"] for waiting in waits[::10])
        assert not any(waiting.done() for waiting in waits[1::10])


def test_a_deadline_ends_an_operation_that_azure_does_not_answer(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a")
    namespace.delay(30)
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError) as caught:
        broker.peek(QUEUE, "s1", 0, 1, context=CallContext(deadline=began + 0.3)).result(10)
    assert 0.2 < time.monotonic() - began < 5
    assert caught.value.maybe_delivered
    namespace.delay(0)
