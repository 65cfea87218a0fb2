"""Turns of busy sessions."""

from __future__ import annotations

import itertools

from azsession import (
    ServiceBusProvider,
    SessionProcessor,
)

from ..conftest import eventually
from .helpers import QUEUE, Seen, left, locked, send


def test_max_messages_per_session_makes_busy_sessions_take_turns(provider: ServiceBusProvider) -> None:
    for name in ("busy", "busy too"):
        send(provider, name, map(str, range(9)))
    send(provider, "other", ["x"])
    seen = Seen()
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1, max_messages_per_session=4, prefetch=3):
        eventually(lambda: seen.count == 19)
    assert seen.by_session["busy"] == seen.by_session["busy too"] == [str(number) for number in range(9)]
    turns = [name for name, _ in itertools.groupby(name for name, _ in seen.order)]
    assert turns == ["busy", "busy too", "other", "busy", "busy too", "busy", "busy too"]
    eventually(lambda: (left(provider), locked(provider)) == (0, []))
