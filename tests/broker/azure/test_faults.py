"""Callers that try again, go away or say nothing more, and brokers that stop: nothing is swallowed, held or settled twice."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from azsession import ConnectionFailedError, ProviderError, QueueError, SessionLockedError, SessionNotFoundError
from azsession.broker.azure import AzureBroker
from azsession.broker.base import NO_DEADLINE, AcceptRequest, CallContext, Caller, Disposition, ReceiveRequest
from azsession.config import ServiceBusConfig
from azsession.server import GatewayService

from ...conftest import eventually
from ...server.raw import KEYS, Gateway, SteppedClock
from ...standin.require import require_standin
from .holders import QUEUE, Holder, broker_on, completed, in_thread, send, texts, waits_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.standin import StandIn


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    """A namespace with one queue whose locks last."""
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


@pytest.fixture
def broker(namespace: StandIn) -> Iterator[AzureBroker]:
    with broker_on(namespace) as broker:
        yield broker


@pytest.fixture
def gateway(namespace: StandIn) -> Iterator[Gateway]:
    """A gateway in front of the namespace, for requests made by hand."""
    azure = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), None)
    with GatewayService(azure, KEYS, max_waiting=16) as service:
        yield Gateway(service, SteppedClock())


def holder_behind(gateway: Gateway) -> Holder:
    """The one whose lock id the gateway's callers use, to look at what waits."""
    azure = gateway.service.broker
    assert isinstance(azure, AzureBroker)
    return Holder(azure)


# The same request again


def test_a_receive_again_gives_the_same_messages(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b", "c")
    first = holder.receive(2, request_id="r1")
    again = holder.receive(2, request_id="r1")
    assert [message.receipt.handle for message in again] == [message.receipt.handle for message in first]
    assert texts(again) == ["a", "b"]
    assert texts(holder.receive(request_id="r2")) == ["c"]
    assert holder.complete(*again) == [None, None]


def test_a_receive_again_gives_the_same_messages_after_the_link_was_lost(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    first = holder.receive(request_id="r1")
    namespace.drop_connections()
    again = holder.receive(request_id="r1")
    assert [message.receipt.handle for message in again] == [message.receipt.handle for message in first]
    assert holder.complete(*again) == [None]
    assert texts(holder.receive(request_id="r2")) == ["b"]


def test_a_holder_whose_gateway_was_another_is_not_given_the_lock_anew(broker: AzureBroker) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        broker.receive(ReceiveRequest(QUEUE, "s1", str(uuid.uuid4()), max_count=1, timeout=0.0, holds_lock=True))
    assert caught.value.code == "SessionLockLost"
    assert Holder(broker).receive(timeout=0.0) == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda broker, whose: broker.get_state(*whose),
        lambda broker, whose: broker.set_state(*whose, b"mine"),
        lambda broker, whose: broker.receive_deferred(*whose, [1]),
        lambda broker, whose: broker.dead_letter_session(*whose, "why", None),
        lambda broker, whose: broker.renew(*whose),
    ],
    ids=["get state", "set state", "receive deferred", "dead-letter session", "renew"],
)
def test_a_holder_whose_gateway_was_another_is_not_let_in_by_what_only_a_holder_may_do(
    operation: Callable[[AzureBroker, tuple[str, str, str]], object], namespace: StandIn, broker: AzureBroker
) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        operation(broker, Holder(broker).whose)
    assert caught.value.code == "SessionLockLost"
    assert namespace.locked_sessions(QUEUE) == set()


def test_a_receive_again_takes_the_place_of_one_that_still_waits(namespace: StandIn, broker: AzureBroker) -> None:
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


def test_a_receive_again_while_the_link_is_lost_takes_the_place_of_the_first(namespace: StandIn, broker: AzureBroker) -> None:
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


