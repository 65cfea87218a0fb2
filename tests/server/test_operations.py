"""The operations that version 1 of the protocol adds to the reference."""

from __future__ import annotations

import base64
from email.utils import parsedate_to_datetime

from .raw import ENVELOPE, Gateway, Holder, bodies, fresh_id, tokens


def test_many_messages_are_received_in_an_envelope(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two", "three")
    reply = holder.receive("timeout=0&max=2")
    assert reply.status == 201
    assert bodies(reply) == ["one", "two"]
    assert 0 < reply.lock_left <= 60
    assert len(set(tokens(reply))) == 2


def test_a_receive_with_max_from_an_empty_session_returns_204(holder: Holder) -> None:
    assert holder.receive("timeout=0&max=1000").status == 204


def test_a_receive_with_max_1_returns_an_envelope(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    assert bodies(holder.receive("timeout=0&max=1")) == ["one"]


def test_accept_takes_the_next_available_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "first", "x")
    gateway.send(queue, "second", "x")
    accepted = [gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, {"Azsession-Lock-Id": fresh_id()}) for _ in range(2)]
    assert [reply.status for reply in accepted] == [201, 201]
    assert [reply.json for reply in accepted] == [{"SessionId": "first"}, {"SessionId": "second"}]
    assert all(0 < reply.lock_left <= 60 for reply in accepted)


def test_accept_returns_204_if_no_session_came_in_time(gateway: Gateway, queue: str) -> None:
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0.05", {}, {"Azsession-Lock-Id": fresh_id()}).status == 204


def test_accept_without_a_body_takes_the_next_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "only", "x")
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0").json == {"SessionId": "only"}


def test_accept_takes_a_named_session_that_is_empty(gateway: Gateway, queue: str) -> None:
    lock_id = fresh_id()
    reply = gateway.ask("POST", f"/{queue}/sessions?timeout=0", {"SessionId": "a/b"}, {"Azsession-Lock-Id": lock_id})
    assert (reply.status, reply.json) == (201, {"SessionId": "a/b"})
    assert gateway.holder(queue, "a/b", lock_id).renew().status == 204


def test_many_messages_are_settled_in_one_request(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "done", "again", "aside", "bad")
    done, again, aside, bad = tokens(holder.receive("timeout=0&max=4"))
    settlements = {
        "complete": [done],
        "abandon": [again],
        "defer": [aside],
        "deadletter": [{"LockToken": bad, "DeadLetterReason": "bad", "DeadLetterErrorDescription": "very"}],
    }
    reply = holder.ask("POST", "/messages/$settle", settlements)
    assert (reply.status, reply.json) == (200, {"failed": []})
    assert bodies(holder.receive("timeout=0&max=9")) == ["again"]
    dead = holder.gateway.ask("GET", f"/{holder.queue}/$deadletterqueue/messages")
    assert bodies(dead) == ["bad"]
    assert dead.json[0]["BrokerProperties"]["DeadLetterErrorDescription"] == "very"


def test_settle_reports_the_messages_that_failed_and_settles_the_others(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    one, two = tokens(holder.receive("timeout=0&max=2"))
    holder.complete(two)
    unknown = fresh_id()
    reply = holder.ask("POST", "/messages/$settle", {"complete": [one, unknown], "abandon": [two]})
    assert reply.status == 200
    assert sorted(reply.json["failed"], key=lambda item: item["code"]) == [
        {"LockToken": two, "code": "Conflict"},
        {"LockToken": unknown, "code": "MessageLockLost"},
    ]
    assert holder.gateway.ask("GET", f"{holder.path}/messages").json == []


def test_a_deferred_message_is_only_received_by_its_sequence_number(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "aside", "next")
    aside = holder.receive()
    assert holder.defer(aside.token).status == 204
    assert holder.receive().body == b"next"
    assert holder.receive().status == 204
    reply = holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [aside.properties["SequenceNumber"]]})
    assert reply.status == 201
    assert bodies(reply) == ["aside"]
    assert reply.json[0]["BrokerProperties"]["DeliveryCount"] == 1
    assert holder.complete(tokens(reply)[0]).status == 204


