"""For any response of a server, a call of the client returns a result or raises a `QueueError`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azsession import QueueError, ServiceBusProvider

from ..client.server_responses import GOOD, VALUES, answered, in_session, places, put, take_and_settle
from .targets import TARGETS

#: The calls of a program that parse a response.
CALLS: dict[str, Callable[[ServiceBusProvider], object]] = {
    "receive and complete": in_session(take_and_settle),
    "receive one": in_session(lambda session: session.receive_message(timeout=0)),
    "next session": lambda provider: provider.create_session_client("q", auto_renew=False, accept_timeout=0).close(),
    "renew": in_session(lambda session: session.renew_session_lock()),
    "deferred": in_session(lambda session: session.receive_deferred_messages([1])),
    "dead-letter all": in_session(lambda session: session.dead_letter_session("why")),
    "get state": in_session(lambda session: session.get_session_state()),
    "set state": in_session(lambda session: session.set_session_state(b"x")),
    "peek": lambda provider: provider.peek_messages("q", "s"),
    "dead letters": lambda provider: provider.dead_letters("q"),
    "list sessions": lambda provider: provider.list_sessions("q"),
    "get queue": lambda provider: provider.get_queue("q"),
    "list queues": lambda provider: provider.list_queues(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@settings(max_examples=20)
@given(st.data())
def test_a_call_raises_nothing_but_queue_errors(call: Callable[[ServiceBusProvider], object], data: st.DataObject) -> None:
    value, headers = data.draw(st.sampled_from(list(GOOD.values())))
    changed = put(value, data.draw(st.sampled_from(list(places(value)))), data.draw(VALUES))
    status = data.draw(st.sampled_from([200, 201, 204, 300, 400, 404, 409, 410, 413, 423, 429, 500]))
    with answered(status, changed, headers) as (provider, _), suppress(QueueError):
        call(provider)


def test_responses_are_a_target_of_the_fuzzer() -> None:
    assert "answer" in TARGETS
