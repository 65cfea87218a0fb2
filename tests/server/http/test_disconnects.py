"""A client that goes away leaves no lock and no message behind, over TCP and TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import trustme

from azsession.broker.calls import BLOCKING, CallContext, Delivery, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.queues import QueueSettings
from azsession.server import GatewayService
from tests.conftest import eventually

from ..raw import KEYS, Gateway, Holder, Reply, SteppedClock, acceptors, fresh_id, serving, tls_client, waiters

Connect = Callable[[bytes], socket.socket]


@pytest.fixture(params=["tcp", "tls"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, Connect]]:
    """A gateway, and a function that opens a connection to it and sends bytes. Its own requests use TCP."""
    if request.param == "tcp":
        with serving() as gateway:
            yield gateway, gateway.open_socket
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

        yield Gateway(plain, SteppedClock()), connect


def aborted_poll(gateway: Gateway, connect: Connect, queue: str) -> None:
    """Begin to wait for a message, but close the connection soon, as ``curl --max-time`` does."""
    path = f"/{queue}/sessions/s/messages/head?timeout=100"
    with connect(gateway.head("DELETE", path, {"Azsession-Lock-Id": fresh_id()})):
        eventually(lambda: waiters(gateway, queue, "s") == 1)


def received(holder: Holder) -> Reply:
    """Return the answer to a receive, when the session is free."""
    replies: list[Reply] = []
    eventually(lambda: replies.append(holder.receive()) or replies[-1].status != 423)
    return replies[-1]


def test_an_aborted_poll_frees_the_session(served: tuple[Gateway, Connect]) -> None:
    gateway, connect = served
    queue = gateway.queue(lock_duration=300)
    aborted_poll(gateway, connect, queue)
    assert received(gateway.holder(queue, "s", fresh_id())).status == 204


def test_a_message_that_is_sent_after_an_aborted_poll_is_delivered_once(served: tuple[Gateway, Connect]) -> None:
    gateway, connect = served
    queue = gateway.queue(lock_duration=300)
    aborted_poll(gateway, connect, queue)
    gateway.send(queue, "s", "one")
    reply = received(gateway.holder(queue, "s", fresh_id()))
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
        first: list[Any] = []

        def has_received() -> bool:
            reply = holder.receive()
            first.append(reply)
            return reply.status == 201

        eventually(has_received)
        assert (first[-1].body, first[-1].properties["DeliveryCount"]) == (b"one", 1)


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
