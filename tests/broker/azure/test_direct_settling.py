"""Settlements that are not answered, cancelled, or interrupted by the end of the broker."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

import pytest

from azsession import ConnectionFailedError, ProviderError
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import CallContext, Disposition, Settlement

from .holders import QUEUE, Holder, completed, send
from .session.test_offers import busy

if TYPE_CHECKING:
    from tests.standin import StandIn


class Settling(Holder):
    """A holder with one message to settle."""

    def __init__(self, broker: AzureBroker) -> None:
        super().__init__(broker)
        send(broker, "one")
        (message,) = self.take()
        self.settlements = [Settlement(message.receipt.handle, Disposition.COMPLETE)]

    def start(self, context: CallContext | None = None) -> Future[list[str | None]]:
        return self.broker.settle(QUEUE, self.session_id, self.settlements, context=context or CallContext())


@pytest.fixture
def holder(broker: AzureBroker) -> Settling:
    return Settling(broker)


def test_a_settlement_that_is_not_answered_fails_at_the_callers_deadline_and_may_be_repeated(
    namespace: StandIn, holder: Settling
) -> None:
    namespace.delay(1.0)
    with pytest.raises(ConnectionFailedError, match="no answer") as caught:
        holder.start(CallContext(deadline=time.monotonic() + 0.2)).result(10)
    assert caught.value.maybe_delivered
    assert holder.start().result(10) == [None]
    assert completed(namespace) == ["one"]


def test_a_settlement_that_waits_fails_when_the_loop_ends(namespace: StandIn, holder: Settling) -> None:
    namespace.delay(60.0)
    settling = holder.start()
    holder.broker._loop.run(lambda: None)
    holder.broker._loop.close()
    with pytest.raises(ProviderError, match="closed"):
        settling.result(10)


def test_a_settlement_on_a_closed_broker_fails(holder: Settling) -> None:
    holder.broker.close()
    settling = holder.start()
    with pytest.raises(ProviderError, match="closed"):
        settling.result(10)


def test_a_settlement_that_is_cancelled_before_it_begins_is_not_sent(namespace: StandIn, holder: Settling) -> None:
    with busy(holder.broker):
        settling = holder.start()
        assert settling.cancel()
    with pytest.raises(CancelledError):
        settling.result(10)
    holder.release()
    assert completed(namespace) == []
    assert namespace.counts(QUEUE).active == 1


def test_a_settlement_that_began_cannot_be_cancelled(namespace: StandIn, holder: Settling) -> None:
    namespace.delay(0.2)
    settling = holder.start()
    holder.broker._loop.run(lambda: None)
    assert not settling.cancel()
    assert settling.result(10) == [None]
    assert completed(namespace) == ["one"]
