"""`abandon_message` with a delay, as the client sends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from azsession import ServiceBusProvider, UnsupportedOperationError
from azsession.testing import AzsessionServer

from ..support.plain_server import PlainServer
from .orders import send, take
from .test_retry_lost_answers import CuttingProxy, cut_provider, cutter

__all__ = ["cut_provider", "cutter"]


def test_a_plain_server_cannot_delay_and_gets_no_abandon() -> None:
    with PlainServer() as server, ServiceBusProvider.from_connection_string(server.connection_string) as provider:
        server.put("orders", "s1", b"0")
        with provider.create_session_client("orders", "s1") as session:
            message = take(session)
            with pytest.raises(UnsupportedOperationError, match="cannot delay an abandoned message"):
                session.abandon_message(message, delay=1)
            assert all(seen.method != "PUT" for seen in server.seen)
            session.abandon_message(message, delay=0)
            session.complete_message(take(session))


def test_a_delayed_abandon_whose_answer_was_lost_counts_once(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    send(cut_provider, b"0")
    with cut_provider.create_session_client("orders", "s1") as session:
        message = take(session)
        cutter.cut_answers(2)
        session.abandon_message(message, delay=0.5)
        assert take(session).delivery_count == 2


@pytest.mark.parametrize("delay", [0.0004, timedelta(microseconds=1)])
def test_a_delay_below_a_millisecond_is_accepted(
    azsession_server: AzsessionServer, azsession_provider: ServiceBusProvider, delay: Any
) -> None:
    send(azsession_provider, b"0")
    with azsession_provider.create_session_client("orders", "s1") as session:
        session.abandon_message(take(session), delay=delay)
        assert take(session).delivery_count == 2
