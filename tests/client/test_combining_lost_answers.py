"""Combined requests whose answers are lost."""

from __future__ import annotations

import pytest

from azsession import (
    ConnectionFailedError,
    ServiceBusProvider,
)

from ..hostile.servers import FaultyProxy, http_answer, raw
from .combined import send


@pytest.mark.parametrize("forwards", [True, False])
def test_a_repeated_request_settles_once_and_gets_the_same_messages(proxy: FaultyProxy, forwards: bool) -> None:
    with ServiceBusProvider.from_connection_string(proxy.connection_string) as provider:
        send(provider, 5)
        with provider.create_session_client("orders", "s1") as session:
            seen = []
            for message in session.messages(timeout=0, prefetch=2):
                seen.append((message.text(), message.delivery_count))
                if len(seen) == 2:
                    proxy.script(raw(b"", forwards=forwards))
                session.complete_message(message)
    assert seen == [(str(number), 1) for number in range(5)]


@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_after_a_lost_answer_no_message_is_lost_or_overtaken(proxy: FaultyProxy, forwards: bool, repeats: bool) -> None:
    with ServiceBusProvider.from_connection_string(proxy.connection_string, retry_attempts=0) as provider:
        send(provider, 5)
        with provider.create_session_client("orders", "s1") as session:
            messages = session.messages(timeout=0, prefetch=2)
            session.complete_message(next(messages))
            last = next(messages)
            proxy.script(raw(b"", forwards=forwards))
            with pytest.raises(ConnectionFailedError):
                session.complete_message(last)
            if repeats:
                session.complete_message(last)
            left = [(message.text(), message.delivery_count) for message in [*messages, *session.receive_messages(9, 0)]]
    assert left == [("2", 1), ("3", 1), ("4", 1)]


def test_a_server_that_only_settles_is_understood(proxy: FaultyProxy) -> None:
    # An older gateway behind the same balancer ignores the query.
    answer = {
        "Azsession-Protocol": "1",
        "Azsession-Extensions": "fetch-ahead, statistics",
        "Content-Type": "application/json",
    }
    with ServiceBusProvider.from_connection_string(proxy.connection_string) as provider:
        send(provider, 2)
        with provider.create_session_client("orders", "s1") as session:
            messages = session.messages(timeout=0, prefetch=1)
            first = next(messages)
            proxy.script(http_answer(200, b'{"failed": []}', answer))
            session.complete_message(first)
            assert next(messages).text() == "1"
