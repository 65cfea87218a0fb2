"""Combined requests over HTTP, on both brokers: accept with messages, settle and receive, settle and release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from azsession import ServiceBusConfig
from azsession.broker.azure import AzureBroker
from azsession.server import GatewayService

from ..conftest import eventually
from ..namespaces import OwnNamespace
from .raw import KEYS, Gateway, Holder, Reply, SteppedClock, fresh_id, serving

LOCK_HEADERS = ("Azsession-Lock-Expires-In", "Azsession-Waited")


@attrs.frozen
class Side:
    """A queue of a gateway."""

    gateway: Gateway
    queue: str

    def send(self, session_id: str, *bodies: str) -> None:
        self.gateway.send(self.queue, session_id, *bodies)

    def holder(self, session_id: str = "s") -> Holder:
        return self.gateway.holder(self.queue, session_id, fresh_id())

    def accept(
        self, query: str = "max=10", session_id: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[Reply, Holder]:
        """Accept a session; return the answer, and the holder of the session."""
        given = {"Azsession-Lock-Id": fresh_id(), **(headers or {})}
        body = {} if session_id is None else {"SessionId": session_id}
        reply = self.gateway.ask("POST", f"/{self.queue}/sessions?timeout=30&{query}", body, given)
        name = reply.json["SessionId"] if reply.status == 201 else ""
        return reply, self.gateway.holder(self.queue, name, given["Azsession-Lock-Id"])


@pytest.fixture(params=["embedded", "azure"])
def side(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[Side]:
    """A gateway with an embedded broker, and one in front of Azure."""
    if request.param == "embedded":
        yield Side(gateway, gateway.queue())
        return
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        azure = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), None)
        with GatewayService(azure, KEYS, max_waiting=16) as service:
            yield Side(Gateway(service, SteppedClock()), "orders")


def found(reply: Reply) -> list[tuple[str, int]]:
    """Return the bodies and delivery counts of an answer's messages."""
    return [(item["Body"], item["BrokerProperties"]["DeliveryCount"]) for item in reply.json["Messages"]]


def tokens(reply: Reply) -> list[str]:
    return [item["BrokerProperties"]["LockToken"] for item in reply.json["Messages"]]


def settle(holder: Holder, body: dict[str, Any], query: str = "max=1", request_id: str = "") -> Reply:
    """Settle and receive."""
    headers = {"Azsession-Lock-Held": "1", "Azsession-Request-Id": request_id or fresh_id()}
    return holder.ask("POST", f"/messages/$settle?{query}", body, headers)


def has_lock_headers(reply: Reply) -> bool:
    present = [name in reply.headers for name in LOCK_HEADERS]
    assert all(present) or not any(present)
    return all(present)


def next_messages(side: Side, count: int = 10) -> list[tuple[str, int]]:
    """Accept the next session, and return its messages."""
    reply, _ = side.accept(f"max={count}")
    return found(reply)


# Accept with messages


def test_an_accept_returns_the_first_messages(side: Side) -> None:
    side.send("a", "1", "2", "3")
    reply, holder = side.accept("max=2")
    assert (reply.status, reply.json["SessionId"]) == (201, "a")
    assert found(reply) == [("1", 1), ("2", 1)]
    assert has_lock_headers(reply)
    assert "Azsession-Count" not in reply.headers
    assert holder.ask("POST", "/messages/$settle", {"complete": tokens(reply)}).json == {"failed": []}
    assert holder.receive().body == b"3"


def test_the_extension_is_announced(side: Side) -> None:
    reply = side.gateway.ask("GET", "/healthz", token="")
    assert "combined" in reply.headers["Azsession-Extensions"].split(", ")


def test_an_accept_without_a_number_returns_no_messages(side: Side) -> None:
    side.send("a", "1")
    reply, holder = side.accept("")
    assert reply.json == {"SessionId": "a"}
    assert holder.receive().body == b"1"


def test_a_named_session_without_messages_is_accepted(side: Side) -> None:
    reply, holder = side.accept("max=5", "empty")
    assert (reply.status, reply.json) == (201, {"SessionId": "empty", "Messages": []})
    assert has_lock_headers(reply)
    side.send("empty", "1")
    assert holder.receive("timeout=5").body == b"1"


def test_a_repeated_accept_returns_the_same_messages(side: Side) -> None:
    side.send("a", "1", "2", "3", "4")
    headers = {"Azsession-Lock-Id": fresh_id(), "Azsession-Request-Id": fresh_id()}
    (first, holder), (second, _) = (side.accept("max=2", headers=headers) for _ in range(2))
    assert second.json["SessionId"] == "a"
    assert found(first) == found(second) == [("1", 1), ("2", 1)]
    assert tokens(first) == tokens(second)
    assert holder.complete(tokens(first)[0]).status == 204
    third, _ = side.accept("max=2", headers=headers)
    assert tokens(third) == tokens(first)[1:]
    assert holder.complete(tokens(first)[1]).status == 204
    assert holder.receive().body == b"3"


