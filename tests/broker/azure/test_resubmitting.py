"""Resubmitting dead letters on Azure: unchanged, never lost, also of subscriptions and with duplicate detection."""

from __future__ import annotations

import time
import uuid

import pytest

from azsession import Message, ProviderError, amqp
from azsession.amqp import AmqpMessage
from azsession.amqp.encoding import compound, described, encode_value, string
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition, ReceiveRequest, Settlement, wait_for

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import QUEUE, Holder, broker_on, texts


def dead_letter(broker: AzureBroker, entity: str, session_id: str = "s1") -> int:
    """Dead-letter the next message of a session; return its sequence number there."""
    lock_id = str(uuid.uuid4())
    (message,) = wait_for(broker.receive(ReceiveRequest(entity, session_id, lock_id, max_count=1, timeout=5.0))).messages
    how = Settlement(message.receipt.handle, Disposition.DEAD_LETTER, "because", "of that")
    assert wait_for(broker.settle(entity, session_id, [how])) == [None]
    broker.release(entity, session_id, lock_id).result()
    return broker.dead_letters(entity, 0, 1000).result()[-1].sequence_number


def bodies(broker: AzureBroker, entity: str, session_id: str = "s1") -> list[str]:
    return [message.text() for message in broker.peek(entity, session_id, 0, 100).result()]


def with_properties(subject: str) -> bytes:
    """Return a message with properties that `Message` does not have."""
    fields = [
        encode_value(amqp.Ulong(2**63)),
        encode_value(b"user"),
        b"\x40",
        string(subject),
        b"\x40",
        encode_value(uuid.UUID(int=4)),
        b"\x40",
        encode_value(amqp.Symbol("gzip")),
        b"\x40",
        b"\x40",
        string("s1"),
        encode_value(amqp.Uint(12)),
    ]
    application = compound(0xC1, [string("n"), encode_value(amqp.Uint(5))])
    return described(0x73, compound(0xC0, fields)) + described(0x74, application) + b"\x00\x53\x75\xa0\x01x"


#: Messages of other senders: bodies and properties that `Message` does not have.
FOREIGN: dict[str, bytes] = {
    "value": amqp.encode_message(AmqpMessage(message_id=b"\xff", group_id="s1", value={"a": [1, None]}, priority=9)),
    "sequence": amqp.encode_message(AmqpMessage(message_id=uuid.UUID(int=3), group_id="s1"))
    + described(0x76, encode_value([1, "x"])),
    "properties": with_properties("s" * 4000),
}


@pytest.mark.parametrize("encoded", FOREIGN.values(), ids=FOREIGN.keys())
def test_the_copy_is_the_senders_message_unchanged(broker: AzureBroker, namespace: Namespace, encoded: bytes) -> None:
    namespace.put(QUEUE, [encoded])
    sent = namespace.contents(QUEUE)
    broker.resubmit(QUEUE, dead_letter(broker, QUEUE)).result()
    assert len(sent) == 1
    assert namespace.contents(QUEUE) == sent
    assert broker.dead_letters(QUEUE, 0, 10).result() == []


@stand_in_only("a subject that is longer than azsession's")
def test_the_copy_of_a_message_with_a_long_subject_is_unchanged(broker: AzureBroker, namespace: Namespace) -> None:
    test_the_copy_is_the_senders_message_unchanged(broker, namespace, with_properties("s" * 5000))


@stand_in_only("messages that are scheduled for a topic")
@pytest.mark.parametrize("entity", ["events/subscriptions/audit", "Events/Subscriptions/Audit"])
def test_a_dead_letter_of_a_subscription_goes_to_its_topic(namespace: Namespace, entity: str) -> None:
    namespace.create_subscription("events", "audit")
    namespace.create_subscription("events", "other")
    with broker_on(namespace) as broker:
        broker.send("events", [Message("a", session_id="s1", message_id="m1")]).result()
        number = dead_letter(broker, entity)
        broker.resubmit(entity, number).result()
        assert bodies(broker, entity) == ["a"]
        assert bodies(broker, "events/subscriptions/other") == ["a", "a"]
        assert broker.dead_letters(entity, 0, 10).result() == []


def test_a_dead_letter_whose_copy_azure_drops_as_a_duplicate_stays(namespace: Namespace) -> None:
    namespace.create_queue("strict", duplicate_detection=600.0)
    with broker_on(namespace) as broker:
        broker.send("strict", [Message("a", session_id="s1", message_id="m1")]).result()
        number = dead_letter(broker, "strict")
        with pytest.raises(ProviderError, match=r"dead letter [0-9]+ stays") as caught:
            broker.resubmit("strict", number).result()
        assert caught.value.code == "Conflict"
        assert not caught.value.is_transient
        assert texts_of_dead(broker, "strict") == ["a"]


@stand_in_only("a short window of duplicate detection")
def test_a_later_message_with_the_same_id_is_not_taken_for_the_copy(namespace: Namespace) -> None:
    namespace.create_queue("strict", duplicate_detection=0.5)
    with broker_on(namespace) as broker:
        broker.send("strict", [Message("old", session_id="s1", message_id="m1")]).result()
        number = dead_letter(broker, "strict")

        def sent_again() -> bool:
            broker.send("strict", [Message("new", session_id="s1", message_id="m1")]).result()
            return bodies(broker, "strict") == ["new"]

        # The queue forgets the id.
        eventually(sent_again)
        with pytest.raises(ProviderError, match=r"dead letter [0-9]+ stays"):
            broker.resubmit("strict", number).result()
        assert texts_of_dead(broker, "strict") == ["old"]


@stand_in_only("a short window of duplicate detection")
def test_a_dead_letter_is_resubmitted_once_duplicate_detection_has_forgotten_its_id(namespace: Namespace) -> None:
    namespace.create_queue("strict", duplicate_detection=0.5)
    with broker_on(namespace) as broker:
        broker.send("strict", [Message("a", session_id="s1", message_id="m1")]).result()
        number = dead_letter(broker, "strict")
        deadline = time.monotonic() + 10
        while True:
            try:
                broker.resubmit("strict", number).result()
                break
            except ProviderError:
                assert time.monotonic() < deadline
                assert texts_of_dead(broker, "strict") == ["a"]
        assert bodies(broker, "strict") == ["a"]
        assert texts_of_dead(broker, "strict") == []


def texts_of_dead(broker: AzureBroker, entity: str) -> list[str]:
    return [message.text() for message in broker.dead_letters(entity, 0, 10).result()]


def test_the_search_for_duplicate_detection_leaves_nothing_and_is_done_once(
    namespace: Namespace, broker: AzureBroker
) -> None:
    broker.send(QUEUE, [Message(str(at), session_id="s1", message_id=str(at)) for at in range(3)]).result()
    for number in [dead_letter(broker, QUEUE) for _ in range(3)]:
        broker.resubmit(QUEUE, number).result()
    assert namespace.log["schedule-message"] == 2
    assert namespace.counts(QUEUE).scheduled == 0
    assert [session.session_id for session in broker.list_sessions(QUEUE, "", 10).result()] == ["s1"]
    assert texts(Holder(broker).take(3)) == ["0", "1", "2"]
