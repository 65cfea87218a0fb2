"""A gateway that stops while clients wait over AMQP."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack, suppress

from azure.servicebus import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from azsession.broker.embedded import EmbeddedBroker
from azsession.server import GatewayService

from ...support.sdk import sockets_closed
from .conftest import ROOT
from .test_connections import endpoint_of


def test_a_connection_that_arrives_while_the_gateway_stops_is_closed() -> None:
    with GatewayService(EmbeddedBroker(), [ROOT], amqp_port=0) as service, ExitStack() as stack:
        client, accepted = map(stack.enter_context, socket.socketpair())

        async def arrive() -> None:
            endpoint = endpoint_of(service)
            endpoint._on_socket(accepted)
            await endpoint.stop()

        assert service._loop is not None
        asyncio.run_coroutine_threadsafe(arrive(), service._loop).result(30)
        client.settimeout(10)
        assert client.recv(1) == b""
        assert accepted.fileno() == -1


def test_a_receiver_with_credit_does_not_hold_up_the_end() -> None:
    with sockets_closed():
        stop_with_a_waiting_receiver()


def stop_with_a_waiting_receiver() -> None:
    broker = EmbeddedBroker(queues=["q"])
    with GatewayService(broker, [ROOT], amqp_port=0) as service:
        client = ServiceBusClient.from_connection_string(service.amqp_connection_string(), retry_total=0)
        receiver = client.get_queue_receiver("q", session_id="s", prefetch_count=50)
        assert receiver.receive_messages(max_wait_time=1) == []
        began = time.monotonic()
    # Connections that do not end in 20 s are cut.
    assert time.monotonic() - began < 15
    with suppress(ServiceBusError):
        receiver.close()
    with suppress(ServiceBusError):
        client.close()
