"""The broker on Azure keeps nothing of what is over: no sessions, no bodies, and next to nothing of sends."""

from __future__ import annotations

import gc
import tracemalloc
import uuid
import weakref

import pytest

from azsession import Message
from azsession.broker.azure import AzureBroker, recent_requests
from azsession.broker.azure.recent_requests import RecentRequests

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, send

SIZE = 50_000


def bodies() -> int:
    """Return how many large values are there that were made since `tracemalloc` was started."""
    gc.collect()
    return sum(trace.size >= SIZE for trace in tracemalloc.take_snapshot().traces)


@pytest.mark.parametrize("by_id", [False, True])
def test_an_ended_session_is_not_kept(broker: AzureBroker, by_id: bool) -> None:
    sessions = []
    for number in range(10):
        send(broker, "a", "b", session_id=f"s{number}")
        holder = Holder(broker, f"s{number}")
        if not by_id:
            holder.accept_next(request_id=str(uuid.uuid4()))
        holder.receive(10, request_id=str(uuid.uuid4()))
        session = broker._registry.held(QUEUE, holder.session_id)
        assert session is not None
        sessions.append(weakref.ref(session))
        del session
        holder.release()

    def are_gone() -> bool:
        gc.collect()
        return not any(session() for session in sessions)

    eventually(are_gone)


def test_an_accept_that_found_no_session_is_not_kept(broker: AzureBroker) -> None:
    for _ in range(5):
        assert Holder(broker).accept_next(timeout=0.0, request_id=str(uuid.uuid4())) is None
    assert broker._loop.run(lambda: (len(broker._registry._accepts), len(broker._registry._accept_ids))) == (0, 0)


def test_an_open_session_keeps_no_bodies_of_settled_messages(broker: AzureBroker) -> None:
    messages = [Message(bytes(SIZE), session_id="s1") for _ in range(4)]
    holder = Holder(broker)
    tracemalloc.start()
    try:
        for _ in range(5):
            broker.send(QUEUE, messages).result()
            holder.complete(*holder.take(4))
        eventually(lambda: bodies() == 0)
    finally:
        tracemalloc.stop()


def test_sends_leave_a_few_bytes_each(broker: AzureBroker, namespace: Namespace) -> None:
    def send_many(count: int) -> None:
        for _ in range(count):
            broker.send(QUEUE, [Message("x", session_id="s1", time_to_live=0.001)], str(uuid.uuid4())).result()

    def objects() -> int:
        gc.collect()
        return len([one for one in gc.get_objects() if str(type(one).__module__).startswith("azsession")])

    send_many(100)
    before = objects()
    send_many(500)
    # The namespace, which may run in this process, needs a moment for the last messages.
    eventually(lambda: objects() - before < 50)


def test_requests_that_are_done_are_remembered_for_ten_minutes_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(recent_requests.time, "monotonic", lambda: now)
    requests: RecentRequests[str] = RecentRequests()
    requests.add("a", "one")
    assert requests.unfinished("a") == "one"
    assert not requests.is_done("a")
    requests.finish("a")
    assert requests.unfinished("a") is None
    for now in (599.0, 601.0):
        requests.finish(f"at {now}")
        assert requests.is_done("a")
    for now in (1202.0, 1803.0):
        requests.finish(f"at {now}")
    assert not requests.is_done("a")
    assert requests.is_done("at 1803.0")


def test_requests_whose_result_is_unknown_are_forgotten_after_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(recent_requests.time, "monotonic", lambda: now)
    requests: RecentRequests[str] = RecentRequests()
    requests.add("a", "one")
    now = 601.0
    requests.add("b", "two")
    assert requests.unfinished("a") is None
    assert requests.unfinished("b") == "two"
