"""Deferred messages that an earlier call receives or settles at the same time: an interrupt leaves such a call behind."""

from __future__ import annotations

import time

import pytest

from azsession import ConnectionFailedError
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import CallContext, Disposition

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import Holder, in_thread, send


def _deferred(holder: Holder, *bodies: str) -> list[int]:
    """Send messages, receive and defer them. Return their sequence numbers."""
    send(holder.broker, *bodies)
    messages = holder.take(len(bodies))
    assert holder.settle(*messages, how=Disposition.DEFER) == [None] * len(bodies)
    return [message.sequence_number or 0 for message in messages]


def test_a_deferred_message_that_is_being_received_comes_with_the_same_token_to_a_second_call(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    numbers = _deferred(holder, "a", "b")
    namespace.delay(0.2)
    # The caller of the first one may have been interrupted: a signal handler can raise before it has the future.
    first = broker.receive_deferred(*holder.whose, numbers[:1])
    second = broker.receive_deferred(*holder.whose, numbers)
    (a,), (again, b) = first.result(10), second.result(10)
    namespace.delay(0)
    assert (again.text(), b.text()) == ("a", "b")
    assert again.receipt.handle == a.receipt.handle
    assert holder.complete(a, b) == [None, None]


def test_a_deferred_message_whose_answer_came_too_late_comes_to_the_next_call(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    numbers = _deferred(holder, "a")
    namespace.delay(30)
    hurried = broker.receive_deferred(*holder.whose, numbers, context=CallContext(deadline=time.monotonic() + 0.1))
    with pytest.raises(ConnectionFailedError):
        hurried.result(10)
    namespace.delay(0)
    (message,) = broker.receive_deferred(*holder.whose, numbers).result(10)
    assert message.text() == "a"
    assert holder.complete(message) == [None]


def test_a_deferred_message_that_is_being_deferred_again_is_received_afterwards(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    numbers = _deferred(holder, "a")
    (message,) = broker.receive_deferred(*holder.whose, numbers).result(10)
    namespace.swallow("update-disposition")
    settled = in_thread(lambda: holder.settle(message, how=Disposition.DEFER))
    eventually(lambda: namespace.log["update-disposition"])
    before = namespace.log["receive-by-sequence-number"]
    received = broker.receive_deferred(*holder.whose, numbers)
    broker.get_state(*holder.whose).result(10)
    assert namespace.log["receive-by-sequence-number"] == before
    namespace.drop_connections()
    assert settled.result(10) == [None]
    (again,) = received.result(10)
    assert again.receipt.handle != message.receipt.handle
    assert holder.complete(again) == [None]
