"""Messages whose answer could not be written: they return to their places, uncounted."""

from __future__ import annotations

from azsession import ReceivedMessage
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, send, texts, waits_in


def give_back(holder: Holder, messages: list[ReceivedMessage]) -> None:
    holder.broker.give_back(*holder.whose, [message.receipt.handle for message in messages]).result(10)


def counted(messages: list[ReceivedMessage]) -> list[tuple[str, int]]:
    return [(message.text(), message.delivery_count) for message in messages]


def test_given_back_messages_are_released_at_once_and_uncounted(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c", "d")
    messages = holder.take(3)
    give_back(holder, messages[1:])
    eventually(lambda: namespace.counts(QUEUE).locked == 1)
    assert holder.complete(messages[0]) == [None]
    assert holder.complete(messages[1]) == ["MessageLockLost"]
    holder.release()
    assert counted(Holder(other).take(3)) == [("b", 1), ("c", 1), ("d", 1)]


def test_given_back_messages_come_again_in_order(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c", "d", "e")
    first, second = holder.take(2), holder.take(2)
    give_back(holder, second)
    give_back(holder, first)
    assert counted(holder.take(5)) == [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]


def test_given_back_messages_go_to_a_receive_that_waits(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    messages = holder.take(2)
    waiting = holder.start_receive(2)
    eventually(lambda: waits_in(holder))
    give_back(holder, messages)
    assert counted(list(waiting.result(10).messages)) == [("a", 1), ("b", 1)]


def test_a_message_that_was_fetched_ahead_comes_after_those_that_were_given_back(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    first, second = holder.take()[0], holder.take()[0]
    assert holder.complete(first) == [None]
    eventually(lambda: namespace.counts(QUEUE).locked == 2)
    give_back(holder, [second])
    assert counted(holder.take(2)) == [("b", 1), ("c", 1)]


def test_a_repeated_receive_gets_messages_that_were_given_back(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    give_back(holder, holder.receive(2, request_id="r1"))
    assert counted(holder.receive(2, request_id="r1")) == [("a", 1), ("b", 1)]


def test_messages_that_a_repeated_receive_has_got_are_not_given_back(broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    lost = holder.receive(2, request_id="r1")
    arrived = holder.receive(2, request_id="r1")
    give_back(holder, lost)
    assert holder.complete(*arrived) == [None, None]
    assert holder.receive(timeout=0) == []


def test_settled_messages_and_those_of_another_holder_are_not_given_back(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    messages = holder.take(2)
    assert holder.settle(messages[0], how=Disposition.COMPLETE) == [None]
    give_back(holder, messages[:1])
    give_back(Holder(broker), messages)
    give_back(Holder(broker, "unknown"), messages)
    assert holder.complete(messages[1]) == [None]
    assert holder.complete(messages[0]) == [None]
    assert texts(holder.receive(timeout=0)) == []


def test_deferred_messages_that_are_given_back_stay_deferred_and_uncounted(
    namespace: Namespace, broker: AzureBroker, other: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    messages = holder.take(2)
    assert holder.settle(*messages, how=Disposition.DEFER) == [None, None]
    numbers = [message.sequence_number or 0 for message in messages]
    lost = broker.receive_deferred(*holder.whose, numbers).result(10)
    arrived = broker.receive_deferred(*holder.whose, numbers[1:]).result(10)
    give_back(holder, lost)
    eventually(lambda: namespace.counts(QUEUE).locked == 1)
    assert holder.complete(*arrived) == [None]
    assert counted(broker.receive_deferred(*holder.whose, numbers[:1]).result(10)) == [("a", 1)]
