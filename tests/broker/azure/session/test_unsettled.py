"""Settlements that are repeated."""

from __future__ import annotations

import uuid

import pytest

from azsession import ReceivedMessage, ThrottledError
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition

from ....conftest import eventually
from ....namespaces import Namespace
from ....server.raw import Gateway
from ..holders import QUEUE, Holder, completed, in_thread, send

#: The settlements after which the message comes again, with its delivery count.
RETURNING = {Disposition.ABANDON: [("a", 2)], Disposition.RELEASE: [("a", 1)]}


def refuse_as_busy(
    namespace: Namespace,
    holder: Holder,
    messages: list[ReceivedMessage],
    operation: str = "disposition",
    how: Disposition = Disposition.COMPLETE,
) -> None:
    """Settle messages while Azure is too busy for an operation."""
    namespace.refuse(operation, "com.microsoft:server-busy")
    with pytest.raises(ThrottledError):
        holder.settle(*messages, how=how)


def test_a_repeated_settlement_succeeds_and_a_different_one_is_a_conflict(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    assert holder.complete(*messages) == [None]
    assert holder.complete(*messages) == [None]
    assert holder.settle(*messages, how=Disposition.ABANDON) == ["Conflict"]
    holder.release()
    assert holder.complete(*messages) == [None]
    assert completed(namespace) == ["a"]


def test_a_repeated_settlement_waits_for_the_first_and_a_different_one_is_a_conflict(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    namespace.swallow("disposition")
    first = in_thread(lambda: holder.complete(*messages))
    eventually(lambda: completed(namespace))
    second = in_thread(lambda: holder.complete(*messages))
    assert holder.settle(*messages, how=Disposition.DEFER) == ["Conflict"]
    namespace.detach_links(QUEUE)
    assert first.result(10) == second.result(10) == [None]
    assert completed(namespace) == ["a"]


def test_a_different_settlement_is_a_conflict_over_http(gateway: Gateway) -> None:
    gateway.send(QUEUE, "s1", "a")
    holder = gateway.holder(QUEUE, "s1", str(uuid.uuid4()))
    token = holder.receive("timeout=5").token
    assert [holder.complete(token).status for _ in range(2)] == [204, 204]
    reply = holder.abandon(token)
    assert (reply.status, reply.code) == (409, "Conflict")


@pytest.mark.parametrize("how", [each for each in Disposition if each is not Disposition.TAKE])
def test_a_settlement_that_azure_refused_as_busy_can_be_repeated(
    namespace: Namespace, broker: AzureBroker, how: Disposition
) -> None:
    """Azure has settled the delivery with its refusal, so that the link cannot settle it again."""
    holder = Holder(broker)
    send(broker, "a", "b")
    first = holder.take()
    refuse_as_busy(namespace, holder, first, how=how)
    assert in_thread(lambda: holder.settle(*first, how=how)).result(10) == [None]
    rest = [(message.text(), message.delivery_count) for message in holder.take(2 if how in RETURNING else 1)]
    assert rest == [*RETURNING.get(how, []), ("b", 1)]


def test_a_settlement_that_azure_refused_as_busy_again_and_again_can_be_repeated(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    for operation in ("disposition", "update-disposition", "update-disposition"):
        refuse_as_busy(namespace, holder, messages, operation)
    assert holder.complete(*messages) == [None]
    assert completed(namespace) == ["a"]


def test_after_a_refusal_a_message_that_came_by_a_new_link_is_settled_by_it(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    refuse_as_busy(namespace, holder, messages)
    namespace.detach_links(QUEUE)
    assert holder.complete(*messages) == [None]
    assert namespace.log["update-disposition"] == 0
    assert completed(namespace) == ["a"]
