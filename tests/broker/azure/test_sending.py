"""Sending to Azure: batches as a whole, once, in order; and the errors of sends that Azure refuses."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

import pytest

from azsession import (
    ConnectionFailedError,
    Message,
    MessageTooLargeError,
    ProviderError,
    QueueNotFoundError,
    ServiceBusProvider,
    ThrottledError,
    ValidationError,
)
from azsession.broker.azure import AzureBroker, error_mapping
from azsession.protocol.error_codes import OUTCOME_UNKNOWN

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from .holders import QUEUE, Holder, broker_on, in_thread, send


def test_every_property_arrives(namespace: Namespace) -> None:
    message = Message(
        b"\x00body",
        session_id="s1",
        message_id="id",
        correlation_id="c",
        content_type="application/json",
        attributes={"text": "ü", "number": 2**40, "part": 0.5, "yes": True},
        time_to_live=timedelta(minutes=5),
    )
    with broker_on(namespace) as broker:
        broker.send(QUEUE, [message]).result()
        got = Holder(broker).take()[0]
    for name in ("body", "session_id", "message_id", "correlation_id", "content_type", "attributes", "time_to_live"):
        assert getattr(got, name) == getattr(message, name), name


def test_a_scheduled_message_comes_when_it_is_due(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        due = datetime.now(timezone.utc) + timedelta(seconds=3)
        broker.send(QUEUE, [Message("later", session_id="s1", scheduled_enqueue_time=due)]).result()
        holder = Holder(broker)
        assert holder.receive(timeout=0) == []
        assert [message.text() for message in holder.receive(timeout=10)] == ["later"]
        assert datetime.now(timezone.utc) >= due - timedelta(seconds=0.05)


@stand_in_only("topics without subscriptions")
def test_a_topic_without_subscriptions_takes_messages_that_nobody_gets(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    namespace.create_topic("unheard")
    provider.send_messages("unheard", [Message(name, session_id=name) for name in "ab"])
    provider.send_message("unheard", Message("c", session_id="c"))
    namespace.create_subscription("unheard", "late")
    assert provider.list_sessions("unheard/subscriptions/late") == []


def test_a_batch_is_accepted_or_refused_as_a_whole(provider: ServiceBusProvider, namespace: Namespace) -> None:
    messages = [Message(str(number), session_id="s1") for number in range(5)]
    namespace.refuse("send", "com.microsoft:argument-error")
    with pytest.raises(ValidationError):
        provider.send_messages(QUEUE, messages)
    assert not namespace.accepted(QUEUE)
    provider.send_messages(QUEUE, messages)
    assert len(namespace.accepted(QUEUE)) == 5


def test_a_send_whose_answer_was_lost_raises_an_error_and_is_not_repeated(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    provider.send_message(QUEUE, Message("first", session_id="s1"))
    namespace.swallow("send")
    sending = in_thread(lambda: provider.send_message(QUEUE, Message("second", session_id="s1")))
    eventually(lambda: len(namespace.accepted(QUEUE)) == 2)
    namespace.drop_connections()
    with pytest.raises(ConnectionFailedError) as caught:
        sending.result(20)
    assert caught.value.maybe_delivered
    assert caught.value.code == OUTCOME_UNKNOWN
    assert len(namespace.accepted(QUEUE)) == 2


def test_a_send_that_is_never_answered_may_have_been_delivered(namespace: Namespace) -> None:
    with broker_on(namespace, request_timeout=1.0) as broker:
        send(broker, "first")
        namespace.swallow("send")
        with pytest.raises(ConnectionFailedError) as caught:
            send(broker, "second")
    assert caught.value.maybe_delivered
    assert caught.value.code == OUTCOME_UNKNOWN


def test_a_namespace_that_cannot_be_reached_is_a_failed_connection(namespace: Namespace) -> None:
    string = namespace.connection_string
    closed = string.replace(f":{namespace.port};", ":1;")
    with (
        ServiceBusProvider.from_connection_string(closed, retry_attempts=1) as provider,
        pytest.raises(ConnectionFailedError, match="cannot be reached: ConnectionRefusedError") as caught,
    ):
        provider.send_message(QUEUE, Message("x", session_id="s1"))
    assert not caught.value.maybe_delivered


def test_a_send_whose_connection_was_lost_before_it_is_sent_by_another_one(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    for number in range(5):
        provider.send_message(QUEUE, Message(str(number), session_id="s1"))
        namespace.drop_connections()
        eventually(lambda: not namespace.connections())
    assert [entry[0] for entry in namespace.accepted(QUEUE)] == ["s1"] * 5


def test_messages_of_each_thread_arrive_in_its_order(namespace: Namespace) -> None:
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:

        def run(name: str) -> None:
            for number in range(200):
                provider.send_message(QUEUE, Message("x", session_id="s1", message_id=f"{name}-{number}"))

        threads = [threading.Thread(target=run, args=(f"t{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ids = [str(entry[2]) for entry in namespace.accepted(QUEUE)]
        assert len(ids) == 1600
        for number in range(8):
            own = [name for name in ids if name.startswith(f"t{number}-")]
            assert own == [f"t{number}-{at}" for at in range(200)]


def test_a_send_whose_answer_was_lost_is_uncertain_and_is_not_sent_again(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "first")
    namespace.swallow("send")
    sending = in_thread(lambda: send(broker, "a"))
    eventually(lambda: len(namespace.accepted(QUEUE)) == 2)
    namespace.drop_connections()
    with pytest.raises(ConnectionFailedError) as caught:
        sending.result(10)
    assert caught.value.maybe_delivered
    send(broker, "b")
    assert [message_id for _, _, message_id in namespace.accepted(QUEUE)] == ["first", "a", "b"]


def test_attempts_of_one_send_that_wait_at_the_same_time_send_once_and_all_succeed(
    namespace: Namespace, broker: AzureBroker
) -> None:
    send(broker, "first")
    namespace.delay(0.5)
    messages = [Message("x", session_id="s1", message_id="x")]
    attempts = [broker.send(QUEUE, messages, "r1") for _ in range(3)]
    for attempt in attempts:
        attempt.result(10)
    namespace.delay(0)
    assert [message_id for _, _, message_id in namespace.accepted(QUEUE)] == ["first", "x"]


# Refusals


def test_an_unknown_queue_is_not_found(provider: ServiceBusProvider) -> None:
    with pytest.raises(QueueNotFoundError):
        provider.send_message("nowhere", Message("x", session_id="s1"))
    with provider.create_session_client("nowhere", "s1") as client, pytest.raises(QueueNotFoundError):
        client.receive_message(timeout=0)


def test_a_disabled_queue_and_a_full_queue_have_errors_of_their_own(
    provider: ServiceBusProvider, namespace: Namespace
) -> None:
    namespace.disable(QUEUE)
    with pytest.raises(ProviderError) as disabled:
        provider.send_message(QUEUE, Message("x", session_id="s1"))
    assert disabled.value.code == "EntityDisabled"
    namespace.enable(QUEUE)
    namespace.refuse("send", "amqp:resource-limit-exceeded")
    with pytest.raises(ProviderError) as full:
        provider.send_message(QUEUE, Message("x", session_id="s1"))
    assert full.value.code == "QuotaExceeded"


def test_a_send_to_a_busy_namespace_is_repeated_and_fails_with_a_time_to_wait(
    provider: ServiceBusProvider, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_mapping, "BUSY_SECONDS", 0.1)
    namespace.throttle(1)
    provider.send_message(QUEUE, Message("x", session_id="s1"))
    namespace.throttle(100)
    with pytest.raises(ThrottledError) as caught:
        provider.send_message(QUEUE, Message("x", session_id="s1"))
    assert caught.value.retry_after is not None
    assert len(namespace.accepted(QUEUE)) == 1
    namespace.throttle(0)


def test_the_error_of_a_message_that_is_too_large_has_its_size_and_the_limit(provider: ServiceBusProvider) -> None:
    with pytest.raises(MessageTooLargeError) as caught:
        provider.send_message(QUEUE, Message(b"x" * 300_000, session_id="s1"))
    assert caught.value.limit == 256 * 1024
    assert caught.value.size is not None
    assert caught.value.size > 300_000


def test_a_batch_that_is_too_large_for_the_link_is_divided(provider: ServiceBusProvider, namespace: Namespace) -> None:
    ids = provider.send_messages(QUEUE, [Message(b"x" * 10_000, session_id="s1") for _ in range(100)])
    assert [entry[2] for entry in namespace.accepted(QUEUE)] == ids


@stand_in_only("queues without sessions")
def test_a_queue_that_does_not_require_sessions_is_refused(provider: ServiceBusProvider, namespace: Namespace) -> None:
    namespace.create_queue("plain", requires_session=False)
    with provider.create_session_client("plain", "s1") as client, pytest.raises(ValidationError, match="require sessions"):
        client.receive_message(timeout=0)
