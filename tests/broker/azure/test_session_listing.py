"""Listing sessions on Azure: pages of Azure, and pages of the caller."""

from __future__ import annotations

import pytest

from azsession import Message, ServiceBusProvider
from azsession.broker.azure import AzureBroker, session_listing

from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import QUEUE, broker_on


def fill(broker: AzureBroker, count: int) -> list[str]:
    """Send a message to each of many sessions; return their ids, sorted."""
    names = sorted(f"s{number:05}" for number in range(count))
    for start in range(0, count, 500):
        broker.send(QUEUE, [Message("x", session_id=name) for name in names[start : start + 500]]).result()
    return names


def listed(broker: AzureBroker, after: str, max_count: int) -> list[str]:
    return [session.session_id for session in broker.list_sessions(QUEUE, after, max_count).result()]


def test_sessions_are_listed_beyond_a_page(broker: AzureBroker) -> None:
    names = fill(broker, 600)
    assert listed(broker, "", 1000) == names
    assert listed(broker, names[400], 3) == names[401:404]


@stand_in_only("short pages")
def test_a_short_page_is_not_taken_for_the_last_one(namespace: Namespace) -> None:
    namespace.create_queue("capped", session_page=7)
    with broker_on(namespace) as broker:
        broker.send("capped", [Message("x", session_id=f"s{number:03}") for number in range(50)]).result()
        assert len(broker.list_sessions("capped", "", 1000).result()) == 50


def test_each_page_of_azure_is_fetched_once_for_all_pages_of_the_caller(broker: AzureBroker, namespace: Namespace) -> None:
    names = fill(broker, 4000)
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        assert [session.session_id for session in provider.list_sessions(QUEUE)] == names
    assert namespace.log["get-message-sessions"] == 4000 // 100 + 1


def test_a_new_list_shows_sessions_that_came_after_the_last_one(broker: AzureBroker) -> None:
    names = fill(broker, 20)
    assert listed(broker, "", 10) == names[:10]
    broker.send(QUEUE, [Message("x", session_id="a")]).result()
    assert listed(broker, "", 10) == ["a", *names[:9]]


def test_lists_are_kept_for_a_short_time_only(broker: AzureBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_listing, "KEPT_SECONDS", 0.0)
    names = fill(broker, 20)
    assert listed(broker, "", 10) == names[:10]
    broker.send(QUEUE, [Message("x", session_id="s00009a")]).result()
    assert listed(broker, names[9], 10) == ["s00009a", *names[10:19]]
