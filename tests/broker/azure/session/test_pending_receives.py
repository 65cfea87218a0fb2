"""Receives that are repeated."""

from __future__ import annotations

import pytest

from azsession import (
    ProviderError,
)
from azsession.broker.azure import AzureBroker

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, in_thread, send, texts, waits_in


def test_a_repeated_receive_returns_the_same_messages(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    first = holder.receive(2, request_id="r1")
    again = holder.receive(2, request_id="r1")
    assert [message.receipt.handle for message in again] == [message.receipt.handle for message in first]
    assert texts(again) == ["a", "b"]
    assert texts(holder.receive(request_id="r2")) == ["c"]
    assert holder.complete(*again) == [None, None]


def test_a_repeated_receive_returns_the_same_messages_after_the_link_was_lost(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    first = holder.receive(request_id="r1")
    namespace.drop_connections()
    again = holder.receive(request_id="r1")
    assert [message.receipt.handle for message in again] == [message.receipt.handle for message in first]
    assert holder.complete(*again) == [None]
    assert texts(holder.receive(request_id="r2")) == ["b"]


def test_a_late_attempt_of_a_receive_without_messages_takes_none(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    assert holder.receive(timeout=0, request_id="r1") == []
    send(broker, "a", "b")
    assert holder.receive(timeout=30, request_id="r1") == []
    assert texts(holder.receive(request_id="r2")) == ["a"]
    assert texts(holder.receive(request_id="r3")) == ["b"]


def test_receives_without_messages_do_not_displace_the_results_with_messages(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a")
    (first,) = holder.receive(request_id="r1")
    for number in range(70):
        assert holder.receive(timeout=0, request_id=f"empty {number}") == []
    (again,) = holder.receive(request_id="r1")
    assert again.receipt.handle == first.receipt.handle


def test_a_repeated_receive_replaces_the_first_attempt(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    first = in_thread(lambda: holder.receive(request_id="r1"))
    eventually(lambda: waits_in(holder))
    second = in_thread(lambda: holder.receive(request_id="r1"))
    with pytest.raises(ProviderError, match="another attempt"):
        first.result(10)
    send(broker, "a", "b")
    (message,) = second.result(10)
    assert message.text() == "a"
    assert texts(holder.receive()) == ["b"]


def test_a_repeated_receive_replaces_the_first_attempt_while_the_link_is_lost(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    first = in_thread(lambda: holder.receive(request_id="r1"))
    eventually(lambda: waits_in(holder) and namespace.locked_sessions(QUEUE))
    namespace.refuse("attach", "com.microsoft:server-busy", 2)
    namespace.detach_links(QUEUE)
    second = in_thread(lambda: holder.receive(request_id="r1"))
    with pytest.raises(ProviderError, match="another attempt"):
        first.result(10)
    eventually(lambda: namespace.locked_sessions(QUEUE))
    send(broker, "a")
    assert texts(second.result(10)) == ["a"]
