"""`check_ready`: whether the namespace can be reached and accepts the token, known within a few seconds."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from azsession import AuthenticationFailedError, ConnectionFailedError, ProviderError, ServiceBusConfig
from azsession.broker.azure import AzureBroker

from ...namespaces import Namespace
from .holders import broker_on, in_thread


def test_a_broker_whose_namespace_answers_is_ready(namespace: Namespace, broker: AzureBroker) -> None:
    for _ in range(3):
        broker.check_ready().result(10)
    assert (namespace.log["open"], namespace.log["attach"]) == (1, 2)


def test_a_broker_becomes_ready_when_its_connection_is_restored(namespace: Namespace, broker: AzureBroker) -> None:
    broker.check_ready().result(10)
    namespace.drop_connections()
    broker.check_ready().result(10)
    assert namespace.log["open"] == 2


def test_a_broker_whose_namespace_cannot_be_reached_is_not_ready(namespace: Namespace) -> None:
    closed = namespace.connection_string.replace(f":{namespace.port};", ":1;")
    broker = AzureBroker(ServiceBusConfig(connection_string=closed))
    try:
        with pytest.raises(ConnectionFailedError, match="cannot be reached: ConnectionRefusedError"):
            broker.check_ready().result(10)
    finally:
        broker.close()


def test_a_broker_whose_namespace_does_not_answer_is_not_ready_within_a_few_seconds(namespace: Namespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = namespace.connection_string.replace(f":{namespace.port};", f":{server.getsockname()[1]};")
        broker = AzureBroker(ServiceBusConfig(connection_string=silent))
        began = time.monotonic()
        try:
            with pytest.raises(ConnectionFailedError, match="no answer"):
                broker.check_ready().result(20)
            assert time.monotonic() - began < 20
        finally:
            broker.close()


def test_a_broker_whose_token_is_refused_is_not_ready(namespace: Namespace) -> None:
    wrong = namespace.connection_string.replace("SharedAccessKey=", "SharedAccessKey=x")
    broker = AzureBroker(ServiceBusConfig(connection_string=wrong))
    try:
        with pytest.raises(AuthenticationFailedError, match="refused the token"):
            broker.check_ready().result(10)
    finally:
        broker.close()


def test_the_key_of_one_queue_is_checked_for_that_queue(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        assert broker._checked_entity == ""
    broker = AzureBroker(ServiceBusConfig(connection_string=f"{namespace.connection_string};EntityPath=orders"))
    try:
        broker.check_ready().result(10)
        assert broker._namespace.ready_connection("orders") is not None
    finally:
        broker.close()


def test_a_credential_that_hangs_ends_the_check_and_is_asked_by_one_thread(namespace: Namespace) -> None:
    ended = threading.Event()

    class Hanging:
        asked = 0

        def get_token(self, *scopes: str, **claims: object) -> object:
            self.asked += 1
            ended.wait(60)
            raise TimeoutError

    credential = Hanging()
    broker = AzureBroker(
        ServiceBusConfig(connection_string=namespace.connection_string, request_timeout=1.0),
        credential,  # type: ignore[arg-type]
    )
    try:
        for check in [broker.check_ready() for _ in range(20)]:
            with pytest.raises(AuthenticationFailedError, match="no token"):
                check.result(10)
        assert credential.asked == 1
    finally:
        in_thread(broker.close).result(10)
        ended.set()


def test_a_closed_broker_is_not_ready(broker: AzureBroker) -> None:
    broker.close()
    with pytest.raises(ProviderError, match="closed"):
        broker.check_ready().result(10)
