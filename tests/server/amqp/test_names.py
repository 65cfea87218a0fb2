"""Names of queues over AMQP: their case, subscriptions, and names that tokens write in two ways."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusClient

from azsession import Message, QueueSettings, ServiceBusProvider, amqp
from azsession.broker.embedded import EmbeddedBroker
from azsession.protocol.entity_resources import entity_resources
from azsession.server import AccessKey, GatewayService, Right

from ...support.sdk import message
from .conftest import ROOT
from .raw import RawClient, token_for

_names = (f"t{number}" for number in itertools.count())
QUEUES = ["a/messages", "a/sessions", "a/sessions/s", "a", "metrics", "healthz", "t/subscriptions/sessions"]


@pytest.fixture(scope="module")
def odd() -> Iterator[GatewayService]:
    """A gateway with queues of odd names."""
    with GatewayService(EmbeddedBroker(queues=QUEUES), [ROOT], amqp_port=0) as service:
        yield service


@pytest.fixture
def topic() -> str:
    return next(_names)


def create(service: GatewayService, name: str) -> None:
    service.broker.create_queue(name, QueueSettings()).result()


def test_names_are_case_sensitive_as_over_http(service: GatewayService, provider: ServiceBusProvider, topic: str) -> None:
    create(service, f"{topic}-Queue")
    with RawClient(service) as raw:
        raw.open(ROOT)
        assert raw.attach_sender(f"{topic}-Queue").has_target
        assert not raw.attach_sender(f"{topic}-queue", handle=3).has_target
        assert raw.expect(amqp.DETACH).error.condition == "amqp:not-found"


@pytest.mark.parametrize("written", ["subscriptions", "Subscriptions", "SUBSCRIPTIONS"])
def test_the_sdk_finds_a_subscription_however_it_was_created(
    service: GatewayService, provider: ServiceBusProvider, client: ServiceBusClient, topic: str, written: str
) -> None:
    entity = f"{topic}/{written}/x"
    create(service, entity)
    provider.send_messages(entity, Message("1", session_id="s"))
    with client.get_topic_sender(topic) as sender:
        sender.send_messages(message("2"))
    with client.get_subscription_receiver(topic, "x", session_id="s") as receiver:
        found = [str(each) for each in receiver.receive_messages(2, max_wait_time=5)]
        found += [str(each) for each in receiver.receive_messages(2 - len(found), max_wait_time=5)] if len(found) < 2 else []
    assert found == ["1", "2"]


def test_a_subscription_that_exists_twice_is_the_one_that_is_written(
    service: GatewayService, provider: ServiceBusProvider, topic: str
) -> None:
    for written in ("subscriptions", "Subscriptions"):
        create(service, f"{topic}/{written}/x")
        provider.send_messages(f"{topic}/{written}/x", Message(written, session_id="s"))
    with RawClient(service) as raw:
        raw.open(ROOT)
        for handle, written in enumerate(("subscriptions", "Subscriptions", "subScriptions"), 2):
            held = raw.attach_receiver(f"{topic}/{written}/x", "s", handle=handle)
            assert held.has_source == (written != "subScriptions")
            if held.has_source:
                raw.credit(handle, 1)
                assert amqp.decode_message(raw.expect(amqp.TRANSFER).payload).data == written.encode()


def test_a_key_for_a_topic_reaches_a_subscription_in_any_spelling(topic: str) -> None:
    key = AccessKey("key", "a2V5", frozenset({Right.LISTEN}), queues=frozenset({topic}))
    broker = EmbeddedBroker(queues=[f"{topic}/Subscriptions/x", "other/Subscriptions/x"])
    with GatewayService(broker, [key], amqp_port=0) as own, RawClient(own) as raw:
        raw.open(key)
        assert raw.attach_receiver(f"{topic}/subScriptions/x").has_source
        assert not raw.attach_receiver("other/Subscriptions/x", handle=4).has_source


#: A queue, the path in a token, and whether the token is one for the queue.
TOKENS = [
    ("a", "a", True),
    ("a/messages", "a/messages", True),
    ("a/messages", "a/~messages", True),
    ("a/messages", "a", True),
    # These are tokens for sessions of the queue `a`.
    ("a/sessions", "a/sessions", False),
    ("a/sessions", "a/~sessions", True),
    ("a/sessions/s", "a/sessions/s", False),
    ("a/sessions/s", "a/~sessions/s", True),
    ("metrics", "metrics", True),
    ("metrics", "~metrics", True),
    ("healthz", "healthz", True),
    ("t/subscriptions/sessions", "t/subscriptions/sessions", True),
    ("a", "a/messages", False),
]


@pytest.mark.parametrize(("queue", "path", "is_covered"), TOKENS)
def test_a_token_names_a_queue_as_over_http_or_as_it_is(odd: GatewayService, queue: str, path: str, is_covered: bool) -> None:
    with RawClient(odd) as raw:
        raw.open()
        assert raw.put_token(f"sb://127.0.0.1/{queue}", token_for(ROOT, path)) == (202 if is_covered else 401)
        assert raw.attach_sender(queue).has_target == is_covered


@pytest.mark.parametrize("queue", QUEUES)
def test_a_token_of_our_client_is_valid_over_amqp(odd: GatewayService, queue: str) -> None:
    # The client over HTTP signs the path of its requests.
    path = "/".join(entity_resources(queue)[-1])
    with RawClient(odd) as raw:
        raw.open()
        assert raw.put_token(f"sb://127.0.0.1/{queue}", token_for(ROOT, path)) == 202
        assert raw.attach_receiver(queue).has_source
