"""The sources of sessions: the sessions of a list, and the next available one."""

from __future__ import annotations

import time

from azsession import (
    ServiceBusProvider,
    SessionProcessor,
)
from azsession.processor.backoff import Backoff
from azsession.processor.sources import ListedSessions

from ..conftest import eventually
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
    assert time.monotonic() - began < 10
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
    assert not source.is_drained
    eventually(lambda: source.take(time.sleep) is not None)
    source.give_back("b", handled=False, locked_for=None)
    assert source.is_drained
