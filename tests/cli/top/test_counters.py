"""The gateway's counters, and the rates that follow from them."""

from __future__ import annotations

import pytest

from azsession import Message, ServiceBusProvider
from azsession.cli.top.counters import Counters, rates, read_counters
from azsession.cli.top.snapshot import take_snapshot
from tests.conftest import eventually
from tests.support.processes import Served


def use(provider: ServiceBusProvider) -> None:
    """Send five messages, receive three and complete two of them."""
    provider.send_messages("q", [Message("x", session_id="s") for _ in range(5)])
    with provider.create_session_client("q", "s") as session:
        first, second, _ = session.receive_messages(3, timeout=10)
        session.complete_messages([first, second])


def test_a_gateway_counts_messages_and_a_snapshot_has_their_rates() -> None:
    with (
        Served("--memory", "--queue", "q") as served,
        ServiceBusProvider.from_connection_string(served.line) as provider,
    ):
        before = take_snapshot(provider, [])
        assert (before.counters, before.rates) == (Counters(0, 0, 0), None)
        use(provider)
        # The gateway keeps its metrics for half a second.
        eventually(lambda: read_counters(provider) == Counters(5, 3, 2))
        found = take_snapshot(provider, [], before)
        assert found.rates is not None
        seconds = found.clock - before.clock
        assert found.rates.sent * seconds == pytest.approx(5)
        assert found.rates.completed * seconds == pytest.approx(2)


def test_a_server_without_counters_has_no_rates() -> None:
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        before = take_snapshot(provider, [])
        assert before.counters is None
        assert take_snapshot(provider, [], before).rates is None


def test_a_key_without_the_right_gets_no_counters() -> None:
    with (
        Served("--memory", "--queue", "q", "--key", "app:c2VjcmV0:Listen") as served,
        ServiceBusProvider.from_connection_string(served.line) as provider,
    ):
        assert read_counters(provider) is None


def test_a_gateway_that_was_started_again_has_no_rates_at_first() -> None:
    assert rates(Counters(5, 5, 5), Counters(1, 1, 1), 2.0) is None
    assert rates(Counters(5, 5, 5), Counters(9, 5, 6), 2.0) == Counters(2, 0, 0.5)
    assert rates(None, Counters(9, 5, 6), 2.0) is None
    assert rates(Counters(5, 5, 5), Counters(9, 5, 6), 0.0) is None
