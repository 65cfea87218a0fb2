"""Every operation of the protocol, by requests made by hand, in both dialects."""

from __future__ import annotations

import base64
from email.utils import parsedate_to_datetime

import pytest

from .raw import ENVELOPE, Gateway, Holder, Reply, fresh_id, read_reply


@pytest.fixture(params=["plain", "version 1"])
def holder(request: pytest.FixtureRequest, gateway: Gateway, queue: str) -> Holder:
    """One who holds the session `s`, in each dialect."""
    return gateway.holder(queue, "s", None if request.param == "plain" else fresh_id())


def bodies(reply: Reply) -> list[str]:
    assert reply.headers["Content-Type"] == ENVELOPE
    assert int(reply.headers["Azsession-Count"]) == len(reply.json)
    return [item["Body"] for item in reply.json]


def tokens(reply: Reply) -> list[str]:
    return [item["BrokerProperties"]["LockToken"] for item in reply.json]


# The reference's operations


def test_a_receive_gives_the_first_message_and_locks_the_session(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    reply = holder.receive()
    assert (reply.status, reply.body) == (201, b"one")
    assert 0 < reply.lock_left <= 60
    properties = reply.properties
    assert properties["SessionId"] == "s"
    assert properties["SequenceNumber"] == 1
    assert properties["DeliveryCount"] == 1
    assert properties["LockToken"]
    assert properties["MessageId"]
    assert parsedate_to_datetime(properties["EnqueuedTimeUtc"]) < parsedate_to_datetime(properties["LockedUntilUtc"])
    assert holder.receive().body == b"two"


def test_a_receive_from_an_empty_session_gives_204_and_the_lock(holder: Holder) -> None:
    reply = holder.receive()
    assert (reply.status, reply.body) == (204, b"")
    assert 0 < reply.lock_left <= 60
    other = holder.gateway.holder(holder.queue, "s", fresh_id())
    assert other.receive().status == 423


def test_a_receive_waits_for_a_message(holder: Holder) -> None:
    with holder.start_receive(20) as sock:
        holder.gateway.send(holder.queue, "s", "late")
        assert read_reply(sock).body == b"late"


def test_a_timeout_may_have_decimals(holder: Holder) -> None:
    assert holder.receive("timeout=0.125").status == 204


def test_a_completed_message_is_gone(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one")
    reply = holder.complete(holder.receive().token)
    assert (reply.status, reply.body) == (204, b"")
    assert holder.gateway.ask("GET", f"{holder.path}/messages").json == []


def test_an_abandoned_message_comes_again_first(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    assert holder.abandon(holder.receive().token).status == 204
    again = holder.receive()
    assert again.body == b"one"
    assert again.properties["DeliveryCount"] == 2


def test_a_dead_lettered_message_keeps_its_reason(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "bad")
    token = holder.receive().token
    assert holder.dead_letter(token, DeadLetterReason="broken", DeadLetterErrorDescription="zerlegt: état").status == 204
    dead = holder.gateway.ask("GET", f"/{holder.queue}/$deadletterqueue/messages")
    assert dead.status == 200
    assert bodies(dead) == ["bad"]
    properties = dead.json[0]["BrokerProperties"]
    assert properties["DeadLetterReason"] == "broken"
    assert properties["DeadLetterErrorDescription"] == "zerlegt: état"
    assert properties["SessionId"] == "s"
    assert "LockToken" not in properties


def test_a_dead_letter_needs_no_reason(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "bad")
    assert holder.dead_letter(holder.receive().token).status == 204


def test_renewing_prolongs_the_lock(gateway: Gateway, holder: Holder) -> None:
    queue = gateway.queue(lock_duration=30)
    holder = Holder(gateway, queue, "s", holder.headers.get("Azsession-Lock-Id"))
    holder.receive()
    gateway.clock.forward(20)
    reply = holder.renew()
    assert (reply.status, reply.body) == (204, b"")
    assert reply.lock_left > 25
    gateway.clock.forward(20)
    assert holder.renew().status == 204


# The operations of version 1


def test_many_messages_are_received_in_an_envelope(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two", "three")
    reply = holder.receive("timeout=0&max=2")
    assert reply.status == 201
    assert bodies(reply) == ["one", "two"]
    assert 0 < reply.lock_left <= 60
    assert len(set(tokens(reply))) == 2


def test_a_receive_of_many_gives_204_where_nothing_is(holder: Holder) -> None:
    assert holder.receive("timeout=0&max=1000").status == 204


def test_a_receive_of_many_with_max_1_gives_an_envelope(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    assert bodies(holder.receive("timeout=0&max=1")) == ["one"]


def test_accept_takes_the_next_available_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "first", "x")
    gateway.send(queue, "second", "x")
    accepted = [gateway.ask("POST", f"/{queue}/sessions?timeout=0", {}, {"Azsession-Lock-Id": fresh_id()}) for _ in range(2)]
    assert [reply.status for reply in accepted] == [201, 201]
    assert [reply.json for reply in accepted] == [{"SessionId": "first"}, {"SessionId": "second"}]
    assert all(0 < reply.lock_left <= 60 for reply in accepted)


def test_accept_gives_204_where_no_session_came_in_time(gateway: Gateway, queue: str) -> None:
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0.05", {}, {"Azsession-Lock-Id": fresh_id()}).status == 204


def test_accept_without_a_body_takes_the_next_session(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "only", "x")
    assert gateway.ask("POST", f"/{queue}/sessions?timeout=0").json == {"SessionId": "only"}


def test_accept_takes_a_named_session_though_it_is_empty(gateway: Gateway, queue: str) -> None:
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


def test_settling_many_tells_which_failed_and_settles_the_others(holder: Holder) -> None:
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


def test_a_deferred_message_is_received_by_its_number_only(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "aside", "next")
    aside = holder.receive()
    assert holder.defer(aside.token).status == 204
    assert holder.receive().body == b"next"
    assert holder.receive().status == 204
    reply = holder.ask("POST", "/messages/$deferred", {"SequenceNumbers": [aside.properties["SequenceNumber"]]})
    assert reply.status == 201
    assert bodies(reply) == ["aside"]
    assert reply.json[0]["BrokerProperties"]["DeliveryCount"] == 2
    assert holder.complete(tokens(reply)[0]).status == 204


def test_the_rest_of_a_session_is_dead_lettered_at_once(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two", "three")
    token = holder.receive().token
    reply = holder.ask("POST", "/$deadletter", {"DeadLetterReason": "no more", "DeadLetterErrorDescription": "why"})
    assert (reply.status, reply.json) == (200, {"count": 3})
    dead = holder.gateway.ask("GET", f"/{holder.queue}/$deadletterqueue/messages")
    assert bodies(dead) == ["one", "two", "three"]
    assert {item["BrokerProperties"]["DeadLetterReason"] for item in dead.json} == {"no more"}
    assert holder.receive().status == 204
    assert holder.complete(token).status == 409


def test_a_released_session_is_free_and_its_messages_back(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    holder.receive()
    reply = holder.release()
    assert (reply.status, reply.body) == (204, b"")
    assert holder.gateway.holder(holder.queue, "s", fresh_id()).receive().body == b"one"


def test_releasing_what_is_not_held_is_no_error(holder: Holder) -> None:
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


def test_a_state_outlives_its_holder(gateway: Gateway, holder: Holder) -> None:
    holder.receive()
    holder.ask("PUT", "/state", b"42")
    holder.release()
    other = gateway.holder(holder.queue, "s", fresh_id())
    other.receive()
    assert other.ask("GET", "/state").body == b"42"


def test_peeking_shows_messages_without_locking_anything(holder: Holder) -> None:
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


def test_an_envelope_is_accepted_whole_or_not_at_all(gateway: Gateway, queue: str) -> None:
    items = [{"Body": "good", "BrokerProperties": {"SessionId": "s"}}, {"Body": "bad", "BrokerProperties": {}}]
    assert gateway.ask("POST", f"/{queue}/messages", items, {"Content-Type": ENVELOPE}).status == 400
    assert gateway.holder(queue, "s").receive().status == 204


def test_dead_letters_are_looked_at_resubmitted_and_deleted(gateway: Gateway, queue: str) -> None:
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


def test_queues_are_made_shown_listed_and_deleted(gateway: Gateway) -> None:
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


def test_a_message_sent_twice_under_one_id_is_kept_once_where_the_queue_says_so(gateway: Gateway) -> None:
    queue = gateway.queue(requires_duplicate_detection=True)
    gateway.send(queue, "s", "one", MessageId="m")
    gateway.send(queue, "s", "two", MessageId="m")
    assert bodies(gateway.holder(queue, "s").receive("timeout=0&max=9")) == ["one"]


# What holders may do to each other


def test_plain_callers_are_one_holder(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    first, second = gateway.holder(queue, "s"), gateway.holder(queue, "s")
    token = first.receive().token
    assert second.receive().body == b"two"
    assert second.complete(token).status == 204


def test_a_plain_holder_whose_lock_ended_takes_the_session_again(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s")
    holder.receive()
    gateway.clock.forward(61)
    again = holder.receive()
    assert again.body == b"one"
    assert again.properties["DeliveryCount"] == 2


def test_a_session_whose_lock_ended_goes_to_another_in_order(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.receive("timeout=0&max=2")
    gateway.clock.forward(61)
    assert bodies(gateway.holder(queue, "s", fresh_id()).receive("timeout=0&max=9")) == ["one", "two", "three"]


@pytest.mark.parametrize("number", [2**40, 2**48 + 1, 2**63 - 1])
def test_a_sequence_number_as_large_as_azures_finds_nothing_in_the_embedded_broker(
    gateway: Gateway, queue: str, number: int
) -> None:
    gateway.send(queue, "s", "one")
    assert gateway.ask("DELETE", f"/{queue}/$deadletterqueue/messages/{number}").status == 404
    assert bodies(gateway.ask("GET", f"/{queue}/$deadletterqueue/messages?from={number}")) == []
    assert bodies(gateway.ask("GET", f"/{queue}/sessions/s/messages?from={number}")) == []
