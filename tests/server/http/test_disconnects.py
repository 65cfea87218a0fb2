"""A client that goes away leaves no lock and no message behind, over TCP and TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme

from azsession import Message
from azsession.broker.calls import BLOCKING, CallContext, Delivery, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import GatewayService
from tests.conftest import eventually

from ..raw import KEYS, Gateway, Holder, Reply, SteppedClock, acceptors, fresh_id, serving, tls_client, waiters

Connect = Callable[[bytes], socket.socket]


@attrs.frozen
class Served:
    """A broker's gateway for the test's own requests, which use TCP, and the service that `connect` connects to."""

    gateway: Gateway
    service: GatewayService
    connect: Connect


@pytest.fixture(params=["tcp", "tls"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A gateway. `connect` opens a connection and sends bytes."""
    if request.param == "tcp":
        with serving() as gateway:
            yield Served(gateway, gateway.service, gateway.open_socket)
        return
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    broker = EmbeddedBroker()
    plain = GatewayService(broker, KEYS)
    with GatewayService(broker, KEYS, tls_cert=chain, tls_key=key) as encrypted, plain:
        there = Gateway(encrypted, SteppedClock())

        def connect(data: bytes) -> socket.socket:
            sock = tls_client(there, context, there.open_socket())
            sock.sendall(data)
            return sock

        yield Served(Gateway(plain, SteppedClock()), encrypted, connect)


@contextmanager
def polling(served: Served, queue: str, session_id: str = "s") -> Iterator[str]:
    """Wait for a message, and yield the lock id. Close the connection soon, as ``curl --max-time`` does."""
    lock_id = fresh_id()
    path = f"/{queue}/sessions/{session_id}/messages/head?timeout=100"
    with served.connect(served.gateway.head("DELETE", path, {"Azsession-Lock-Id": lock_id})):
        eventually(lambda: waiters(served.gateway, queue, session_id) == 1)
        yield lock_id


def hold_loop(service: GatewayService) -> threading.Event:
    """Let the event loop of a service stand still until the result is set."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(30)

    assert service._loop is not None
    service._loop.call_soon_threadsafe(hold)
    assert held.wait(30)
    return go_on


def received(holder: Holder, status: int) -> Reply:
    """Receive until the answer has a status, and return it."""
    replies: list[Reply] = []
    eventually(lambda: replies.append(holder.receive()) or replies[-1].status == status)
    return replies[-1]


def test_an_aborted_poll_frees_the_session(served: Served) -> None:
    gateway = served.gateway
    queue = gateway.queue(lock_duration=300)
    with polling(served, queue):
        pass
    received(gateway.holder(queue, "s", fresh_id()), 204)


def test_a_message_that_comes_together_with_the_end_of_its_poll_is_delivered_once(served: Served) -> None:
    gateway = served.gateway
    queue = gateway.queue(lock_duration=300)
    for session_id in map(str, range(10)):
        with polling(served, queue, session_id) as lock_id:
            go_on = hold_loop(served.service)
        # The broker passes the message to the poll, while the end of its connection waits to be read.
        gateway.service.broker.send(queue, [Message("one", session_id=session_id)]).result()
        go_on.set()
        # The lock stays until it expires, because it was granted with the message.
        reply = received(gateway.holder(queue, session_id, lock_id), 201)
        assert (reply.body, reply.properties["DeliveryCount"]) == (b"one", 1)


def test_a_message_that_is_sent_after_an_aborted_poll_is_delivered_once(served: Served) -> None:
    gateway = served.gateway
    queue = gateway.queue(lock_duration=300)
    with polling(served, queue):
        pass
    eventually(lambda: waiters(gateway, queue, "s") == 0)
    gateway.send(queue, "s", "one")
    reply = received(gateway.holder(queue, "s", fresh_id()), 201)
    assert (reply.body, reply.properties["DeliveryCount"]) == (b"one", 1)


class LateBroker(EmbeddedBroker):
    """The first receive cannot be withdrawn, and its result is held back until `go_on` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self._late: tuple[Future[Delivery], Delivery] | None = None

    def receive(self, request: ReceiveRequest, *, context: CallContext = BLOCKING) -> Future[Delivery]:
        future = super().receive(request, context=context)
        if self.entered.is_set():
            return future
        late: Future[Delivery] = Future()
        late.set_running_or_notify_cancel()
        self._late = late, future.result()
        self.entered.set()
        return late

    def go_on(self) -> None:
        assert self._late is not None
        self._late[0].set_result(self._late[1])


def test_messages_of_an_answer_that_cannot_be_written_are_given_back() -> None:
    broker = LateBroker()
    broker.create_queue("q", QueueSettings(lock_duration=300)).result()
    with GatewayService(broker, KEYS) as service:
        gateway = Gateway(service, SteppedClock())
        gateway.send("q", "s", "one", "two")
        holder = gateway.holder("q", "s", fresh_id())
        with holder.start_receive(60):
            assert broker.entered.wait(20)
        eventually(lambda: len(service._listener.connections) == 0)
        broker.go_on()
        # The holder is the same, so that its lock does not matter.
        reply = received(holder, 201)
        assert (reply.body, reply.properties["DeliveryCount"]) == (b"one", 1)


def test_a_session_that_an_absent_client_accepted_is_released() -> None:
    with serving() as gateway:
        queue = gateway.queue(lock_duration=300)
        head = gateway.head("POST", f"/{queue}/sessions?timeout=60", {"Azsession-Lock-Id": fresh_id(), "Content-Length": "2"})
        for number in range(20):
            with gateway.open_socket(head + b"{}"):
                eventually(lambda: acceptors(gateway, queue) == 1)
            # The end of the connection and the message arrive at almost the same time.
            gateway.send(queue, f"s{number}", "x")
            present = gateway.ask("POST", f"/{queue}/sessions?timeout=15", {}, {"Azsession-Lock-Id": fresh_id()})
            assert present.json["SessionId"] == f"s{number}"


def test_tcp_keep_alive_is_on() -> None:
    found = []

    class Broker(EmbeddedBroker):
        def list_queues(self, **options: Any) -> Any:
            (connection,) = service._listener.connections._open
            found.append(connection._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            return super().list_queues(**options)

    with GatewayService(Broker(), KEYS) as service:
        assert Gateway(service, SteppedClock()).ask("GET", "/").status == 200
    assert found == [1]
