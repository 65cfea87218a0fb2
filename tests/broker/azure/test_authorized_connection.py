"""Tokens: one for each entity, refreshed on the same connection, replaced if they were revoked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from azsession import (
    AuthenticationFailedError,
    ConnectionFailedError,
    PermissionDeniedError,
    QueueError,
    ServiceBusConfig,
)
from azsession import tokens as tokens_module
from azsession.broker.azure import AzureBroker
from azsession.protocol.sas import generate_sas_token

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import namespace_on, stand_in_only
from .holders import QUEUE, Holder, broker_on, completed, send


class Credential:
    """A `TokenCredential` whose tokens last for `lifetime` seconds."""

    def __init__(self, lifetime: float, *texts: str) -> None:
        self.lifetime, self.texts = lifetime, texts
        self.asked: list[dict[str, Any]] = []

    def get_token(self, *scopes: str, **claims: Any) -> AccessToken:
        assert scopes == ("https://servicebus.azure.net/.default",)
        self.asked.append(claims)
        text = self.texts[min(len(self.asked), len(self.texts)) - 1] if self.texts else f"good-{len(self.asked)}"
        return AccessToken(text, int(time.time() + self.lifetime))


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE)
        namespace.create_queue("others")
        yield namespace


@contextmanager
def broker_with(namespace: Namespace, credential: Any) -> Iterator[AzureBroker]:
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string), credential)
    try:
        yield broker
    finally:
        broker.close()


def puts(namespace: Namespace) -> int:
    """Return how many tokens the namespace has."""
    return len(namespace.tokens())


def test_each_entity_gets_one_token(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        for _ in range(3):
            send(broker, "x")
            broker.peek("others", "s", 0, 1).result()
        assert puts(namespace) == 2


@stand_in_only("tokens of Microsoft Entra")
def test_a_token_of_a_credential_is_refreshed_before_its_end_on_the_same_connection(namespace: Namespace) -> None:
    credential = Credential(3)
    with broker_with(namespace, credential) as broker:
        holder = Holder(broker)
        send(broker, "one")
        messages = holder.take()
        eventually(lambda: len(credential.asked) >= 3)
        assert holder.complete(*messages) == [None]
        assert (namespace.connections(), namespace.log["open"], namespace.log["detach"]) == (1, 1, 0)


def test_a_signature_is_refreshed_before_its_end(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "SAS_LIFETIME", 3)
    with broker_on(namespace) as broker:
        send(broker, "one")
        holder = Holder(broker)
        messages = holder.take()

        def ends() -> float:
            return max(namespace.tokens())

        first = ends()
        eventually(lambda: ends() > first + 2)
        assert holder.complete(*messages) == [None]
        assert (namespace.connections(), namespace.log["detach"]) == (1, 0)


def test_expired_tokens_are_put_again(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "one", "two")
        holder = Holder(broker)
        messages = holder.take()
        namespace.expire_tokens()
        assert holder.complete(*messages) == [None]
        send(broker, "three")
        assert [message.text() for message in holder.take(2)] == ["two", "three"]
        assert completed(namespace) == ["one"]
        assert namespace.connections() == 1


@stand_in_only("tokens of Microsoft Entra")
def test_a_revoked_token_is_replaced_once(namespace: Namespace) -> None:
    credential = Credential(3600, "revoked", "good")
    with broker_with(namespace, credential) as broker:
        send(broker, "one")
        assert len(namespace.accepted(QUEUE)) == 1
    # The second call bypasses the cache of the credential.
    assert [bool(claims) for claims in credential.asked] == [False, True]


def test_a_credential_whose_tokens_are_refused_is_asked_twice(namespace: Namespace) -> None:
    credential = Credential(3600, "bad")
    with broker_with(namespace, credential) as broker, pytest.raises(AuthenticationFailedError):
        send(broker, "one")
    assert len(credential.asked) == 2


def test_a_wrong_key_is_a_failed_authentication(namespace: Namespace) -> None:
    wrong = namespace.connection_string.replace("SharedAccessKey=", "SharedAccessKey=x")
    broker = AzureBroker(ServiceBusConfig(connection_string=wrong))
    try:
        for call in (lambda: send(broker, "one"), lambda: Holder(broker).receive(timeout=10)):
            with pytest.raises(AuthenticationFailedError):
                call()
    finally:
        broker.close()
    # Two tokens were refused for each of the two calls.
    assert namespace.log["transfer"] == 4


@pytest.mark.parametrize("right", ["Send", "Listen"])
def test_a_key_without_the_right_is_denied(namespace: Namespace, right: str) -> None:
    namespace.add_key("limited", frozenset({right}))
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string_of("limited")))
    calls = {"Send": lambda: send(broker, "one"), "Listen": lambda: Holder(broker).receive(timeout=0)}
    try:
        calls.pop(right)()
        with pytest.raises(PermissionDeniedError, match="claim"):
            calls.popitem()[1]()
    finally:
        broker.close()


def test_a_signature_of_the_connection_string_is_used_until_its_end(namespace: Namespace) -> None:
    fields = dict(part.split("=", 1) for part in namespace.connection_string.split(";"))
    name, key = fields["SharedAccessKeyName"], fields["SharedAccessKey"]

    def string(expires_on: float) -> str:
        token = generate_sas_token("sb://127.0.0.1/", name, key, int(expires_on))
        return f"Endpoint=sb://127.0.0.1:{namespace.port};SharedAccessSignature={token};UseDevelopmentEmulator=true"

    broker = AzureBroker(ServiceBusConfig(connection_string=string(time.time() + 60)))
    try:
        send(broker, "one")
    finally:
        broker.close()
    broker = AzureBroker(ServiceBusConfig(connection_string=string(time.time() - 60)))
    try:
        with pytest.raises(AuthenticationFailedError, match="SharedAccessSignature of the connection string"):
            send(broker, "two")
    finally:
        broker.close()


def test_an_unanswered_token_is_put_again_by_the_next_call(namespace: Namespace) -> None:
    namespace.swallow("put-token")
    with broker_on(namespace, request_timeout=1.0) as broker:
        with pytest.raises(ConnectionFailedError) as caught:
            send(broker, "one")
        assert not caught.value.maybe_delivered
        send(broker, "two")
        assert len(namespace.accepted(QUEUE)) == 1


def test_an_internal_error_for_a_token_is_transient(namespace: Namespace) -> None:
    namespace.refuse("put-token", "amqp:internal-error")
    with broker_on(namespace) as broker:
        with pytest.raises(QueueError) as caught:
            send(broker, "one")
        assert caught.value.is_transient
        send(broker, "one")
