"""Azure answers a drain late, or not at all."""

from __future__ import annotations

import pytest

from azsession.broker.azure import AzureBroker
from azsession.broker.azure.session import drain_watch, returns
from azsession.broker.calls import Disposition

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, completed, in_thread, send, texts, waits_in

#: Seconds that Azure's answers take in these tests: longer than `LATE_TIMEOUT` is there.
DELAY = 0.5


@pytest.fixture
def _soon_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the answer to a drain be late before it comes, and be awaited without end."""
    monkeypatch.setattr(drain_watch, "LATE_TIMEOUT", 0.1)
    monkeypatch.setattr(drain_watch, "ANSWER_TIMEOUT", 1000.0)


@pytest.fixture
def _soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have links given up early that do not answer."""
    monkeypatch.setattr(drain_watch, "LATE_TIMEOUT", 0.1)
    monkeypatch.setattr(drain_watch, "ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr(returns, "ANSWER_TIMEOUT", 1.0)


@pytest.mark.usefixtures("_soon_late")
def test_a_receive_without_a_wait_gets_messages_that_come_late(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert holder.receive(timeout=0) == []
    send(broker, "a")
    namespace.delay(DELAY)
    assert texts(holder.receive(timeout=0)) == ["a"]


@pytest.mark.usefixtures("_soon_late")
def test_messages_that_came_are_handed_out_without_the_answer(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert holder.receive(timeout=0) == []
    send(broker, "a")
    namespace.swallow("drain")
    assert texts(holder.receive(2, timeout=0)) == ["a"]
    send(broker, "b")
    assert texts(holder.receive(timeout=0)) == ["b"]


@pytest.mark.usefixtures("_soon_late")
def test_a_message_that_comes_late_does_not_overtake_an_abandoned_one(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,), (b,) = holder.receive(), holder.receive()
    # The next message is fetched ahead.
    assert holder.complete(a) == [None]
    namespace.delay(DELAY)
    sent = in_thread(lambda: send(broker, "c"))
    # Azure has sent it.
    eventually(lambda: namespace.counts(QUEUE).locked == 2)
    assert holder.settle(b, how=Disposition.ABANDON) == [None]
    sent.result(10)
    assert texts(holder.take() + holder.take()) == ["b", "c"]


@pytest.mark.usefixtures("_soon_late")
def test_a_broker_that_closes_does_not_wait_for_the_answer(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert holder.receive(timeout=0) == []
    namespace.swallow("drain")
    receive = in_thread(lambda: holder.receive(timeout=60.0))
    eventually(lambda: waits_in(holder) == 1)
    broker.stop_waiting()
    assert receive.result(30) == []


@pytest.mark.usefixtures("_soon_given_up")
def test_a_link_that_does_not_answer_is_given_up(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,) = holder.take()
    attaches = namespace.log["attach"]
    assert texts(holder.take()) == ["b"]
    namespace.swallow("drain")
    assert holder.receive(timeout=0) == []
    assert namespace.log["attach"] > attaches
    assert holder.complete(a) == [None]
    assert completed(namespace) == ["a"]


@pytest.mark.usefixtures("_soon_given_up")
def test_a_link_that_does_not_confirm_a_return_is_given_up(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    (a,), (b,) = holder.receive(), holder.receive()
    # The next message is fetched ahead, and returned before the other one is abandoned.
    assert holder.complete(a) == [None]
    eventually(lambda: namespace.counts(QUEUE).locked == 2)
    attaches = namespace.log["attach"]
    namespace.swallow("disposition")
    assert holder.settle(b, how=Disposition.ABANDON) == [None]
    assert texts(holder.take() + holder.take()) == ["b", "c"]
    assert namespace.log["attach"] > attaches
