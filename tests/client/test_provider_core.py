"""`ProviderCore`: where the server is, and sessions that are accepted while the provider closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    Message,
    ReceiptHandle,
    ServiceBusProvider,
)
from azsession.client import queue_operations
from azsession.client.call import Call
from azsession.client.cancellation import PendingCalls
from azsession.client.holder import LockOptions
from azsession.client.provider import core_of
from azsession.testing import AzsessionServer

OPTIONS = LockOptions(60.0)


def test_the_repr_says_where_the_messages_are(tmp_path: Path) -> None:
    provider = ServiceBusProvider.embedded()
    assert repr(provider) == "<ServiceBusProvider embedded in memory>"
    provider.close()
    assert repr(provider) == "<ServiceBusProvider embedded in memory, closed>"
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        assert repr(provider) == f"<ServiceBusProvider embedded on {tmp_path / 'data.db'}>"


def test_a_session_that_was_granted_while_its_wait_was_stopped_is_released(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as provider:
        provider.send_message("orders", Message("x", session_id="s1"))
        core, waits = core_of(provider), PendingCalls()
        send = core.transport.send

        def stop_meanwhile(call: Call[Any], pending: PendingCalls | None = None) -> Any:
            result = send(call, pending)
            if pending is waits:
                waits.stop()
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.transport, "send", stop_meanwhile)
            assert core.accept_next("orders", OPTIONS, 0.0, waits) is None
        assert [session.locked_until for session in provider.list_sessions("orders")] == [None]


def test_a_granted_session_whose_answer_was_lost_by_the_stop_is_asked_for_again_and_released(
    azsession_server: AzsessionServer,
) -> None:
    with azsession_server.provider() as provider:
        provider.send_message("orders", Message("x", session_id="s1"))
        core, waits = core_of(provider), PendingCalls()
        send, asked = core.transport.send, []

        def lose_answer(call: Call[Any], pending: PendingCalls | None = None) -> Any:
            result = send(call, pending)
            asked.append(call.path)
            if pending is waits:
                waits.stop()
                raise ConnectionFailedError("cancelled", maybe_delivered=True)
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core.transport, "send", lose_answer)
            assert core.accept_next("orders", OPTIONS, 0.0, waits) is None
        assert asked.count("/orders/sessions") == 2
        assert [session.locked_until for session in provider.list_sessions("orders")] == [None]


def test_closing_stops_the_waits_of_processors_also_those_that_are_made_later(azsession_server: AzsessionServer) -> None:
    with azsession_server.provider() as provider:
        core = core_of(provider)
        waits = core.new_waits()
        assert not waits.stopped.is_set()
    assert waits.stopped.is_set()
    assert core.new_waits().stopped.is_set()


def test_after_close_every_call_is_refused(azsession_server: AzsessionServer) -> None:
    provider = azsession_server.provider()
    core = core_of(provider)
    provider.close()
    for call in (
        lambda: core.send(queue_operations.list_queues(), "list queues"),
        lambda: core.open_session("orders", "s1", OPTIONS),
        lambda: core.accept_next("orders", OPTIONS, 0.0, PendingCalls()),
        lambda: core.adopt(ReceiptHandle("t", queue_name="orders", session_id="s1")),
    ):
        with pytest.raises(ConfigurationError, match="closed"):
            call()
