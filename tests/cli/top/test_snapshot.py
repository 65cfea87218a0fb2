"""What a snapshot has, and how its sessions and consumers are ordered."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import attrs
import pytest

from azsession import Message, QueueNotFoundError, QueueStatistics, ServiceBusProvider, SessionInfo, UnsupportedOperationError
from azsession.cli.top.snapshot import QueueNumbers, Snapshot, consumers, sorted_sessions, take_snapshot
from tests.namespaces import OwnNamespace

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded(queues=["a", "b"], auto_create=False) as provider:
        yield provider


def snapshot_of(*infos: SessionInfo) -> Snapshot:
    return Snapshot(NOW, 0.0, [QueueNumbers(QueueStatistics(name="q"), infos, False)])


def ids(snapshot: Snapshot, by: str) -> list[str]:
    return [row.info.session_id for row in sorted_sessions(snapshot, by)]


def test_all_queues_are_counted_with_their_sessions(provider: ServiceBusProvider) -> None:
    provider.send_messages("b", [Message("x", session_id=f"s{n % 2}") for n in range(5)])
    snapshot = take_snapshot(provider, [])
    assert [(queue.name, queue.statistics.active_count) for queue in snapshot.queues] == [("a", 0), ("b", 5)]
    assert [(info.session_id, info.message_count) for info in snapshot.queues[1].sessions] == [("s0", 3), ("s1", 2)]
    assert [queue.name for queue in take_snapshot(provider, ["b"]).queues] == ["b"]
    with pytest.raises(QueueNotFoundError):
        take_snapshot(provider, ["c"])


def test_a_change_is_per_second_since_the_snapshot_before(provider: ServiceBusProvider) -> None:
    before = take_snapshot(provider, ["b"])
    assert before.queues[0].change is None
    provider.send_messages("b", [Message("x", session_id="s") for _ in range(50)])
    earlier = attrs.evolve(before, clock=before.clock - 1000.0)
    [queue] = take_snapshot(provider, ["b"], earlier).queues
    assert queue.change == pytest.approx(0.05, rel=0.1)


def test_sessions_are_ordered_by_their_oldest_message_or_by_their_number() -> None:
    old, new = NOW - timedelta(hours=1), NOW
    snapshot = snapshot_of(
        SessionInfo("none", 0),
        SessionInfo("new", 9, oldest_enqueued_at=new),
        SessionInfo("old", 1, oldest_enqueued_at=old),
        SessionInfo("old and held", 1, NOW, oldest_enqueued_at=old),
    )
    assert ids(snapshot, "age") == ["old and held", "old", "new", "none"]
    assert ids(snapshot, "count") == ["new", "old and held", "old", "none"]


def test_consumers_are_those_who_hold_sessions() -> None:
    snapshot = snapshot_of(
        SessionInfo("a", 1, NOW, holder="one"),
        SessionInfo("b", 2, NOW, holder="two"),
        SessionInfo("c", 3, NOW, holder="two"),
        SessionInfo("d", None, NOW, holder="one of Azure"),
        SessionInfo("e", 5),
    )
    assert [attrs.astuple(one) for one in consumers(snapshot)] == [("two", 2, 5), ("one", 1, 1), ("one of Azure", 1, None)]


def test_azure_tells_its_sessions_and_needs_the_name_of_the_queue() -> None:
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
            provider.send_message("orders", Message("x", session_id="s1"))
            [queue] = take_snapshot(provider, ["orders"]).queues
            assert [info.session_id for info in queue.sessions] == ["s1"]
            with pytest.raises(UnsupportedOperationError, match="name them with --queue"):
                take_snapshot(provider, [])
