"""A request that is sent again under its id gets the answer that the first got, and acts once."""

from __future__ import annotations

from ..conftest import eventually
from .raw import ENVELOPE, Gateway, acceptors, fresh_id, read_reply, waiters


def again() -> dict[str, str]:
    return {"Azsession-Request-Id": fresh_id()}


def test_a_receive_again_gives_the_same_message_under_the_same_token(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    for lock_id in (None, fresh_id()):
        holder, same = gateway.holder(queue, "s", lock_id), again()
        first, second = holder.receive(headers=same), holder.receive(headers=same)
        assert second.body == first.body == b"one"
        assert second.properties["LockToken"] == first.properties["LockToken"]
        assert second.properties["DeliveryCount"] == first.properties["DeliveryCount"]
        assert holder.receive(headers=again()).body == b"two"
        holder.release()


def test_a_receive_of_many_again_gives_the_same_messages(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    first, second = (holder.receive("timeout=0&max=2", headers=same).json for _ in range(2))
    names = ("LockToken", "SequenceNumber", "DeliveryCount", "MessageId")
    assert [[item["BrokerProperties"][name] for name in names] for item in second] == [
        [item["BrokerProperties"][name] for name in names] for item in first
    ]
    assert [item["Body"] for item in second] == ["one", "two"]


def test_a_receive_of_many_that_is_made_again_for_one_gives_all(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    holder.receive("timeout=0&max=2", headers=same)
    second = holder.receive(headers=same)
    # Both are in this holder's hands: a third must not overtake one that it does not know of.
    assert second.headers["Azsession-Count"] == "2"
    assert [item["Body"] for item in second.json] == ["one", "two"]
    assert holder.receive(headers=again()).body == b"three"


def test_a_receive_again_does_not_give_what_was_settled_meanwhile(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    first = holder.receive("timeout=0&max=2", headers=same).json
    holder.complete(first[0]["BrokerProperties"]["LockToken"])
    assert [item["Body"] for item in holder.receive("timeout=0&max=2", headers=same).json] == ["two"]


def test_a_waiting_receive_that_is_made_again_gives_its_place_to_the_second(gateway: Gateway, queue: str) -> None:
    holder, same = gateway.holder(queue, "s", fresh_id()), again()
    with holder.start_receive(20, same) as first:
        eventually(lambda: waiters(gateway, queue, "s") == 1)
        with holder.start_receive(20, same) as second:
            # Were its client there still, it would come again.
            reply = read_reply(first)
            assert (reply.status, reply.code) == (503, "ServerBusy")
            gateway.send(queue, "s", "one")
            assert read_reply(second).body == b"one"
    assert holder.receive().status == 204


def test_an_accept_again_gives_the_same_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "a", "x")
    gateway.send(queue, "b", "x")
    headers = {"Azsession-Lock-Id": fresh_id(), **again()}
    replies = [gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, headers) for _ in range(2)]
    assert [reply.json for reply in replies] == [{"SessionId": "a"}] * 2
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, {"Azsession-Lock-Id": fresh_id()}).json == {
        "SessionId": "b"
    }


def test_a_waiting_accept_that_is_made_again_takes_one_session_only(gateway: Gateway, queue: str) -> None:
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


def test_a_send_again_does_not_double(gateway: Gateway, queue: str) -> None:
    same = again()
    for _ in range(2):
        item = [{"Body": "one", "BrokerProperties": {"SessionId": "s"}}]
        assert gateway.ask("POST", f"/{queue}/messages", item, {"Content-Type": ENVELOPE, **same}).status == 201
        single = {"BrokerProperties": '{"SessionId": "s"}', **same}
        assert gateway.ask("POST", f"/{queue}/messages", b"one", single).status == 201
    assert len(gateway.ask("GET", f"/{queue}/sessions/s/messages").json) == 1


def test_a_send_that_was_refused_may_be_made_again_with_its_id(gateway: Gateway, queue: str) -> None:
    same = again()
    assert gateway.ask("POST", f"/{queue}/messages", b"one", same).status == 400
    assert gateway.ask("POST", f"/{queue}/messages", b"one", {"BrokerProperties": '{"SessionId": "s"}', **same}).status == 201
    assert gateway.holder(queue, "s").receive().body == b"one"


def test_a_settle_again_succeeds_again(gateway: Gateway, queue: str) -> None:
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


def test_settling_many_again_succeeds_again(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    holder = gateway.holder(queue, "s", fresh_id())
    found = [item["BrokerProperties"]["LockToken"] for item in holder.receive("timeout=0&max=2").json]
    for _ in range(2):
        assert holder.ask("POST", "/messages/$settle", {"complete": found}).json == {"failed": []}
    # The same token twice in one request is the same as twice in two.
    gateway.send(queue, "s", "three")
    token = holder.receive().token
    assert holder.ask("POST", "/messages/$settle", {"complete": [token, token]}).json == {"failed": []}
