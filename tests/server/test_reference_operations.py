"""The operations of the reference, which both dialects have, and the rules for holders of a session."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from .raw import Gateway, Holder, bodies, fresh_id, read_reply


def test_receive_returns_the_first_message_and_locks_the_session(holder: Holder) -> None:
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


def test_receive_from_an_empty_session_returns_204_and_takes_the_lock(holder: Holder) -> None:
    reply = holder.receive()
    assert (reply.status, reply.body) == (204, b"")
    assert 0 < reply.lock_left <= 60
    other = holder.gateway.holder(holder.queue, "s", fresh_id())
    assert other.receive().status == 423


def test_receive_waits_for_a_message(holder: Holder) -> None:
    with holder.start_receive(20) as sock:
        holder.gateway.send(holder.queue, "s", "late")
        assert read_reply(sock).body == b"late"


def test_a_timeout_may_have_decimals(holder: Holder) -> None:
    assert holder.receive("timeout=0.125").status == 204


def test_complete_deletes_the_message(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one")
    reply = holder.complete(holder.receive().token)
    assert (reply.status, reply.body) == (204, b"")
    assert holder.gateway.ask("GET", f"{holder.path}/messages").json == []


def test_abandon_returns_the_message_before_later_ones(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "one", "two")
    assert holder.abandon(holder.receive().token).status == 204
    again = holder.receive()
    assert again.body == b"one"
    assert again.properties["DeliveryCount"] == 2


def test_dead_letter_keeps_the_reason(holder: Holder) -> None:
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


def test_dead_letter_works_without_a_reason(holder: Holder) -> None:
    holder.gateway.send(holder.queue, "s", "bad")
    assert holder.dead_letter(holder.receive().token).status == 204


def test_renew_extends_the_lock(gateway: Gateway, holder: Holder) -> None:
    queue = gateway.queue(lock_duration=30)
    holder = Holder(gateway, queue, "s", holder.headers.get("Azsession-Lock-Id"))
    holder.receive()
    gateway.clock.forward(20)
    reply = holder.renew()
    assert (reply.status, reply.body) == (204, b"")
    assert reply.lock_left > 25
    gateway.clock.forward(20)
    assert holder.renew().status == 204


# Holders


def test_all_plain_callers_are_one_holder(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two")
    first, second = gateway.holder(queue, "s"), gateway.holder(queue, "s")
    token = first.receive().token
    assert second.receive().body == b"two"
    assert second.complete(token).status == 204


def test_a_plain_holder_whose_lock_expired_takes_the_session_again(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one")
    holder = gateway.holder(queue, "s")
    holder.receive()
    gateway.clock.forward(61)
    again = holder.receive()
    assert again.body == b"one"
    assert again.properties["DeliveryCount"] == 2


def test_a_session_whose_lock_expired_goes_to_another_holder_in_order(gateway: Gateway, queue: str) -> None:
    gateway.send(queue, "s", "one", "two", "three")
    holder = gateway.holder(queue, "s", fresh_id())
    holder.receive("timeout=0&max=2")
    gateway.clock.forward(61)
    assert bodies(gateway.holder(queue, "s", fresh_id()).receive("timeout=0&max=9")) == ["one", "two", "three"]


@pytest.mark.parametrize("number", [2**40, 2**48 + 1, 2**63 - 1])
def test_a_sequence_number_beyond_the_embedded_brokers_range_finds_nothing(gateway: Gateway, queue: str, number: int) -> None:
    gateway.send(queue, "s", "one")
    assert gateway.ask("DELETE", f"/{queue}/$deadletterqueue/messages/{number}").status == 404
    assert bodies(gateway.ask("GET", f"/{queue}/$deadletterqueue/messages?from={number}")) == []
    assert bodies(gateway.ask("GET", f"/{queue}/sessions/s/messages?from={number}")) == []
