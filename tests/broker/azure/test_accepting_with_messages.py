"""Accepting a session together with its first messages: Azure is asked for the session, and then for messages."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import pytest

from azsession.broker.azure import AzureBroker
from azsession.broker.azure.operation import Operation
from azsession.broker.azure.receiving import SessionReceiver
from azsession.broker.calls import AcceptRequest, CallContext, Delivery, WaitingSlots

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, send


def accept(holder: Holder, session_id: str | None = None, *, count: int = 10, **fields: Any) -> Delivery:
    """Accept a session with messages, and hold it."""
    request = AcceptRequest(QUEUE, session_id, holder.lock_id, timeout=10.0, max_count=count, **fields)
    delivery = holder.broker.accept(request).result(20)
    assert delivery is not None
    holder.session_id = delivery.session_id
    return delivery


def counted(delivery: Delivery) -> list[tuple[str, int]]:
    return [(one.text(), one.delivery_count) for one in delivery.messages]


@pytest.mark.parametrize("session_id", [None, "s1"])
def test_a_session_comes_with_its_first_messages(broker: AzureBroker, session_id: str | None) -> None:
    send(broker, "a", "b", "c")
    holder = Holder(broker)
    delivery = accept(holder, session_id, count=2)
    assert (delivery.session_id, counted(delivery)) == ("s1", [("a", 1), ("b", 1)])
    assert holder.complete(*delivery.messages) == [None, None]
    assert [one.text() for one in holder.take()] == ["c"]


def test_a_named_session_without_messages_is_not_waited_in(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert counted(accept(holder, "s1")) == []
    assert namespace.locked_sessions(QUEUE) == {"s1"}


def test_messages_that_are_fetched_ahead_count_no_delivery(broker: AzureBroker, other: AzureBroker) -> None:
    send(broker, "a", "b", "c")
    holder = Holder(broker)
    assert counted(accept(holder, taken=1)) == [("a", 1), ("b", 1), ("c", 1)]
    holder.release()
    assert counted(accept(Holder(other))) == [("a", 1), ("b", 1), ("c", 1)]


@pytest.mark.parametrize("session_id", [None, "s1"])
def test_a_repeated_accept_returns_the_same_messages(broker: AzureBroker, session_id: str | None) -> None:
    send(broker, "a", "b", "c")
    holder = Holder(broker)
    first, again = (accept(holder, session_id, count=2, request_id="r") for _ in range(2))
    assert [one.receipt.handle for one in first.messages] == [one.receipt.handle for one in again.messages]
    assert counted(again) == [("a", 1), ("b", 1)]
    assert holder.complete(first.messages[0]) == [None]
    assert counted(accept(holder, session_id, count=2, request_id="r")) == [("b", 1)]


def test_an_accept_whose_answer_was_lost_is_undone_whole(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    send(broker, "a", "b")
    holder = Holder(broker)
    holder.undo_accept(*accept(holder, request_id="r").messages)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert counted(accept(Holder(other))) == [("a", 1), ("b", 1)]


def test_an_accept_whose_second_answer_arrived_keeps_session_and_messages(broker: AzureBroker) -> None:
    send(broker, "a", "b", "c")
    holder = Holder(broker)
    first, again = (accept(holder, count=2, request_id="r") for _ in range(2))
    holder.undo_accept(*first.messages)
    assert [one.text() for one in holder.take()] == ["c"]
    assert holder.complete(*again.messages) == [None, None]


def test_messages_of_a_lost_answer_return_although_the_session_is_in_use(broker: AzureBroker) -> None:
    send(broker, "a", "b")
    holder = Holder(broker)
    lost = accept(holder)
    assert holder.renew() > 0
    holder.undo_accept(*lost.messages)
    assert [(one.text(), one.delivery_count) for one in holder.take(2)] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize("session_id", [None, "s1"])
def test_an_accept_that_is_cancelled_before_its_messages_came_takes_nothing(
    namespace: Namespace,
    broker: AzureBroker,
    other: AzureBroker,
    monkeypatch: pytest.MonkeyPatch,
    session_id: str | None,
) -> None:
    send(broker, "a")
    first_messages = SessionReceiver._first_messages

    async def cancelled(self: SessionReceiver, session: Any, request: Any, operation: Operation) -> Any:
        assert operation.cancel()
        return await first_messages(self, session, request, operation)

    with monkeypatch.context() as patched:
        patched.setattr(SessionReceiver, "_first_messages", cancelled)
        future = broker.accept(AcceptRequest(QUEUE, session_id, "x", timeout=10.0, max_count=5))
        with pytest.raises(CancelledError):
            future.result(10)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert counted(accept(Holder(other))) == [("a", 1)]


def test_messages_need_no_place_to_wait(broker: AzureBroker) -> None:
    send(broker, "a")
    slots = WaitingSlots(1)
    waiting = Holder(broker, "empty").start_receive(context=CallContext(blocking=False, slots=slots))
    request = AcceptRequest(QUEUE, None, "x", timeout=10.0, max_count=5)
    eventually(lambda: not slots._free._value)
    delivery = broker.accept(request, context=CallContext(blocking=False)).result(10)
    assert delivery is not None
    assert counted(delivery) == [("a", 1)]
    assert waiting.cancel()
