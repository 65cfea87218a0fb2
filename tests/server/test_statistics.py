"""The numbers of queues over HTTP, and the holders in the list of sessions."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from .raw import LISTEN, Gateway, fresh_id


def test_the_numbers_of_a_queue(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "a", "b")
    reply = gateway.ask("GET", f"/{queue}/$statistics")
    oldest = reply.json.pop("OldestEnqueuedTimeUtc")
    assert abs(parsedate_to_datetime(oldest).timestamp() - gateway.clock.now()) < 60
    found = {**reply.json}
    found.pop("OldestEnqueuedTimeUtc")
    assert found == {
        "QueueName": queue,
        "ActiveMessageCount": 2,
        "ScheduledMessageCount": 0,
        "DeferredMessageCount": 0,
        "DeadLetterMessageCount": 0,
        "SessionCount": 1,
        "WaitingSessionCount": 1,
        "LockedSessionCount": 0,
    }
    assert "statistics" in reply.headers["Azsession-Extensions"].split(", ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_statistics_are_read_only(gateway: Gateway, queue: str, method: str) -> None:
    reply = gateway.ask(method, f"/{queue}/$statistics")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")


def test_a_queue_that_does_not_exist_has_no_numbers(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/nowhere/$statistics").code == "EntityNotFound"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("worker-7:4711", "worker-7:4711"),
        (None, "unknown client"),
        ("", "unknown client"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "unknown client"),
        ("w\xf6rker", "unknown client"),
    ],
)
@pytest.mark.parametrize("accepts", [False, True])
def test_the_holder_is_the_client_and_its_key(
    gateway: Gateway, queue: str, accepts: bool, sent: str | None, shown: str
) -> None:
    gateway.send(queue, "s", "a")
    headers = {} if sent is None else {"Azsession-Client": sent}
    holder = gateway.holder(queue, "s", fresh_id())
    if accepts:
        path = f"/{queue}/sessions?timeout=0"
        assert gateway.ask("POST", path, {}, {**holder.headers, **headers}, key=LISTEN).status == 201
    else:
        assert holder.receive(headers=headers, key=LISTEN).status == 201
    (session,) = gateway.ask("GET", f"/{queue}/sessions").json["sessions"]
    assert session["Holder"] == f"{shown}, key listener"
    assert holder.headers["Azsession-Lock-Id"] not in str(session)
