"""The memory of the embedded broker is bounded by its stored messages and its locks, and not by its history."""

from __future__ import annotations

import gc
import weakref

import pytest

from azsession import SessionNotFoundError
from azsession.broker.calls import AcceptRequest, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.broker.embedded.session_locks import MAX_LOST, MAX_REFUSED

from .helpers import NO_WAIT, HandClock, count_rows, messages, receive, send


def test_50001_releases_of_sessions_that_were_never_held_do_not_evict_a_lost_lock_id(
    broker: EmbeddedBroker, clock: HandClock
) -> None:
    receive(broker, "lost")
    clock.advance(31)
    for number in range(MAX_LOST + 1):
        broker.release("q", f"s{number}", "never held").result()
    with pytest.raises(SessionNotFoundError):
        receive(broker, "lost")
    assert len(broker._core.locks._refused) == MAX_REFUSED


def test_remembered_requests_keep_keys_only(broker: EmbeddedBroker) -> None:
    body = "x" * 100_000
    before = broker._core.connection.execute("PRAGMA page_count").fetchone()[0]
    for number in range(100):
        broker.send("q", messages(body), f"request {number}").result()
        received = receive(broker, "A", request_id=f"receive {number}")
        broker.dead_letter_session("q", "s", "A", "why", None, f"dead-letter {number}").result()
        broker.delete_dead_letter("q", received[0].sequence_number or 0).result()
    assert count_rows(broker, "requests_0", "requests_1") == 100
    assert broker._core.connection.execute("PRAGMA page_count").fetchone()[0] - before < 200
    (lock,) = broker._core.locks
    assert all(isinstance(token, str) for tokens in lock.answers.values() for token in tokens)
    assert len(lock.answers) <= 32
    assert len(lock.dead_lettered) == 1


def test_receives_that_got_their_messages_long_before_their_timeout_leave_nothing_behind() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        results: list[weakref.ref[object]] = []
        for _ in range(500):
            future = broker.receive(ReceiveRequest("q", "s", "", max_count=1, timeout=600), context=NO_WAIT)
            send(broker, "a")
            (message,) = future.result(10).messages
            results.append(weakref.ref(future))
            broker.settle("q", "s", []).result()
            del future, message
        gc.collect()
        assert len(broker._core.due._deadlines) < 200
        assert sum(one() is not None for one in results) < 5


def test_withdrawn_waits_leave_nothing_behind() -> None:
    with EmbeddedBroker(queues=["q"]) as broker:
        for number in range(500):
            accept = broker.accept(AcceptRequest("q", None, f"lock {number}", timeout=600), context=NO_WAIT)
            receive = broker.receive(ReceiveRequest("q", f"s{number}", "A", max_count=1, timeout=600), context=NO_WAIT)
            broker.list_queues().result()
            assert accept.cancel()
            assert receive.cancel()
        broker.list_queues().result()
        core = broker._core
        assert len(core.due._deadlines) < 200
        assert list(core.queues["q"].acceptors) == []
        assert list(core.locks) == []
        assert len(core.locks._expiries) < 200