def test_messages_of_an_accept_that_are_fetched_ahead_count_no_delivery(side: Side) -> None:
    side.send("a", "1", "2", "3")
    reply, holder = side.accept("max=3&taken=1")
    assert found(reply) == [("1", 1), ("2", 1), ("3", 1)]
    first, second, third = tokens(reply)
    # An abandoned message counts. Those behind it were only fetched.
    holder.ask("POST", "/messages/$settle", {"release": [third, second]})
    assert holder.abandon(first).status == 204
    holder.release()
    assert next_messages(side) == [("1", 2), ("2", 1), ("3", 1)]


@pytest.mark.parametrize("query", ["max=0", "max=1001", "max=x", "max=5&taken=0", "max=5&taken=6", "taken=2"])
def test_an_accept_with_a_wrong_number_takes_no_session(side: Side, query: str) -> None:
    side.send("a", "1")
    refused, _ = side.accept(query)
    assert (refused.status, refused.code) == (400, "InvalidRequest")
    assert next_messages(side) == [("1", 1)]


# Settle and receive


def test_settling_returns_the_next_messages(side: Side) -> None:
    side.send("a", "1", "2", "3")
    reply, holder = side.accept("max=1")
    second = settle(holder, {"complete": tokens(reply)}, "max=1")
    assert (second.status, second.json["failed"]) == (200, [])
    assert found(second) == [("2", 1)]
    assert has_lock_headers(second)
    third = settle(holder, {"complete": tokens(second)}, "max=5")
    assert found(third) == [("3", 1)]
    last = settle(holder, {"complete": tokens(third)})
    assert (last.json, has_lock_headers(last)) == ({"failed": [], "Messages": []}, True)


def test_a_message_that_is_abandoned_comes_again_at_once(side: Side) -> None:
    side.send("a", "1", "2")
    reply, holder = side.accept("max=1")
    assert found(settle(holder, {"abandon": tokens(reply)}, "max=2"))[0] == ("1", 2)


def test_a_repeated_request_settles_nothing_twice_and_returns_the_same_messages(side: Side) -> None:
    side.send("a", "1", "2", "3", "4")
    reply, holder = side.accept("max=1")
    request_id = fresh_id()
    first, second = (settle(holder, {"complete": tokens(reply)}, "max=2", request_id) for _ in range(2))
    assert first.json["failed"] == second.json["failed"] == []
    assert found(first) == found(second) == [("2", 1), ("3", 1)]
    assert tokens(first) == tokens(second)
    assert has_lock_headers(second)
    # A retry that comes very late takes no further message.
    third = settle(holder, {"complete": tokens(first)}, "max=1")
    assert found(third) == [("4", 1)]
    assert settle(holder, {"complete": tokens(reply)}, "max=2", request_id).json == {"failed": [], "Messages": []}


def test_nothing_is_received_if_a_settlement_fails(side: Side) -> None:
    side.send("a", "1", "2", "3")
    reply, holder = side.accept("max=2")
    first, second = tokens(reply)
    assert holder.complete(first).status == 204
    failed = settle(holder, {"abandon": [first], "complete": [second]})
    assert failed.json == {"failed": [{"LockToken": first, "code": "Conflict"}]}
    assert not has_lock_headers(failed)
    assert holder.receive().body == b"3"


def test_settlements_stand_if_the_lock_is_lost(side: Side) -> None:
    side.send("a", "1", "2")
    reply, holder = side.accept("max=1")
    request_id = fresh_id()
    assert found(settle(holder, {"complete": tokens(reply)}, request_id=request_id)) == [("2", 1)]
    holder.release()
    # The answer was lost, and the retry comes after the end of the lock.
    late = settle(holder, {"complete": tokens(reply)}, request_id=request_id)
    assert (late.status, late.json, has_lock_headers(late)) == (200, {"failed": []}, False)
    assert next_messages(side) == [("2", 1)]
    assert holder.receive().code in ("SessionLockLost", "SessionLocked")


def test_settlements_of_a_lost_lock_fail_and_receive_nothing(side: Side) -> None:
    side.send("a", "1", "2")
    reply, holder = side.accept("max=1")
    holder.release()
    lost = settle(holder, {"complete": tokens(reply)})
    assert lost.status == 200
    assert lost.json == {"failed": [{"LockToken": tokens(reply)[0], "code": "SessionLockLost"}]}
    assert next_messages(side) == [("1", 1), ("2", 1)]


def test_without_a_number_nothing_is_received(side: Side) -> None:
    side.send("a", "1", "2")
    reply, holder = side.accept("max=1")
    settled = holder.ask("POST", "/messages/$settle", {"complete": tokens(reply)})
    assert (settled.json, has_lock_headers(settled)) == ({"failed": []}, False)
    assert holder.receive().body == b"2"


