"""Settlements that are repeated."""

from __future__ import annotations

import uuid

from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition

from ....conftest import eventually
from ....namespaces import Namespace
from ....server.raw import Gateway
from ..holders import QUEUE, Holder, completed, in_thread, send


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
