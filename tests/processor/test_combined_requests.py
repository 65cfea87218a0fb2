"""The requests of a processor: it takes sessions with their messages, and settles the last message with the release."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from azsession import (
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionProcessor,
    ValidationError,
)
from azsession.client import fetched_ahead
from azsession.client.session import holder_of
from azsession.protocol import COMBINED

from ..conftest import eventually
from .front import Front, Reported, processing
from .helpers import QUEUE, Gate, Seen, left, locked, send


def run(front: Front, handler: Any, **options: Any) -> list[str]:
    """Run a processor until the queue is empty. Return the names of its requests, without accepts that found nothing."""
    front.provider.list_sessions(QUEUE)  # The answer shows what the server can do.
    front.requests.clear()
    made = {"max_concurrent_sessions": 1, "until_empty": True, **options}
    SessionProcessor(front.provider, QUEUE, handler, **made).run()
    while front.requests and front.requests[-1] == "accept":
        front.requests.pop()
    return front.requests


@pytest.mark.parametrize("in_background", [0, 3])
def test_a_session_of_one_message_costs_two_requests(provider: ServiceBusProvider, front: Front, in_background: int) -> None:
    for number in range(3):
        send(provider, f"s{number}", ["only"])
    seen = Seen()
    assert run(front, seen, settle_in_background=in_background) == ["accept", "release"] * 3
    assert front.settled == [{"complete": 1}] * 3
    assert seen.count == 3
    assert (left(provider), locked(provider)) == (0, [])


def test_a_server_without_combined_requests_gets_one_request_for_each_step(
    provider: ServiceBusProvider, front: Front
) -> None:
    front.hides = (COMBINED,)
    send(provider, "a", ["1", "2"])
    assert run(front, Seen()) == ["accept", "receive", "complete", "complete", "release"]


def test_more_messages_are_received_when_those_of_the_accept_are_handled(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", map(str, range(7)))
    seen = Seen()
    three = ["complete"] * 3
    assert run(front, seen, prefetch=3) == ["accept", *three, "receive", *three, "receive", "release"]
    assert seen.by_session["a"] == [str(each) for each in range(7)]


def test_the_last_message_of_a_turn_is_settled_with_the_release(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", ["1", "2", "3", "4", "5"])
    seen = Seen()
    requests = run(front, seen, max_messages_per_session=2)
    # After its turn, the processor asks for another session before it takes this one again.
    assert [name for name in requests if name != "accept"] == ["complete", "release"] * 2 + ["release"]
    assert seen.by_session["a"] == ["1", "2", "3", "4", "5"]


def test_a_listed_session_is_received_with_its_lock(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", ["1"])
    assert run(front, Seen(), session_ids=["a"])[:2] == ["receive", "release"]


def test_a_handler_that_gives_later_messages_back_gets_them_in_the_same_turn(
    provider: ServiceBusProvider, front: Front
) -> None:
    """The session was known to be empty behind them, and is not any more."""

    def give_back(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "1":
            fetched_ahead.give_back(holder_of(session))

    send(provider, "a", ["1", "2"])
    seen = Seen(give_back)
    assert run(front, seen) == ["accept", "$settle", "complete", "receive", "release"]
    assert seen.by_session["a"] == ["1", "2"]


def test_an_idle_timeout_keeps_the_session_after_its_last_message(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", ["1"])
    front.provider.list_sessions(QUEUE)
    with processing(front, Seen(), 0, session_idle_timeout=20) as processor:
        eventually(lambda: processor.stats.messages_done == 1)
        eventually(lambda: "receive" in front.requests)
    assert front.requests == ["accept", "complete", "receive", "release"]


def test_a_processor_that_stops_settles_the_message_in_hand_with_the_release(
    provider: ServiceBusProvider, front: Front
) -> None:
    gate = Gate()
    send(provider, "a", ["1", "2", "3"])
    front.provider.list_sessions(QUEUE)
    with processing(front, gate, 0) as processor:
        assert gate.reached.wait(30)
        stopping = threading.Thread(target=processor.stop)
        stopping.start()
        eventually(lambda: "stopping" in repr(processor))
        gate.opened.set()
        stopping.join(30)
    assert front.requests[-2:] == ["accept", "release"]
    assert (processor.stats.messages_done, processor.stats.sessions_done) == (1, 1)
    with provider.create_session_client(QUEUE, "a") as session:
        assert [(each.text(), each.delivery_count) for each in session.receive_messages(5, timeout=5)] == [("2", 1), ("3", 1)]


def test_a_failed_settlement_of_the_last_message_is_reported_and_the_session_is_released(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    reported, closed = Reported(), Gate()
    closed.opened.set()
    send(provider, "a", ["1"])
    front.provider.list_sessions(QUEUE)
    front.refuse = 1
    seen = Seen()
    with processing(front, seen, 0, on_error=reported, on_session_closed=closed) as processor:
        eventually(lambda: processor.stats.messages_done == 1)
        assert processor.stats.messages_failed == 1
    assert seen.by_session["a"] == ["1", "1"]
    assert reported.all == [(ValidationError, "1")]
    assert (left(provider), locked(provider)) == (0, [])


def test_a_lock_that_is_lost_before_the_last_settlement_is_reported(
    provider: ServiceBusProvider, front: Front, quick: None
) -> None:
    """The lock is released by somebody else, so that the client does not know of the loss."""
    reported = Reported()

    def lose(message: ReceivedMessage, session: SessionClient) -> None:
        if seen.count == 1:
            with front.provider.session_from_handle(session.lock_handle()):
                pass

    seen = Seen(lose)
    send(provider, "a", ["1"])
    front.provider.list_sessions(QUEUE)
    with processing(front, seen, 0, on_error=reported) as processor:
        eventually(lambda: processor.stats.messages_done == 1)
    assert seen.by_session["a"] == ["1", "1"]
    assert reported.texts == ["1"]


def test_messages_of_a_session_that_is_held_back_count_no_delivery(provider: ServiceBusProvider, front: Front) -> None:
    """The server offers it early, because its message could not be abandoned."""

    def lose(message: ReceivedMessage, session: SessionClient) -> None:
        if seen.count == 1:
            session.close_session()
            raise RuntimeError("not now")

    seen = Seen(lose)
    send(provider, "a", ["1", "2"])
    front.provider.list_sessions(QUEUE)
    with processing(front, seen, 0, on_error=lambda *_: None) as processor:
        eventually(lambda: "$settle" in front.requests)
        eventually(lambda: processor.stats.messages_done == 2)
    assert {"release": 2} in front.settled
    assert seen.by_session["a"] == ["1", "1", "2"]


def test_a_session_of_another_client_is_left_alone(provider: ServiceBusProvider, front: Front) -> None:
    send(provider, "a", ["1"])
    with provider.create_session_client(QUEUE, "a") as session:
        assert session.receive_message(timeout=10) is not None
        assert run(front, Seen()) == []
        with pytest.raises(SessionLockedError), front.provider.create_session_client(QUEUE, "a") as other:
            other.receive_message(timeout=0)
