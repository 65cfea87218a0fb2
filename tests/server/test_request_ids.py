"""A request that is repeated with its request id takes effect once, and gets the same answer."""

from __future__ import annotations

from ..conftest import eventually
from .raw import ENVELOPE, Gateway, acceptors, fresh_id, read_reply, waiters


def again() -> dict[str, str]:
    return {"Azsession-Request-Id": fresh_id()}


def test_a_repeated_receive_returns_the_same_message_and_token(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    for lock_id in (None, fresh_id()):
        holder, same = gateway.holder(queue, "s", lock_id), again()
        first, second = holder.receive(headers=same), holder.receive(headers=same)
        assert second.body == first.body == b"one"
        assert second.properties["LockToken"] == first.properties["LockToken"]
        assert second.properties["DeliveryCount"] == first.properties["DeliveryCount"]
        assert holder.receive(headers=again()).body == b"two"
        holder.release()


def test_a_repeated_receive_of_several_returns_the_same_messages(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    first, second = (holder.receive("timeout=0&max=2", headers=same).json for _ in range(2))
    names = ("LockToken", "SequenceNumber", "DeliveryCount", "MessageId")
    assert [[item["BrokerProperties"][name] for name in names] for item in second] == [
        [item["BrokerProperties"][name] for name in names] for item in first
    ]
    assert [item["Body"] for item in second] == ["one", "two"]


def test_a_receive_of_several_that_is_repeated_for_one_returns_all(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    holder.receive("timeout=0&max=2", headers=same)
    second = holder.receive(headers=same)
    # The holder has both messages. It must not get a third while it does not know about the second.
    assert second.headers["Azsession-Count"] == "2"
    assert [item["Body"] for item in second.json] == ["one", "two"]
    assert holder.receive(headers=again()).body == b"three"


def test_a_repeated_receive_does_not_return_messages_settled_in_between(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    first = holder.receive("timeout=0&max=2", headers=same).json
    holder.complete(first[0]["BrokerProperties"]["LockToken"])
    assert [item["Body"] for item in holder.receive("timeout=0&max=2", headers=same).json] == ["two"]


def test_the_second_attempt_of_a_waiting_receive_replaces_the_first(gateway: Gateway, queue: str) -> None:
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    with holder.start_receive(20, same) as first:
        eventually(lambda: waiters(gateway, queue, "s") == 1)
        with holder.start_receive(20, same) as second:
            # A client that still waits for this answer tries again.
            reply = read_reply(first)
            assert (reply.status, reply.code) == (503, "ServerBusy")
            gateway.send(queue, "s", "one")
            assert read_reply(second).body == b"one"
    assert holder.receive().status == 204


def test_a_repeated_accept_returns_the_same_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "a", "x")
    gateway.send(queue, "b", "x")
    headers = {"Azsession-Lock-Id": fresh_id(), **again()}
    replies = [gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, headers) for _ in range(2)]
    assert [reply.json for reply in replies] == [{"SessionId": "a"}] * 2
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, {"Azsession-Lock-Id": fresh_id()}).json == {
        "SessionId": "b"
    }


def test_a_waiting_accept_that_is_repeated_takes_one_session_only(gateway: Gateway, queue: str) -> None:
    head = gateway.head("POST", f"/{queue}/sessions?timeout=20", {"Azsession-Lock-Id": fresh_id(), **again()})
    with gateway.open_socket(head) as first:
        eventually(lambda: acceptors(gateway, queue) == 1)
        with gateway.open_socket(head) as second:
            assert read_reply(first).status == 204
            gateway.send(queue, "a", "x")
            gateway.send(queue, "b", "x")
            assert read_reply(second).json == {"SessionId": "a"}
    other = gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, {"Azsession-Lock-Id": fresh_id()})
    assert other.json == {"SessionId": "b"}


def test_a_repeated_send_stores_the_messages_once(gateway: Gateway, queue: str) -> None:
    same = again()
    for _ in range(2):
        item = [{"Body": "one", "BrokerProperties": {"SessionId": "s"}}]
        assert gateway.ask("POST", f"/{queue}/messages", item, {"Content-Type": ENVELOPE, **same}).status == 201
        single = {"BrokerProperties": '{"SessionId": "s"}', **same}
        assert gateway.ask("POST", f"/{queue}/messages", b"one", single).status == 201
    assert len(gateway.ask("GET", f"/{queue}/sessions/s/messages").json) == 1


def test_a_refused_send_can_be_repeated_with_the_same_request_id(gateway: Gateway, queue: str) -> None:
    same = again()
    assert gateway.ask("POST", f"/{queue}/messages", b"one", same).status == 400
    assert gateway.ask("POST", f"/{queue}/messages", b"one", {"BrokerProperties": '{"SessionId": "s"}', **same}).status == 201
    assert gateway.holder(queue, "s").receive().body == b"one"


def test_a_repeated_settlement_succeeds(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three", "four", "five")
    for lock_id in (None, fresh_id()):
        holder = gateway.holder(queue, "s", lock_id)
        token = holder.receive().token
        assert [holder.complete(token).status for _ in range(2)] == [204, 204]
        holder.release()
    assert [holder.complete(token).status for _ in range(2)] == [204, 204]
    for settle in ("abandon", "defer", "dead_letter"):
        holder = gateway.holder(queue, "s", fresh_id())
        token = holder.receive().token
        assert [getattr(holder, settle)(token).status for _ in range(2)] == [204, 204]
        holder.release()


def test_a_repeated_settlement_of_several_succeeds(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    holder = gateway.holder(queue, "s", fresh_id())
    found = [item["BrokerProperties"]["LockToken"] for item in holder.receive("timeout=0&max=2").json]
    for _ in range(2):
        assert holder.ask("POST", "/messages/$settle", {"complete": found}).json == {"failed": []}
    # A token that is twice in one request counts like two requests.
    gateway.send(queue, "s", "three")
    token = holder.receive().token
    assert holder.ask("POST", "/messages/$settle", {"complete": [token, token]}).json == {"failed": []}
