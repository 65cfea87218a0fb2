"""The sources of sessions: the sessions of a list, and the next available one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from azsession import (
    ServiceBusProvider,
    SessionProcessor,
)
from azsession.client.provider import core_of
from azsession.processor.backoff import Backoff
from azsession.processor.sources import ListedSessions, NextAvailableSessions

from ..conftest import eventually
from .front import Front
from .helpers import QUEUE, Seen, locked, send


def test_session_ids_limits_the_sessions_and_each_has_a_slot(provider: ServiceBusProvider) -> None:
    for name in ("a", "b", "c"):
        send(provider, name, ["1"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "a"]):
        eventually(lambda: seen.count == 2)
        # Each slot waits for messages in its own session.
        send(provider, "b", ["2"])
        eventually(lambda: seen.count == 3)
        began = time.monotonic()
    # A receive waits up to 30 s for a message.
    assert time.monotonic() - began < 25
    assert dict(seen.by_session) == {"a": ["1"], "b": ["1", "2"]}
    assert locked(provider) == []


def test_more_session_ids_than_slots_take_turns(provider: ServiceBusProvider) -> None:
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b", "c"], max_concurrent_sessions=2):
        for number, name in enumerate(("c", "a", "b", "a"), 1):
            send(provider, name, [str(number)])
            eventually(lambda number=number: seen.count == number)  # type: ignore[misc]
    assert dict(seen.by_session) == {"c": ["1"], "a": ["2", "4"], "b": ["3"]}


def test_a_listed_session_locked_by_another_holder_is_taken_later(provider: ServiceBusProvider) -> None:
    send(provider, "a", ["1"])
    errors: list[BaseException] = []
    seen = Seen()
    with provider.create_session_client(QUEUE, "a") as holder:
        holder.get_session_state()
        with SessionProcessor(provider, QUEUE, seen, session_ids=["a", "b"], on_error=lambda e, *_: errors.append(e)):
            send(provider, "b", ["1"])
            eventually(lambda: seen.count == 1)
            assert seen.order == [("b", "1")]
            holder.close()
            eventually(lambda: seen.count == 2, seconds=20)
    assert errors == []


def test_a_listed_session_that_was_empty_before_another_one_was_handled_is_looked_at_again(
    provider: ServiceBusProvider,
) -> None:
    # The handler of `a` can have sent a message to `b` after `b` was found empty, and before `b` was given back.
    source = ListedSessions(provider, QUEUE, None, ["a", "b"], 2, Backoff(), until_empty=True)
    taken = [source.take(time.sleep), source.take(time.sleep)]
    assert [each.session.session_id for each in taken if each is not None] == ["a", "b"]
    source.give_back("a", handled=True, locked_for=None)
    source.give_back("b", handled=False, locked_for=None)
    assert source.take(time.sleep) is not None
    source.give_back("a", handled=False, locked_for=None)
    assert source.empty_since() is None
    eventually(lambda: source.take(time.sleep) is not None)
    source.give_back("b", handled=False, locked_for=None)
    assert source.empty_since() is not None


def test_sessions_are_empty_since_the_time_when_they_were_asked_for_messages(front: Front) -> None:
    # A session that the broker held back at that time can have messages.
    core = core_of(front.provider)
    available = NextAvailableSessions(front.provider, QUEUE, None, core.new_waits(), until_empty=True)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(available.take, time.sleep)
        eventually(lambda: "accept" in front.requests)
        asked_at = time.monotonic()
        assert asking.result(30) is None
    empty_since = available.empty_since()
    assert empty_since is not None
    assert empty_since <= asked_at

    listed = ListedSessions(front.provider, QUEUE, None, ["a"], 1, Backoff(), until_empty=True)
    assert listed.take(time.sleep) is not None
    taken_at = time.monotonic()
    listed.give_back("a", handled=False, locked_for=None)
    empty_since = listed.empty_since()
    assert empty_since is not None
    assert empty_since <= taken_at
