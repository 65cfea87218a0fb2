"""Shared by the benchmarks of Azure: a server for a namespace in its own process, and clients and a gateway for it.

The server is the tests' stand-in, which is built on Qpid Proton, or the AMQP endpoint of azsession's own gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import psutil
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusReceiver
from azure.servicebus import __version__ as SDK_VERSION  # noqa: N812 - a constant of theirs

from azsession import Message, ServiceBusProvider

from .common import Gateway

__all__ = ["PEER", "SERVERS", "Namespace", "azure_gateway", "fill_sessions", "namespace", "sdk_receiver", "sdk_session"]

#: The peer. By default it settles with dispositions that are settled already, so that Azure does not confirm them.
PEER = f"azure-servicebus {SDK_VERSION}, its settlements unconfirmed"

#: The servers that stand for a namespace: the option ``--server``.
SERVERS = ("standin", "gateway")
#: The process of the AMQP endpoint: a gateway that keeps its messages in memory.
_ENDPOINT = """
import json
import sys
from azsession import QueueSettings
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, GatewayService

broker = EmbeddedBroker(None)
for name in sys.argv[2:]:
    broker.create_queue(name, QueueSettings(lock_duration=float(sys.argv[1]))).result()
with GatewayService(broker, [AccessKey.generate()], amqp_port=0) as service:
    print(json.dumps({"connection_string": service.amqp_connection_string()}), flush=True)
    sys.stdin.read()
"""
#: The gateway's process: serves in front of a namespace until its standard input ends.
_GATEWAY = """
import sys
from azsession import ServiceBusConfig
from azsession.broker.azure import AzureBroker
from azsession.server import AccessKey, GatewayService

broker = AzureBroker(ServiceBusConfig(connection_string=sys.stdin.readline().strip()))
with GatewayService(broker, [AccessKey.generate()]) as service:
    print(service.connection_string(), flush=True)
    sys.stdin.read()
"""


@attrs.frozen
class Namespace:
    """A server that stands for an Azure namespace, in a process of its own."""

    connection_string: str
    process: psutil.Process

    def provider(self) -> ServiceBusProvider:
        """Return a new provider that speaks AMQP with it from this process; close it."""
        return ServiceBusProvider.from_connection_string(self.connection_string)

    def sdk(self) -> ServiceBusClient:
        """Return a new client of the SDK's, with its defaults; close it."""
        return ServiceBusClient.from_connection_string(self.connection_string)


@contextmanager
def namespace(*queues: str, lock_duration: float = 300.0, server: str = SERVERS[0]) -> Iterator[Namespace]:
    """Run one of `SERVERS`, with these queues, until the ``with`` block ends."""
    if server == "gateway":
        command = [sys.executable, "-c", _ENDPOINT, str(lock_duration), *queues]
    else:
        command = [sys.executable, "-m", "tests.standin", "--lock-duration", str(lock_duration)]
        for queue in queues:
            command += ["--queue", queue]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start: the stand-in needs the extras standin and dev, and the tests")
        try:
            yield Namespace(json.loads(line)["connection_string"], psutil.Process(process.pid))
        finally:
            process.terminate()


@contextmanager
def azure_gateway(standin: Namespace) -> Iterator[Gateway]:
    """Serve the stand-in's sessions over HTTP, from a third process, until the ``with`` block ends."""
    command = [sys.executable, "-c", _GATEWAY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(standin.connection_string + "\n")
        process.stdin.flush()
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit("the gateway did not start")
        try:
            yield Gateway(line, psutil.Process(process.pid), process)
        finally:
            process.stdin.close()


def fill_sessions(provider: ServiceBusProvider, queue: str, count: int, size: int = 256) -> None:
    """Send one message of `size` bytes into each of `count` sessions."""
    body = b"x" * size
    for number in range(count):
        provider.send_message(queue, Message(body, session_id=f"one-{number:06}"))


def sdk_receiver(client: ServiceBusClient, queue: str, session_id: str, prefetch: int = 0) -> ServiceBusReceiver:
    """Return the SDK's receiver of one session."""
    return client.get_queue_receiver(queue, session_id=session_id, prefetch_count=prefetch, max_wait_time=5)


def sdk_session(client: ServiceBusClient, queue: str) -> None:
    """With the SDK: take the next session, receive its message, complete it, release."""
    with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
        (message,) = receiver.receive_messages(1)
        receiver.complete_message(message)
