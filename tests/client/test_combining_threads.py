"""A settlement that fetches messages, while another thread receives from the same session."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from azsession import ServiceBusConfig, ServiceBusProvider
from azsession.client import receiving

from ..hostile.servers import FaultyProxy, ScriptedAnswer
from .combined import send

PATIENCE = 60


@pytest.mark.parametrize("prefetch", [1, 3])
def test_a_receive_without_a_wait_gets_the_messages_of_a_settlement_under_way(
    proxy: FaultyProxy, http: requests.Session, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    monkeypatch.setattr(receiving, "TRANSIT_TIME", PATIENCE)
    has_settled, has_received = threading.Event(), threading.Event()

    def late(original: bytes) -> Iterable[bytes]:
        has_settled.set()
        assert has_received.wait(PATIENCE)
        yield original

    def note(response: requests.Response, **_: object) -> None:
        if response.status_code == 204 and "/messages/head" in str(response.request.url):
            has_received.set()

    http.hooks["response"].append(note)
    with ServiceBusProvider(ServiceBusConfig(connection_string=proxy.connection_string), http=http) as provider:
        send(provider, 2)
        with provider.create_session_client("orders", "s1") as session, ThreadPoolExecutor(1) as pool:
            messages = session.messages(timeout=0, prefetch=1)
            first = next(messages)
            proxy.script(ScriptedAnswer(late, forwards=True))
            other = pool.submit(lambda: has_settled.wait(PATIENCE) and list(session.messages(timeout=0, prefetch=prefetch)))
            session.complete_message(first)
            assert [message.text() for message in other.result(PATIENCE)] == ["1"]
