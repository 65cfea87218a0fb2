"""The AMQP endpoint with TLS, as on Azure's port 5671."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from azsession.broker.embedded import EmbeddedBroker
from azsession.errors import ConfigurationError
from azsession.server import GatewayService

from .certificates import issue_certificate
from .conftest import ROOT
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


def test_an_address_that_is_not_loopback_needs_tls() -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        GatewayService(EmbeddedBroker(), [ROOT], host="0.0.0.0", amqp_port=0)


def test_a_service_without_the_endpoint_has_no_connection_string_for_it() -> None:
    with GatewayService(EmbeddedBroker(), [ROOT]) as service:
        assert service.amqp_port is None
        with pytest.raises(ConfigurationError, match="amqp_port"):
            service.amqp_connection_string()
