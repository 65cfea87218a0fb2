"""Settling and receiving in one operation, in front of Azure, which has no such request."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from azsession import ReceivedMessage, ThrottledError
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition, ReceiveRequest, Settled, Settlement
from azsession.protocol.error_codes import MESSAGE_LOCK_LOST, SESSION_LOCK_LOST

from ...conftest import eventually
from .holders import QUEUE, Holder, completed, send, texts

if TYPE_CHECKING:
    from tests.standin import StandIn


class Combining(Holder):
    """A holder that settles and receives in one operation."""

    def start(
        self,
        messages: Sequence[ReceivedMessage],
        how: Disposition = Disposition.COMPLETE,
        *,
        count: int = 2,
        request_id: str = "",
    ) -> Future[Settled]:
        settlements = [Settlement(message.receipt.handle, how, "because") for message in messages]
        request = ReceiveRequest(
            *self.whose, max_count=count, timeout=0.0, request_id=request_id or str(uuid.uuid4()), holds_lock=True
        )
        return self.broker.settle_and_receive(settlements, request)

    def call(self, *messages: ReceivedMessage, how: Disposition = Disposition.COMPLETE, request_id: str = "") -> list[str]:
        settled = self.start(messages, how, request_id=request_id).result(20)
        assert list(settled.codes) == [None] * len(messages)
        assert settled.delivery is not None
        assert 0 < settled.delivery.lock_expires_in <= 60
        return texts(list(settled.delivery.messages))


@pytest.fixture
def holder(broker: AzureBroker) -> Combining:
    """A holder of a session with five messages."""
    send(broker, "1", "2", "3", "4", "5")
    return Combining(broker)


def test_the_next_messages_are_requested_together_with_the_settlement(namespace: StandIn, holder: Combining) -> None:
    first = holder.take()
    namespace.swallow("disposition")
    settling = holder.start(first)
    # Azure does not confirm the settlement, and sends the messages all the same.
    eventually(lambda: namespace.counts(QUEUE).locked == 2)
    assert not settling.done()
    namespace.drop_connections()
    settled = settling.result(20)
    assert list(settled.codes) == [None]
    assert settled.delivery is not None
    assert texts(list(settled.delivery.messages)) == ["2", "3"]
    assert completed(namespace) == ["1"]


@pytest.mark.parametrize("how", [Disposition.COMPLETE, Disposition.DEFER, Disposition.DEAD_LETTER])
def test_the_messages_behind_the_settled_ones_come(holder: Combining, how: Disposition) -> None:
    assert holder.call(*holder.take(2), how=how) == ["3", "4"]


def test_an_abandoned_message_comes_again_before_the_others(holder: Combining) -> None:
    assert holder.call(*holder.take(), how=Disposition.ABANDON) == ["1", "2"]


def test_there_may_be_no_more_messages(holder: Combining) -> None:
    assert holder.call(*holder.take(5)) == []


def test_nothing_is_received_after_a_settlement_that_failed(holder: Combining) -> None:
    first = holder.take()
    assert holder.complete(*first) == [None]
    settled = holder.start(first, Disposition.ABANDON).result(20)
    assert settled.delivery is None
    unknown = Settlement(str(uuid.uuid4()), Disposition.COMPLETE)
    request = ReceiveRequest(*holder.whose, max_count=2, timeout=0.0, request_id="r", holds_lock=True)
    settled = holder.broker.settle_and_receive([unknown], request).result(20)
    assert (list(settled.codes), settled.delivery) == ([MESSAGE_LOCK_LOST], None)
    messages = holder.take(4)
    assert [(message.text(), message.delivery_count) for message in messages] == [(text, 1) for text in "2345"]


def test_no_message_is_kept_after_a_settlement_that_was_throttled(namespace: StandIn, holder: Combining) -> None:
    first = holder.take()
    namespace.refuse("disposition", "com.microsoft:server-busy")
    with pytest.raises(ThrottledError):
        holder.start(first).result(20)
    messages = holder.take(2)
    assert [(message.text(), message.delivery_count) for message in messages] == [("2", 1), ("3", 1)]


def test_a_repeated_operation_settles_nothing_twice_and_gets_the_same_messages(holder: Combining) -> None:
    first = holder.take()
    assert holder.call(*first, request_id="same") == ["2", "3"]
    assert holder.call(*first, request_id="same") == ["2", "3"]


def test_nothing_is_received_after_the_session_was_released(holder: Combining) -> None:
    first = holder.take()
    holder.release()
    settled = holder.start(first).result(20)
    assert settled.delivery is None
    assert settled.codes[0] in (SESSION_LOCK_LOST, MESSAGE_LOCK_LOST)
    assert texts(Holder(holder.broker).take(2)) == ["1", "2"]
