"""Parked sessions: held after a failure without a slot, and released by a stop."""

from __future__ import annotations

import time

import pytest

from azsession import (
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)
from azsession.processor import backoff
from azsession.testing import AzsessionServer

from ..conftest import eventually
from .helpers import QUEUE, Seen, left, locked, send


def test_a_poison_message_is_retried_with_pauses_without_a_slot_until_the_delivery_limit(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = azsession_provider
    azsession_server.create_queue(QUEUE, max_delivery_count=3)
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.3)
    send(provider, "poison", ["bad", "good"])
    times: list[float] = []

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        if message.text() == "bad":
            times.append(time.monotonic())
            raise RuntimeError("bad")

    seen = Seen(handler)
    with SessionProcessor(provider, QUEUE, seen, max_concurrent_sessions=1, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.sessions_parked == 1)
        # Meanwhile the only slot is free for other sessions.
        send(provider, "good", map(str, range(20)))
        eventually(lambda: len(seen.by_session["good"]) == 20)
        eventually(lambda: seen.by_session["poison"] == ["bad", "bad", "bad", "good"], seconds=20)
        eventually(lambda: left(provider) == 0)
    assert times[1] - times[0] > 0.14
    assert times[2] - times[1] > 0.29
    assert seen.most_sessions == 1
    assert [dead.text() for dead in provider.dead_letters(QUEUE)] == ["bad"]


def test_stop_releases_parked_sessions(provider: ServiceBusProvider) -> None:
    send(provider, "poison", ["bad"])

    def handler(message: ReceivedMessage, session: SessionClient) -> None:
        # The message cannot be abandoned with a delay. So the broker offers the session again at once.
        session.close_session()
        raise RuntimeError("bad")

    with SessionProcessor(provider, QUEUE, handler, on_error=lambda *_: None) as processor:
        eventually(lambda: processor.stats.sessions_parked == 1)
        assert locked(provider) == ["poison"]
    assert locked(provider) == []
    assert left(provider) == 1
