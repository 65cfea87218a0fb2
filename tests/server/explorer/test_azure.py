"""The Explorer of a gateway in front of Azure, which tells less than the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import Message, ServiceBusConfig
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import AcceptRequest
from azsession.server import GatewayService

from ...namespaces import OwnNamespace
from .test_dead_letter_pages import fields
from .visitor import KEYS, LOCK, ORDERS, ROOT, Site, Visitor, text_of


@pytest.fixture
def namespace() -> Iterator[OwnNamespace]:
    with OwnNamespace() as namespace:
        namespace.create_queue("orders")
        yield namespace


@pytest.fixture
def azure(namespace: OwnNamespace) -> Iterator[Site]:
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string))
    with GatewayService(broker, KEYS) as service:
        yield Site(service, broker)


def test_a_queue_is_opened_by_its_name(azure: Site) -> None:
    page = Visitor(azure, ROOT).get("queues")
    assert "does not list queues" in text_of(page)
    assert 'action="sessions"' in page.text
    # A key that is limited to queues names them itself.
    assert 'href="sessions?queue=orders"' in Visitor(azure, ORDERS).get("queues").text


def test_what_azure_does_not_tell_is_unknown(azure: Site) -> None:
    azure.send("orders", "the body", session_id="s", subject="paid")
    azure.broker.accept(AcceptRequest("orders", "s", LOCK, timeout=5, client="worker-7:42")).result()
    visitor = Visitor(azure, ROOT)
    text = text_of(visitor.get("sessions", {"queue": "orders"}))
    assert "Active – Sessions 1 1 locked Oldest – Scheduled – Deferred – Dead letters –" in text
    assert "worker-7:42 – – – –" in text
    text = text_of(visitor.get("messages", {"queue": "orders", "session": "s"}))
    assert "Active messages –" in text
    assert "the body" in text
    assert "paid" in text_of(visitor.get("message", {"queue": "orders", "session": "s", "number": 1}))


def test_a_message_is_sent(azure: Site) -> None:
    visitor = Visitor(azure, ROOT)
    answer = visitor.post("send", {"session_id": "s", "body": "x"}, {"queue": "orders"})
    assert answer.status_code == 303
    assert "The message was sent." in visitor.get(answer.headers["Location"]).text
    assert azure.bodies("orders") == [b"x"]


def test_dead_letters_are_resubmitted_and_deleted(azure: Site) -> None:
    azure.dead_letter("orders", "one", "two", "three", session_id="a", reason="red")
    azure.dead_letter("orders", "four", session_id="b", reason="blue")
    visitor = Visitor(azure, ROOT)
    text = text_of(visitor.get("dead-letters", {"queue": "orders", "reason": "red"}))
    assert "about red" in text
    assert "four" not in text
    first = azure.broker.dead_letters("orders", 0, 1).result()[0].sequence_number
    answer = visitor.post("resubmit", {}, {"queue": "orders", "number": first})
    assert answer.headers["Location"] == "dead-letters?queue=orders&done=resubmitted"
    assert azure.bodies("orders", "a") == [b"one"]
    query = {"queue": "orders", "session": "a"}
    form = fields(visitor.get("delete", query).text)
    assert "2 dead letters were deleted" in text_of(visitor.post("delete", form, query, csrf=form["csrf"]))
    assert azure.dead("orders") == [b"four"]


def test_a_subscription_is_opened_and_takes_no_messages(azure: Site, namespace: OwnNamespace) -> None:
    namespace.create_topic("events")
    namespace.create_subscription("events", "audit")
    azure.broker.send("events", [Message("x", session_id="s")]).result()
    visitor = Visitor(azure, ROOT)
    page = visitor.get("messages", {"queue": "events/subscriptions/audit", "session": "s"})
    assert "<bdi>x</bdi>" in page.text
    assert "send?" not in page.text
    assert "send?" not in visitor.get("sessions", {"queue": "events/subscriptions/audit"}).text


def test_a_namespace_that_cannot_be_reached_is_explained() -> None:
    string = "Endpoint=sb://127.0.0.1:1/;SharedAccessKeyName=a;SharedAccessKey=Yg==;UseDevelopmentEmulator=true"
    with GatewayService(AzureBroker(ServiceBusConfig(connection_string=string)), KEYS) as service:
        visitor = Visitor(Site(service, service.broker), ROOT)
        answer = visitor.get("messages", {"queue": "orders", "session": "s"})
        assert answer.status_code in (502, 503, 504)
        assert "cannot be reached" in answer.text or "did not answer" in answer.text or "127.0.0.1" in answer.text