def test_all_messages_of_a_session_are_dead_lettered_at_once(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two", "three")
    token = holder.receive().token
    reply = holder.ask("POST", "/$deadletter", {"DeadLetterReason": "no more", "DeadLetterErrorDescription": "why"})
    assert (reply.status, reply.json) == (200, {"count": 3})
    dead = holder.gateway.ask("GET", f"/{holder.queue}/$deadletterqueue/messages")
    assert bodies(dead) == ["one", "two", "three"]
    assert {item["BrokerProperties"]["DeadLetterReason"] for item in dead.json} == {"no more"}
    assert holder.receive().status == 204
    assert holder.complete(token).status == 409


def test_release_frees_the_session_and_returns_its_messages(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    holder.receive()
    reply = holder.release()
    assert (reply.status, reply.body) == (204, b"")
    assert holder.gateway.holder(holder.queue, "s", fresh_id()).receive().body == b"one"


def test_release_without_a_lock_is_not_an_error(holder: Holder) -> None:
    assert holder.release().status == 204
    assert holder.release().status == 204


def test_a_session_keeps_its_state(holder: Holder) -> None:
    state = bytes(range(256))
    holder.receive()
    assert holder.ask("GET", "/state").status == 204
    assert holder.ask("PUT", "/state", state).status == 204
    reply = holder.ask("GET", "/state")
    assert (reply.status, reply.body) == (200, state)
    assert holder.ask("DELETE", "/state").status == 204
    assert holder.ask("GET", "/state").status == 204


def test_an_empty_state_is_a_state(holder: Holder) -> None:
    holder.receive()
    assert holder.ask("PUT", "/state", b"").status == 204
    reply = holder.ask("GET", "/state")
    assert (reply.status, reply.body) == (200, b"")


def test_the_state_outlives_its_holder(gateway: Gateway, holder: Holder) -> None:
    holder.receive()
    holder.ask("PUT", "/state", b"42")
    holder.release()
    other = gateway.holder(holder.queue, "s", fresh_id())
    other.receive()
    assert other.ask("GET", "/state").body == b"42"


def test_peek_shows_messages_without_a_lock(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two", "three")
    reply = holder.ask("GET", "/messages?from=2&max=1")
    assert reply.status == 200
    assert bodies(reply) == ["two"]
    properties = reply.json[0]["BrokerProperties"]
    assert "LockToken" not in properties
    assert properties["DeliveryCount"] == 0
    assert bodies(holder.ask("GET", "/messages")) == ["one", "two", "three"]
    assert holder.gateway.holder(holder.queue, "s", fresh_id()).receive().body == b"one"


def test_a_peek_that_finds_nothing_is_an_empty_envelope(holder: Holder) -> None:
    reply = holder.ask("GET", "/messages")
    assert (reply.status, bodies(reply)) == (200, [])


def test_sessions_are_listed_in_pages(gateway: Gateway, queue: str) -> None:
    for session_id in ("a", "b/c", "d"):
        gateway.send(queue, session_id, "x", "y")
    gateway.holder(queue, "a", fresh_id()).receive()
    first = gateway.ask("GET", f"/{queue}/sessions?max=2")
    assert first.status == 200
    assert [item["SessionId"] for item in first.json["sessions"]] == ["a", "b/c"]
    assert [item["MessageCount"] for item in first.json["sessions"]] == [2, 2]
    assert parsedate_to_datetime(first.json["sessions"][0]["LockedUntilUtc"])
    assert "LockedUntilUtc" not in first.json["sessions"][1]
    rest = gateway.ask("GET", f"/{queue}/sessions?max=2&after=b%2Fc")
    assert [item["SessionId"] for item in rest.json["sessions"]] == ["d"]


def test_a_single_message_is_sent_with_its_properties_in_a_header(gateway: Gateway, queue: str) -> None:
    headers = {"BrokerProperties": '{"SessionId": "s", "Label": "paid"}', "Content-Type": "text/plain"}
    reply = gateway.ask("POST", f"/{queue}/messages", b"\x00raw\xff", headers)
    assert (reply.status, reply.body) == (201, b"")
    received = gateway.holder(queue, "s").receive()
    assert received.body == b"\x00raw\xff"
    assert received.headers["Content-Type"] == "text/plain"
    assert received.properties["Label"] == "paid"


def test_an_envelope_sends_messages_of_many_sessions_in_order(gateway: Gateway, queue: str) -> None:
    items = [{"Body": f"{number}", "BrokerProperties": {"SessionId": f"s{number % 2}"}} for number in range(6)]
    assert gateway.ask("POST", f"/{queue}/messages", items, {"Content-Type": ENVELOPE + "; charset=utf-8"}).status == 201
    assert bodies(gateway.holder(queue, "s0").receive("timeout=0&max=9")) == ["0", "2", "4"]
    assert bodies(gateway.holder(queue, "s1").receive("timeout=0&max=9")) == ["1", "3", "5"]


def test_an_envelope_carries_bytes_as_base64(gateway: Gateway, queue: str) -> None:
    raw = b"\xff\x00bytes"
    item = {"Body": base64.b64encode(raw).decode(), "BodyEncoding": "base64", "BrokerProperties": {"SessionId": "s"}}
    assert gateway.ask("POST", f"/{queue}/messages", [item], {"Content-Type": ENVELOPE}).status == 201
    received = gateway.holder(queue, "s").receive("timeout=0&max=1").json[0]
    assert received["BodyEncoding"] == "base64"
    assert base64.b64decode(received["Body"]) == raw


def test_an_envelope_is_stored_whole_or_not_at_all(gateway: Gateway, queue: str) -> None:
    items = [{"Body": "good", "BrokerProperties": {"SessionId": "s"}}, {"Body": "bad", "BrokerProperties": {}}]
    assert gateway.ask("POST", f"/{queue}/messages", items, {"Content-Type": ENVELOPE}).status == 400
    assert gateway.holder(queue, "s").receive().status == 204


def test_dead_letters_are_peeked_resubmitted_and_deleted(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.ask("POST", "/$deadletter", {"DeadLetterReason": "no"})
    holder.receive()
    holder.ask("POST", "/$deadletter", {"DeadLetterReason": "no"})
    path = f"/{queue}/$deadletterqueue/messages"
    assert bodies(gateway.ask("GET", f"{path}?from=2&max=1")) == ["two"]
    assert gateway.ask("POST", f"{path}/2/resubmit").status == 201
    assert gateway.ask("DELETE", f"{path}/1").status == 204
    assert bodies(gateway.ask("GET", path)) == ["three"]
    again = holder.receive()
    assert again.body == b"two"
    assert again.properties["SequenceNumber"] == 4
    assert again.properties["DeliveryCount"] == 1
    assert "DeadLetterReason" not in again.properties


def test_queues_are_created_shown_listed_and_deleted(gateway: Gateway) -> None:
    settings = {
        "LockDuration": "PT30S",
        "MaxDeliveryCount": 3,
        "DefaultMessageTimeToLive": "P1DT1H",
        "DeadLetteringOnMessageExpiration": True,
        "RequiresDuplicateDetection": True,
        "DuplicateDetectionHistoryTimeWindow": "PT1M",
    }
    path = "/made-by-hand"
    made = gateway.ask("PUT", path, settings)
    assert made.status == 201
    assert gateway.ask("PUT", path, settings).status == 200
    shown = gateway.ask("GET", path)
    assert shown.status == 200
    expected = {**settings, "DefaultMessageTimeToLive": "PT90000S", "DuplicateDetectionHistoryTimeWindow": "PT60S"}
    assert {name: shown.json[name] for name in settings} == expected
    assert shown.json["MessageCount"] == 0
    listed = gateway.ask("GET", "/")
    assert listed.status == 200
    assert "made-by-hand" in [item["QueueName"] for item in listed.json["queues"]]
    assert gateway.ask("DELETE", path).status == 204
    assert gateway.ask("GET", path).status == 404


def test_a_subscription_is_an_entity(gateway: Gateway) -> None:
    entity = "topic/subscriptions/name"
    assert gateway.ask("PUT", f"/{entity}", {}).status == 201
    gateway.send(entity, "s", "one")
    received = gateway.holder(entity, "s").receive()
    assert received.body == b"one"
    assert gateway.ask("DELETE", f"/{entity}").status == 204


def test_health_needs_no_authorization(gateway: Gateway) -> None:
    reply = gateway.ask("GET", "/healthz", token="")
    assert (reply.status, reply.json) == (200, {"status": "ok"})


def test_a_queue_with_duplicate_detection_keeps_one_of_two_messages_with_the_same_id(gateway: Gateway) -> None:
    queue = gateway.queue(requires_duplicate_detection=True)
    gateway.send(queue, "s", "one", MessageId="m")
    gateway.send(queue, "s", "two", MessageId="m")
    assert bodies(gateway.holder(queue, "s").receive("timeout=0&max=9")) == ["one"]
