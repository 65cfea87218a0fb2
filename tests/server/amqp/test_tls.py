"""The AMQP endpoint with TLS, as on Azure's port 5671."""

from __future__ import annotations

import random
import ssl
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus.exceptions import ServiceBusConnectionError

from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import ConfigurationError
from azsession.server import GatewayService
from azsession.server.amqp import limits

from ...conftest import eventually
from ...support.sdk import message, receive, sockets_closed
from .certificates import issue_certificate
from .conftest import ROOT, sdk_client
from .raw import RawClient


def test_clients_connect_with_tls(tmp_path: Path) -> None:
    files = issue_certificate(tmp_path)
    context = ssl.create_default_context(cafile=files.authority)
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], tls_cert=files.cert, tls_key=files.key, amqp_port=0) as service:
        assert "UseDevelopmentEmulator" not in service.amqp_connection_string()
        with RawClient(service) as raw:
            raw.socket = context.wrap_socket(raw.socket, server_hostname="127.0.0.1")
            assert raw.open(ROOT).attach_receiver("q").has_source
        with RawClient(service) as raw:
            # A client without TLS gets no frame.
            raw.send(b"AMQP\x03\x01\x00\x00" * 10)
            assert b"AMQP" not in raw.socket.recv(1000)


def test_the_sdk_checks_the_certificate_against_a_given_authority(tmp_path: Path) -> None:
    # The SDK uses port 5671 with TLS, whatever the connection string says. On Linux, every 127.x.y.z is this machine.
    host = f"127.{random.randint(1, 250)}.{random.randint(1, 250)}.1" if sys.platform == "linux" else "127.0.0.1"
    files = issue_certificate(tmp_path, host)
    broker = EmbeddedBroker(queues=["q"])
    tls = {"tls_cert": files.cert, "tls_key": files.key}
    with (
        sockets_closed(),
        GatewayService(broker, [ROOT], **tls, host=host, amqp_port=5671) as service,
    ):
        where = service.amqp_connection_string()
        with sdk_client(where, connection_verify=str(files.authority)) as client:
            with client.get_queue_sender("q") as sender:
                sender.send_messages(message("over TLS", "s"))
            with client.get_queue_receiver("q", session_id="s") as receiver:
                (received,) = receive(receiver, 1)
                assert str(received) == "over TLS"
                receiver.complete_message(received)
        # The authority is not one of the system's.
        with (
            sdk_client(where) as client,
            pytest.raises(ServiceBusConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.get_queue_sender("q").send_messages(message("refused", "s"))
        assert broker.peek("q", None, 0, 10).result() == []


def test_an_address_that_is_not_loopback_needs_tls() -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        GatewayService(EmbeddedBroker(), [ROOT], host="0.0.0.0", amqp_port=0)


def test_a_service_without_the_endpoint_has_no_connection_string_for_it() -> None:
    with GatewayService(EmbeddedBroker(), [ROOT]) as service:
        assert service.amqp_port is None
        with pytest.raises(ConfigurationError, match="amqp_port"):
            service.amqp_connection_string()


def test_connections_without_a_handshake_count(tmp_path: Path) -> None:
    files = issue_certificate(tmp_path)
    context = ssl.create_default_context(cafile=files.authority)
    options: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "amqp_port": 0, "max_connections": 3}
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], **options) as service, ExitStack() as stack:
        silent = [stack.enter_context(RawClient(service)) for _ in range(3)]
        eventually(lambda: service._connection_count() == 3)
        with RawClient(service) as refused:
            refused.assert_ended()
        for each in silent:
            each.socket.close()
        eventually(lambda: service._connection_count() == 0)
        with RawClient(service) as raw:
            raw.socket = context.wrap_socket(raw.socket, server_hostname="127.0.0.1")
            assert raw.open(ROOT).attach_receiver("q").has_source
            assert service._connection_count() == 1
        stack.enter_context(RawClient(service))
        eventually(lambda: service._connection_count() == 1)
        # The end of the service does not wait for the handshake.


def test_a_handshake_that_takes_too_long_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 0.5)
    files = issue_certificate(tmp_path)
    options: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "amqp_port": 0}
    with GatewayService(EmbeddedBroker(queues=["q"]), [ROOT], **options) as service, RawClient(service) as silent:
        silent.assert_ended()
        eventually(lambda: service._connection_count() == 0)