def test_a_settlement_again_succeeds_and_another_kind_does_not(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    send(broker, "a")
    messages = holder.take()
    assert holder.complete(*messages) == [None]
    assert holder.complete(*messages) == [None]
    assert holder.settle(*messages, how=Disposition.ABANDON) == ["Conflict"]
    holder.release()
    assert holder.complete(*messages) == [None]
    assert completed(namespace) == ["a"]


def test_a_settlement_again_waits_for_the_first_and_another_kind_is_refused(namespace: StandIn, broker: AzureBroker) -> None:
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


def test_another_kind_of_settlement_is_a_conflict_over_http(gateway: Gateway) -> None:
    gateway.send(QUEUE, "s1", "a")
    holder = gateway.holder(QUEUE, "s1", str(uuid.uuid4()))
    token = holder.receive("timeout=5").token
    assert [holder.complete(token).status for _ in range(2)] == [204, 204]
    reply = holder.abandon(token)
    assert (reply.status, reply.code) == (409, "Conflict")


def test_an_accept_again_gives_the_same_session(namespace: StandIn, broker: AzureBroker) -> None:
    send(broker, "a", session_id="s1")
    send(broker, "b", session_id="s2")
    holder = Holder(broker)
    first = holder.accept_next(request_id="r1")
    assert holder.accept_next(request_id="r1") == first
    assert namespace.locked_sessions(QUEUE) == {first}
    holder.release()
    assert Holder(broker).accept_next(request_id="r1") in ("s1", "s2")


def test_an_accept_again_takes_the_place_of_one_that_still_waits(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    first = in_thread(lambda: holder.accept_next(request_id="r1"))
    eventually(lambda: broker._loop.run(lambda: len(broker._registry._pending)))
    second = in_thread(lambda: holder.accept_next(request_id="r1"))
    assert first.result(10) is None
    send(broker, "a")
    assert second.result(10) == "s1"
    send(broker, "b", session_id="s2")
    assert namespace.locked_sessions(QUEUE) == {"s1"}


def test_an_accept_waits_on_when_its_link_was_lost(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    accepting = in_thread(holder.accept_next)
    for number in range(6):
        eventually(lambda: namespace.loop.call(lambda: len(namespace._queue(QUEUE).waiting)))
        if number % 2:
            namespace.drop_connections()
        else:
            namespace.detach_links(QUEUE)
    with broker_on(namespace) as sender:
        send(sender, "a")
    assert accepting.result(10) == "s1"
    assert texts(holder.take()) == ["a"]


# Callers that go away


class Leaving(Caller):
    """A caller that leaves when it is told to."""

    def __init__(self) -> None:
        self.gone = False
        self.watched_by: list[Callable[[], None]] = []

    def is_gone(self) -> bool:
        return self.gone

    @contextmanager
    def watched(self, on_gone: Callable[[], None]) -> Iterator[None]:
        self.watched_by.append(on_gone)
        yield
        self.watched_by.remove(on_gone)

    def leave(self) -> None:
        self.gone = True
        for tell in list(self.watched_by):
            tell()


def test_a_client_that_closes_its_socket_takes_no_message_along(namespace: StandIn, gateway: Gateway) -> None:
    holder = gateway.holder(QUEUE, "s1", str(uuid.uuid4()))
    behind = holder_behind(gateway)
    sock = holder.start_receive(30, {"Azsession-Request-Id": str(uuid.uuid4())})
    eventually(lambda: waits_in(behind) and namespace.locked_sessions(QUEUE))
    sock.close()
    eventually(lambda: not waits_in(behind))
    gateway.send(QUEUE, "s1", "a")
    assert namespace.counts(QUEUE).locked == 0
    reply = holder.receive("timeout=5")
    assert (reply.body, reply.properties["DeliveryCount"]) == (b"a", 1)


def test_a_client_that_closes_its_socket_while_it_waits_for_any_session_takes_none(
    namespace: StandIn, gateway: Gateway
) -> None:
    headers = {"Azsession-Lock-Id": str(uuid.uuid4()), "Content-Type": "application/json", "Content-Length": "2"}
    sock = gateway.open_socket(gateway.head("POST", f"/{QUEUE}/sessions?timeout=30", headers) + b"{}")
    registry = holder_behind(gateway).broker._registry
    eventually(lambda: len(registry._pending) and namespace.links() > 2)
    before = namespace.links()
    sock.close()
    eventually(lambda: not registry._pending and namespace.links() < before)
    gateway.send(QUEUE, "s1", "a")
    assert namespace.locked_sessions(QUEUE) == set()
    assert gateway.holder(QUEUE, "s1", str(uuid.uuid4())).receive("timeout=5").body == b"a"


def test_what_came_for_a_caller_that_has_left_goes_to_the_next_receive(namespace: StandIn, broker: AzureBroker) -> None:
    holder, caller = Holder(broker), Leaving()
    waiting = in_thread(
        lambda: broker.receive(
            ReceiveRequest(*holder.whose, max_count=2, timeout=10.0, request_id="r1"), context=CallContext(caller)
        )
    )
    eventually(lambda: caller.watched_by)
    # It is gone, but nobody was told before the messages were there.
    caller.gone = True
    send(broker, "a", "b", "c")
    assert waiting.result(10).messages == []
    assert texts(holder.take(3)) == ["a", "b", "c"]


def test_a_session_that_came_for_a_caller_that_has_left_is_released(namespace: StandIn, broker: AzureBroker) -> None:
    holder, caller = Holder(broker), Leaving()
    accepting = in_thread(
        lambda: broker.accept(AcceptRequest(QUEUE, None, holder.lock_id, timeout=10.0), context=CallContext(caller))
    )
    eventually(lambda: caller.watched_by)
    caller.gone = True
    send(broker, "a")
    assert accepting.result(10) is None
    assert Holder(broker).accept_next() == "s1"


def test_links_of_callers_that_leave_are_given_up(namespace: StandIn, broker: AzureBroker) -> None:
    send(broker, "a", session_id="elsewhere")
    Holder(broker, "elsewhere").take()
    before = namespace.links()
    for _ in range(20):
        caller = Leaving()
        accepting = in_thread(
            partial(broker.accept, AcceptRequest(QUEUE, None, "x", timeout=10.0), context=CallContext(caller))
        )
        eventually(partial(len, caller.watched_by))
        caller.leave()
        assert accepting.result(10) is None
    eventually(lambda: namespace.links() == before)
    connection = broker._namespace.connect(QUEUE, NO_DEADLINE)
    eventually(lambda: sum(len(channel._links) for channel in connection.transport._channels.values()) == before)


# Holders that say nothing more


def test_a_holder_that_says_nothing_more_is_dropped(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    holder, next_holder = Holder(broker), Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    with pytest.raises(SessionLockedError):
        next_holder.receive(timeout=0)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert texts(next_holder.take()) == ["a"]
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert holder.complete(a) == ["MessageLockLost"]


def test_one_who_accepted_and_says_nothing_more_is_dropped(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    send(broker, "a")
    holder = Holder(broker)
    assert holder.accept_next() == "s1"
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert Holder(broker).accept_next() == "s1"
    with pytest.raises(SessionNotFoundError):
        holder.receive(timeout=0)


def test_a_lock_lives_as_long_as_a_receive_waits(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.0)
    first, accepted = Holder(broker), Holder(broker)
    send(broker, "a", session_id="s2")
    assert accepted.accept_next() == "s2"
    (a,) = accepted.take()
    waits = [in_thread(partial(one.receive, timeout=2.5)) for one in (first, accepted)]
    assert [waiting.result(10) for waiting in waits] == [[], []]
    assert namespace.log["renew-session-lock"] >= 4
    assert accepted.complete(a) == [None]
    assert first.renew() > 0


def test_renewals_that_fail_for_a_while_do_not_cost_the_lock(namespace: StandIn, broker: AzureBroker) -> None:
    namespace.create_queue(QUEUE, lock_duration=1.5)
    holder = Holder(broker)
    waiting = in_thread(lambda: holder.receive(timeout=2.5))
    eventually(lambda: waits_in(holder) and namespace.locked_sessions(QUEUE))
    namespace.refuse("renew-session-lock", "com.microsoft:server-busy", 2)
    assert waiting.result(10) == []
    assert holder.renew() > 0


# The end


def test_all_who_wait_are_answered_when_waiting_stops(namespace: StandIn, broker: AzureBroker) -> None:
    holders = [Holder(broker, f"s{number}") for number in range(20)]
    waits = [in_thread(one.receive) for one in holders]
    eventually(lambda: len(namespace.locked_sessions(QUEUE)) == 20)
    accepts = [in_thread(Holder(broker).accept_next) for _ in range(10)]
    eventually(lambda: broker._loop.run(lambda: len(broker._registry._pending)) == 10)
    broker.stop_waiting()
    assert not wait(list[Future[Any]]([*waits, *accepts]), 10).not_done
    assert [waiting.result() for waiting in waits] == [[]] * 20
    assert [accepting.result() for accepting in accepts] == [None] * 10
    # Whoever comes now finds what is there, and does not wait for more.
    send(broker, "a", session_id="s1")
    assert texts(holders[1].receive()) == ["a"]
    assert holders[2].receive(timeout=60) == []
    assert Holder(broker).accept_next(timeout=60) is None


def test_waiting_stops_while_links_are_lost(namespace: StandIn, broker: AzureBroker) -> None:
    holders = [Holder(broker, f"s{number}") for number in range(5)]
    waits = [in_thread(one.receive) for one in holders]
    eventually(lambda: len(namespace.locked_sessions(QUEUE)) == 5)
    namespace.refuse("attach", "com.microsoft:server-busy", 1000)
    namespace.drop_connections()
    broker.stop_waiting()
    assert not wait(waits, 5).not_done
    assert [waiting.result() for waiting in waits] == [[]] * 5


def test_closing_gives_all_sessions_back_and_ends_all_waits(namespace: StandIn) -> None:
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(50)]
        for holder in holders:
            send(broker, "a", session_id=holder.session_id)
            holder.take()
        waits = [in_thread(one.receive) for one in holders[:20]]
        eventually(lambda: all(waits_in(one) for one in holders[:20]))
        accepts = [in_thread(Holder(broker).accept_next) for _ in range(5)]
        eventually(lambda: broker._loop.run(lambda: len(broker._registry._pending)) == 5)
        broker.close()
        assert namespace.locked_sessions(QUEUE) == set()
        assert not wait(list[Future[Any]]([*waits, *accepts]), 10).not_done
        assert [waiting.result() for waiting in waits] == [[]] * 20
        with pytest.raises(QueueError):
            holders[0].receive()
    assert namespace.counts(QUEUE).locked == 0
    eventually(lambda: namespace.connections() == 0)


@pytest.mark.parametrize("how", ["dropped", "silent"])
def test_closing_does_not_hang_on_a_namespace_that_is_in_trouble(
    namespace: StandIn, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("azsession.broker.azure.broker.RELEASE_TIMEOUT", 0.3)
    with broker_on(namespace) as broker:
        holders = [Holder(broker, f"s{number}") for number in range(10)]
        for holder in holders:
            holder.receive(timeout=0)
        waiting = in_thread(holders[0].receive)
        eventually(lambda: waits_in(holders[0]))
        if how == "silent":
            namespace.delay(30)
        else:
            namespace.refuse("attach", "com.microsoft:server-busy", 1000)
            namespace.drop_connections()
        closing = in_thread(broker.close)
        closing.result(5)
        assert waiting.result(5) == []
    namespace.delay(0)


# Sending


def test_a_send_whose_answer_was_lost_is_uncertain_and_is_not_sent_again(namespace: StandIn, broker: AzureBroker) -> None:
    send(broker, "first")
    namespace.swallow("send")
    sending = in_thread(lambda: send(broker, "a"))
    eventually(lambda: len(namespace.accepted(QUEUE)) == 2)
    namespace.drop_connections()
    with pytest.raises(ConnectionFailedError) as caught:
        sending.result(10)
    assert caught.value.maybe_delivered
    send(broker, "b")
    assert [message_id for _, _, message_id in namespace.accepted(QUEUE)] == ["first", "a", "b"]


# Many at once


def test_calls_from_many_threads_in_one_session_survive_lost_links(namespace: StandIn, broker: AzureBroker) -> None:
    holder = Holder(broker)
    bodies = [f"m{number:03}" for number in range(120)]
    send(broker, *bodies)
    seen: list[str] = []
    ended = threading.Event()

    def consume() -> None:
        while len(seen) < len(bodies):
            messages = holder.receive(5, timeout=0.2)
            seen.extend(texts(messages))
            if messages:
                assert holder.complete(*messages) == [None] * len(messages)

    def trouble() -> None:
        while not ended.wait(0.02):
            namespace.detach_links(QUEUE)

    making = in_thread(trouble)
    consuming = [in_thread(consume) for _ in range(4)]
    try:
        for one in consuming:
            one.result(30)
    finally:
        ended.set()
        making.result(10)
    assert sorted(seen) == bodies
    assert sorted(completed(namespace)) == bodies
