"""Receives that take a message which was fetched ahead, without the loop's thread."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from azsession import ReceivedMessage, SessionLockedError
from azsession.amqp.message_mapping import has_expired
from azsession.broker.azure import AzureBroker
from azsession.broker.azure.session.offers import Offer
from azsession.broker.azure.session.unsettled import UnsettledMessage
from azsession.broker.calls import Delivery, Disposition, ReceiveRequest, Settlement, wait_for
from azsession.client.call import SessionTarget
from azsession.client.inprocess import InProcessAdapter

from ....conftest import eventually
from ..holders import QUEUE, Holder, completed, connection_of, held_again, send, texts

if TYPE_CHECKING:
    from tests.standin import StandIn


class OneByOne(Holder):
    """A holder that receives message by message, as clients of version 1 do: each receive has an id."""

    def start(self, request_id: str = "", timeout: float = 10.0) -> Future[Delivery]:
        request = ReceiveRequest(
            *self.whose,
            max_count=1,
            timeout=timeout,
            request_id=request_id or str(uuid.uuid4()),
            holds_lock=True,
            client="a worker",
        )
        return self.broker.receive(request)

    def one(self, request_id: str = "") -> ReceivedMessage:
        (message,) = wait_for(self.start(request_id)).messages
        return message

    def has_offer(self) -> bool:
        return (QUEUE, self.session_id, self.lock_id) in self.broker._registry.offers._offers

    def complete_until_offered(self, message: ReceivedMessage) -> None:
        """Complete a message. Return when the next one is offered."""
        assert self.complete(message) == [None]
        eventually(self.has_offer)


@contextmanager
def busy(broker: AzureBroker) -> Iterator[None]:
    """Keep the loop's thread busy until the end of the ``with`` block."""
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        ended.wait(30)

    broker._loop.call(work)
    try:
        assert begun.wait(30)
        yield
    finally:
        ended.set()


@pytest.fixture
def holder(broker: AzureBroker) -> OneByOne:
    """A holder that has received and completed the first of five messages. The second one is offered."""
    send(broker, "1", "2", "3", "4", "5")
    holder = OneByOne(broker)
    (first,) = holder.receive()
    holder.complete_until_offered(first)
    return holder


def test_the_next_receive_after_a_completion_needs_nothing_of_the_loops_thread(
    namespace: StandIn, broker: AzureBroker, holder: OneByOne
) -> None:
    with busy(broker):
        future = holder.start()
        assert future.done()
        (message,) = future.result().messages
        assert message.text() == "2"
        assert 0 < future.result().lock_expires_in <= 60
        # There is no other message that could come without the loop.
        assert not (third := holder.start()).done()
    assert texts(list(third.result(10).messages)) == ["3"]
    assert holder.complete(message) == [None]
    assert completed(namespace) == ["1", "2"]


def test_a_client_in_this_process_takes_the_message_without_a_request(broker: AzureBroker, holder: OneByOne) -> None:
    adapter = InProcessAdapter(broker, "http://localhost")
    session = SessionTarget(QUEUE, "s1", holder.lock_id, "route")
    with busy(broker):
        grant = adapter.take_offered(session, "same")
        assert adapter.take_offered(session, "other") is None
    assert grant is not None
    (message,) = grant.messages
    assert (message.text(), message.receipt.route, message.session_id) == ("2", "route", "s1")
    assert grant.duration is not None
    assert 0 < grant.duration <= 60
    # A request with the same id, after an interrupt, gets the same message.
    assert holder.one("same").receipt.handle == message.receipt.handle
    assert holder.one().text() == "3"


def test_an_adapter_that_is_closed_offers_nothing(broker: AzureBroker, holder: OneByOne) -> None:
    adapter = InProcessAdapter(broker, "http://localhost")
    adapter.close()
    assert adapter.take_offered(SessionTarget(QUEUE, "s1", holder.lock_id, "route"), "same") is None


def test_a_repeated_receive_gets_the_message_that_the_first_attempt_took(broker: AzureBroker, holder: OneByOne) -> None:
    with busy(broker):
        assert holder.start("same").result(10).messages[0].text() == "2"
    assert holder.one("same").text() == "2"


def test_a_repeated_receive_does_not_take_the_message_that_is_offered_meanwhile(
    broker: AzureBroker, holder: OneByOne
) -> None:
    second = holder.one()
    third = holder.one("same")
    holder.complete_until_offered(second)
    assert holder.one("same").receipt.handle == third.receipt.handle
    assert holder.one().text() == "4"


def test_another_holder_does_not_get_the_message(broker: AzureBroker, holder: OneByOne) -> None:
    with pytest.raises(SessionLockedError):
        OneByOne(broker).one()
    assert holder.one().text() == "2"


def test_a_batch_begins_with_the_message_that_was_offered(holder: OneByOne) -> None:
    assert texts(holder.take(4)) == ["2", "3", "4", "5"]