@pytest.mark.parametrize("query", ["max=0", "max=1001", "max=1&taken=0", "max=3&taken=4"])
def test_a_wrong_number_settles_nothing(side: Side, query: str) -> None:
    side.send("a", "1")
    reply, holder = side.accept("max=1")
    assert settle(holder, {"complete": tokens(reply)}, query).code == "InvalidRequest"
    assert holder.abandon(tokens(reply)[0]).status == 204
    assert holder.receive().body == b"1"


# Settle and release


def test_a_release_can_settle(side: Side) -> None:
    side.send("a", "1", "2", "3")
    reply, holder = side.accept("max=2")
    first, second = tokens(reply)
    released = holder.ask("POST", "/release", {"complete": [first]})
    assert (released.status, released.json) == (200, {"failed": []})
    # The other message was not settled: the release returned it, uncounted.
    assert next_messages(side) == [("2", 1), ("3", 1)]
    # A repeated request changes nothing.
    assert holder.ask("POST", "/release", {"complete": [first]}).json == {"failed": []}
    lost = holder.ask("POST", "/release", {"complete": [second]}).json["failed"]
    assert [item["code"] for item in lost] in (["SessionLockLost"], ["MessageLockLost"])


def test_a_session_is_released_also_if_a_settlement_fails(side: Side) -> None:
    side.send("a", "1", "2")
    reply, holder = side.accept("max=2")
    first, second = tokens(reply)
    assert holder.complete(first).status == 204
    released = holder.ask("POST", "/release", {"deadletter": [{"LockToken": first}], "complete": [second]})
    assert released.json == {"failed": [{"LockToken": first, "code": "Conflict"}]}
    assert side.accept("max=1", "a")[0].json == {"SessionId": "a", "Messages": []}


def test_an_empty_object_releases_as_no_body_does(side: Side) -> None:
    side.send("a", "1")
    _, holder = side.accept("max=1")
    assert holder.ask("POST", "/release", {}).status == 204
    assert next_messages(side) == [("1", 1)]


def test_a_malformed_release_releases_nothing(side: Side) -> None:
    side.send("a", "1")
    reply, holder = side.accept("max=1")
    for body in (b"[]", b"{", b'{"finish": []}', b'{"complete": []}', b'{"complete": [7]}'):
        assert holder.ask("POST", "/release", body).code == "InvalidRequest"
    assert holder.complete(tokens(reply)[0]).status == 204


# Answers that do not arrive

LARGE = 900 * 1024
BODIES = [f"{number:02}" + "x" * LARGE for number in range(12)]


def lose_answer(side: Side, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    """Send a request, and close the connection when the first bytes of the large answer are there."""
    head = side.gateway.head(method, path, {**headers, "Content-Length": str(len(body))})
    with side.gateway.open_socket(head + body) as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 20")


@pytest.fixture
def large_side() -> Iterator[Side]:
    """A queue with a session of large messages: answers do not fit into the buffers of a connection."""
    with serving() as served:
        side = Side(served, served.queue())
        for body in BODIES:
            side.send("a", body)
        yield side


def test_a_large_answer_arrives(large_side: Side) -> None:
    reply, holder = large_side.accept("max=12")
    assert [item["Body"] for item in reply.json["Messages"]] == BODIES
    assert len(reply.body) > 10 * 1024 * 1024
    assert holder.ask("POST", "/release", {"complete": tokens(reply)}).json == {"failed": []}
    assert large_side.gateway.ask("GET", f"/{large_side.queue}/$statistics").json["ActiveMessageCount"] == 0


def test_an_accept_whose_answer_is_lost_is_undone_whole(large_side: Side) -> None:
    headers = {"Azsession-Lock-Id": fresh_id(), "Azsession-Request-Id": fresh_id()}
    lose_answer(large_side, "POST", f"/{large_side.queue}/sessions?timeout=0&max=12", headers, b"{}")
    # Another client gets the session, and the deliveries are not counted.
    reply, _ = large_side.accept("max=2")
    assert [(body[:2], count) for body, count in found(reply)] == [("00", 1), ("01", 1)]


def test_settlements_stand_and_messages_return_if_the_answer_is_lost(large_side: Side) -> None:
    reply, holder = large_side.accept("max=1")
    headers = {**holder.headers, "Azsession-Lock-Held": "1", "Azsession-Request-Id": fresh_id()}
    body = b'{"complete": ["' + tokens(reply)[0].encode() + b'"]}'
    lose_answer(large_side, "POST", f"{holder.path}/messages/$settle?max=11", headers, body)
    received: list[Reply] = []

    def came() -> bool:
        received.append(holder.receive("timeout=0&max=1"))
        return received[-1].status == 201

    # The holder keeps the lock. Its next receive gets the messages of the lost answer.
    eventually(came)
    (message,) = received[-1].json
    assert (message["Body"][:2], message["BrokerProperties"]["DeliveryCount"]) == ("01", 1)
    assert holder.complete(tokens(reply)[0]).status == 204  # Again, as before.