@pytest.mark.parametrize("is_taken", [False, True], ids=["offered", "taken"])
def test_an_abandoned_message_comes_again_before_the_messages_that_nobody_took(
    broker: AzureBroker, holder: OneByOne, is_taken: bool
) -> None:
    second = holder.one()
    third = holder.one()
    holder.complete_until_offered(third)
    if is_taken:
        with busy(broker):
            fourth = holder.start()
            abandoned = broker.settle(QUEUE, holder.session_id, [Settlement(second.receipt.handle, Disposition.ABANDON)])
        assert wait_for(fourth).messages[0].text() == "4"
        assert abandoned.result(10) == [None]
    else:
        assert holder.settle(second, how=Disposition.ABANDON) == [None]
    expected = ["2", "5"] if is_taken else ["2", "4", "5"]
    assert [holder.one().text() for _ in expected] == expected


def test_a_message_that_is_given_back_comes_again_uncounted(broker: AzureBroker, holder: OneByOne) -> None:
    with busy(broker):
        (second,) = holder.start().result(10).messages
        given_back = broker.give_back(*holder.whose, [second.receipt.handle])
    given_back.result(10)
    again = holder.one()
    assert (again.text(), again.delivery_count) == ("2", 1)


def test_a_message_that_was_taken_when_the_session_is_released_goes_uncounted_to_the_next_holder(
    broker: AzureBroker, other: AzureBroker, holder: OneByOne
) -> None:
    with busy(broker):
        holder.start().result(10)
    holder.release()
    (again,) = Holder(other).receive()
    assert (again.text(), again.delivery_count) == ("2", 1)


def test_a_message_that_was_taken_when_the_link_was_lost_can_be_completed(
    namespace: StandIn, broker: AzureBroker, holder: OneByOne
) -> None:
    connection = connection_of(broker)
    with busy(broker):
        (second,) = holder.start().result(10).messages
        broker._loop.call(lambda: connection.transport.fail("a test"))
    held_again(namespace, holder)
    assert holder.complete(second) == [None]
    assert holder.one().text() == "3"
    assert completed(namespace) == ["1", "2"]


def test_an_offered_message_comes_once_after_the_link_was_lost(
    namespace: StandIn, broker: AzureBroker, holder: OneByOne
) -> None:
    connection = connection_of(broker)
    broker._loop.run(lambda: connection.transport.fail("a test"))
    held_again(namespace, holder)
    messages = [holder.one() for _ in range(4)]
    assert texts(messages) == ["2", "3", "4", "5"]
    assert holder.complete(*messages) == [None] * 4


def test_a_session_that_is_held_back_offers_nothing(broker: AzureBroker, holder: OneByOne) -> None:
    session = broker._registry.held(QUEUE, holder.session_id)
    assert session is not None
    broker._loop.run(session.receives.pause)
    assert list(wait_for(holder.start(timeout=0.0)).messages) == []
    broker._loop.run(session.receives.resume)
    assert holder.one().text() == "2"


def test_a_message_whose_time_to_live_is_over_is_not_taken(namespace: StandIn, broker: AzureBroker) -> None:
    send(broker, "1")
    send(broker, "brief", time_to_live=timedelta(seconds=3))
    send(broker, "3")
    holder = OneByOne(broker)
    (first,) = holder.receive()
    holder.complete_until_offered(first)
    offered = broker._registry.offers._offers[holder.whose].message
    eventually(lambda: has_expired(offered.message))
    assert holder.one().text() == "3"


def test_many_threads_get_each_message_once_and_complete_it(namespace: StandIn, broker: AzureBroker) -> None:
    sent = [f"{number:03}" for number in range(200)]
    send(broker, *sent)
    holder = OneByOne(broker)
    (first,) = holder.receive()
    holder.complete_until_offered(first)

    def work() -> list[str]:
        got = []
        while list(messages := wait_for(holder.start(timeout=0.2)).messages):
            got += texts(list(messages))
            assert holder.complete(*messages) == [None]
        return got

    with ThreadPoolExecutor(4) as pool:
        parts = [future.result(60) for future in [pool.submit(work) for _ in range(4)]]
    assert all(part == sorted(part) for part in parts)
    assert sorted(sum(parts, ["000"])) == sent
    assert sorted(completed(namespace)) == sent


def test_an_offer_that_is_withdrawn_while_a_receive_looks_at_it_is_not_taken(broker: AzureBroker, holder: OneByOne) -> None:
    offer = broker._registry.offers._offers[holder.whose]
    withdrawn: list[ReceiveRequest | None] = []

    class Answered(frozenset[str]):
        def __contains__(self, request_id: object) -> bool:
            withdrawn.append(offer.withdraw())
            return False

    offer._answered = Answered()
    request = ReceiveRequest(*holder.whose, max_count=1, timeout=0.0, request_id="late", holds_lock=True)
    assert not offer.take(request)
    assert withdrawn == [None]


def test_two_receives_do_not_take_the_same_message(broker: AzureBroker, holder: OneByOne) -> None:
    with busy(broker):
        first, second = holder.start("one"), holder.start("two")
        assert first.done()
        assert not second.done()
    assert [texts(list(future.result(10).messages)) for future in (first, second)] == [["2"], ["3"]]


def test_a_message_that_cannot_be_decoded_is_left_to_the_loop(broker: AzureBroker, holder: OneByOne) -> None:
    session = broker._registry.held(*holder.whose[:2])
    assert session is not None
    request = ReceiveRequest(*holder.whose, max_count=1, timeout=0.0, request_id="r", holds_lock=True)
    offer = Offer(session, UnsettledMessage("token", 1, b"no message", None), ())
    assert not offer.take(request)
    assert offer.withdraw() is None
