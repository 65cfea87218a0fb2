"""The stand-in misbehaves as a test says, and follows AMQP in details that only proton's client can check."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import pytest
import trustme

from tests.conftest import eventually
from tests.standin.require import require_standin
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from tests.standin import StandIn

StandInType = require_standin()

from proton import ConnectionException, Delivery, Message, ProtonException, Timeout, symbol, uint  # noqa: E402
from proton.reactor import AtLeastOnce, LinkOption, ReceiverOption  # noqa: E402
from proton.utils import BlockingConnection, BlockingReceiver, LinkDetached, SendException  # noqa: E402

FILTER = symbol("com.microsoft:session-filter")


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    with StandInType() as standin:
        standin.create_queue("orders")
        yield standin


class Seek(ReceiverOption):
    """Asks for a session, or for the next available one, with a timeout."""

    def __init__(self, session_id: str | None, milliseconds: int = 5000) -> None:
        self.session_id, self.milliseconds = session_id, milliseconds

    def apply(self, link: Any) -> None:
        link.source.filter.put_dict({FILTER: self.session_id})
        link.properties = {symbol("com.microsoft:timeout"): uint(self.milliseconds)}


class Second(LinkOption):
    """Asks for an answer to each disposition."""

    def apply(self, link: Any) -> None:
        link.rcv_settle_mode = link.RCV_SECOND


def token(namespace: StandIn, path: str, seconds: float = 3600, name: str = "RootManageSharedAccessKey") -> str:
    resource, expiry = quote_plus(f"sb://127.0.0.1/{path}"), str(int(time.time() + seconds))
    digest = hmac.new(namespace.keys[name][0].encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    return f"SharedAccessSignature sr={resource}&sig={quote_plus(base64.b64encode(digest))}&se={expiry}&skn={name}"


class Client:
    """A connection with its own `$cbs`."""

    def __init__(self, namespace: StandIn, timeout: float = 30) -> None:
        self.namespace = namespace
        self.connection = BlockingConnection(
            f"amqp://127.0.0.1:{namespace.port}", timeout=timeout, allowed_mechs="ANONYMOUS", reconnect=False
        )

    def ask(self, node: str, body: Any, **properties: Any) -> Message:
        receiver = self.connection.create_receiver(node, credit=1)
        sender = self.connection.create_sender(node)
        sender.send(Message(body=body, properties=properties, id="1", reply_to=node))
        answer = receiver.receive()
        sender.close()
        receiver.close()
        return answer

    def authorize(self, path: str = "orders", text: str | None = None) -> int:
        given = text or token(self.namespace, path)
        properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": f"sb://127.0.0.1/{path}"}
        return int(self.ask("$cbs", given, **properties).properties["status-code"])

    def manage(self, operation: str, body: dict[str, Any], entity: str = "orders") -> tuple[int, Any, Any]:
        answer = self.ask(f"{entity}/$management", body, operation=f"com.microsoft:{operation}")
        body = answer.body
        if isinstance(body, dict):
            # A memoryview is only valid as long as the message.
            body = {name: bytes(value) if isinstance(value, memoryview) else value for name, value in body.items()}
        return answer.properties["statusCode"], answer.properties.get("errorCondition"), body

    def session(self, session_id: str | None = None, *, credit: int = 0, milliseconds: int = 5000) -> BlockingReceiver:
        options = [Seek(session_id, milliseconds), AtLeastOnce(), Second()]
        return self.connection.create_receiver("orders", credit=credit, name=str(uuid.uuid4()), options=options)


@contextmanager
def connected(namespace: StandIn, **options: Any) -> Iterator[Client]:
    client = Client(namespace, **options)
    try:
        assert client.authorize() == 202
        yield client
    finally:
        # Some tests have closed the connection.
        with suppress(ProtonException):
            client.connection.close()


@contextmanager
def short_patience(client: Client) -> Iterator[None]:
    """Wait only a second for answers."""
    usual, client.connection.timeout = client.connection.timeout, 1.0
    try:
        yield
    finally:
        client.connection.timeout = usual


def put(namespace: StandIn, *names: str) -> None:
    namespace.put("orders", [Message(body=name, id=name, group_id=name).encode() for name in names])


def test_links_are_detached_with_the_given_condition(namespace: StandIn) -> None:
    with connected(namespace) as client:
        receiver = client.session("a")
        assert namespace.detach_links("orders", "a", "com.microsoft:server-busy", "later") == 1
        assert namespace.locked_sessions("orders") == set()
        with pytest.raises(LinkDetached, match="server-busy"):
            receiver.receive(30)


def test_dropped_connections_release_their_sessions_at_once(namespace: StandIn) -> None:
    put(namespace, "a")
    with connected(namespace) as client:
        client.session(credit=1).receive()
        assert (namespace.counts("orders").locked, namespace.locked_sessions("orders")) == (1, {"a"})
        assert namespace.drop_connections() == 1
        assert (namespace.counts("orders").locked, namespace.locked_sessions("orders")) == (0, set())
        with pytest.raises(ConnectionException):
            client.session("b")


def test_polite_drops_send_a_close_frame(namespace: StandIn) -> None:
    with connected(namespace) as client:
        receiver = client.session("a")
        namespace.drop_connections(polite=True)
        with pytest.raises(ConnectionException, match="amqp:connection:forced"):
            receiver.receive(30)
    eventually(lambda: namespace.connections() == 0)


def test_delayed_answers_are_sent_when_the_delay_ends(namespace: StandIn) -> None:
    with connected(namespace) as client:
        namespace.delay(60)
        with short_patience(client), pytest.raises(Timeout):
            client.session("a")
        eventually(lambda: namespace.locked_sessions("orders") == {"a"})
        namespace.delay(0)
        client.session("b")
    eventually(lambda: not namespace.locked_sessions("orders"))


def test_the_next_operations_are_throttled(namespace: StandIn) -> None:
    with connected(namespace) as client:
        sender = client.connection.create_sender("orders")
        namespace.throttle(2)
        with pytest.raises(LinkDetached, match="server-busy"):
            client.session("a")
        with pytest.raises(SendException):
            sender.send(Message(body="x", group_id="s"))
        sender.send(Message(body="x", group_id="s"))
    assert namespace.counts("orders").active == 1


@pytest.mark.parametrize("operation", ["get-session-state", "renew-session-lock"])
def test_the_next_operation_is_refused(namespace: StandIn, operation: str) -> None:
    with connected(namespace) as client:
        client.session("a")
        namespace.refuse(operation, "com.microsoft:server-busy")
        asked = {"session-id": "a"}
        assert client.manage(operation, asked)[:2] == (503, "com.microsoft:server-busy")
        assert client.manage(operation, asked)[0] == 200


def test_a_swallowed_operation_takes_effect_without_an_answer(namespace: StandIn) -> None:
    with connected(namespace) as client:
        sender = client.connection.create_sender("orders")
        namespace.swallow("send")
        with short_patience(client), pytest.raises(Timeout):
            sender.send(Message(body="x", group_id="s"))
        eventually(lambda: namespace.counts("orders").active == 1)
        namespace.swallow("attach")
        with short_patience(client), pytest.raises(Timeout):
            client.session("s")
        eventually(lambda: namespace.locked_sessions("orders") == {"s"})


def test_expired_tokens_end_links_and_a_new_token_allows_new_ones(namespace: StandIn) -> None:
    with connected(namespace) as client:
        receiver = client.session("a")
        namespace.expire_tokens()
        with pytest.raises(LinkDetached, match="ExpiredToken"):
            receiver.receive(30)
        with pytest.raises(LinkDetached, match="unauthorized-access"):
            client.session("a")
        assert client.authorize() == 202
        client.session("a")


def session_until_expiry(client: Client, seconds: float) -> BlockingReceiver | None:
    """Take a session with a token that expires after some seconds; return `None` if that took longer."""
    ends = int(time.time() + seconds)
    try:
        if client.authorize(text=token(client.namespace, "orders", seconds)) == 202:
            return client.session("a")
    except LinkDetached:
        pass
    assert time.time() > ends
    return None


def test_a_token_that_expires_ends_its_links(namespace: StandIn) -> None:
    with connected(namespace) as client:
        for seconds in (1.9, 8, 32):  # A machine that was too slow gets more time.
            receiver = session_until_expiry(client, seconds)
            if receiver is not None:
                break
        assert receiver is not None, "every token expired before its link was attached"
        with pytest.raises(LinkDetached, match="ExpiredToken"):
            receiver.receive(60)


def test_expired_tokens_and_tokens_for_other_entities_are_refused(namespace: StandIn) -> None:
    with connected(namespace) as client:
        assert client.authorize(text=token(namespace, "orders", -10)) == 401
        assert client.authorize(text=token(namespace, "others")) == 401
        assert client.authorize(text=token(namespace, "")) == 202


def test_a_cancelled_accept_locks_no_session(namespace: StandIn) -> None:
    with connected(namespace) as client:
        connection = client.connection
        before = namespace.links()
        link = connection.container.create_receiver(connection.conn, "orders", options=[Seek(None)])
        connection.wait(lambda: namespace.links() == before + 1)
        link.close()
        connection.wait(lambda: link.state & link.REMOTE_CLOSED)
        put(namespace, "a")
        assert namespace.locked_sessions("orders") == set()
        client.session()
        assert namespace.locked_sessions("orders") == {"a"}


def test_an_accept_ends_after_its_timeout(namespace: StandIn) -> None:
    with connected(namespace) as client, pytest.raises(LinkDetached, match="microsoft:timeout"):
        client.session(milliseconds=50)


def test_a_refused_disposition_is_answered_with_the_error(namespace: StandIn) -> None:
    put(namespace, "a")
    namespace.refuse("disposition", "com.microsoft:message-lock-lost")
    with connected(namespace) as client:
        receiver = client.session(credit=1)
        receiver.receive()
        delivery = receiver.fetcher.unsettled[0]
        delivery.update(Delivery.ACCEPTED)
        client.connection.wait(lambda: delivery.settled)
        assert delivery.remote_state == Delivery.REJECTED
        assert delivery.remote.condition.name == "com.microsoft:message-lock-lost"
    assert namespace.completed("orders") == []


def test_one_disposition_settles_many(namespace: StandIn) -> None:
    namespace.put("orders", [Message(body="x", group_id="a").encode() for _ in range(50)])
    with connected(namespace) as client:
        receiver = client.session("a", credit=50)
        client.connection.wait(lambda: len(receiver.fetcher.incoming) == 50)
        for _, delivery in receiver.fetcher.incoming:
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()
        client.connection.wait(lambda: namespace.counts("orders").active == 0)
        assert [number for _, number, _ in namespace.completed("orders")] == list(range(1, 51))
        assert namespace.log["disposition"] < 10


def test_a_refused_attach_is_answered_without_a_source(namespace: StandIn) -> None:
    with connected(namespace) as client, connected(namespace) as other:
        client.session("a")
        link = other.connection.container.create_receiver(other.connection.conn, "orders", options=[Seek("a")])
        with suppress(LinkDetached):
            other.connection.wait(lambda: link.state & link.REMOTE_CLOSED)
        assert link.remote_source.address is None
        assert link.remote_condition.name == "com.microsoft:session-cannot-be-locked"


def test_only_the_connection_that_holds_a_session_can_manage_it(namespace: StandIn) -> None:
    with connected(namespace) as holder, connected(namespace) as other:
        holder.session("a")
        asked = {"session-id": "a", "session-state": b"kept"}
        assert other.manage("set-session-state", asked)[:2] == (410, "com.microsoft:session-lock-lost")
        assert holder.manage("set-session-state", asked)[0] == 200
        assert holder.manage("get-session-state", asked)[2] == {"session-state": b"kept"}


def test_expired_messages_are_removed_or_dead_lettered(namespace: StandIn) -> None:
    namespace.create_queue("mortal", dead_letter_on_expiration=True, default_time_to_live=0.1)
    namespace.put("mortal", [Message(body="x", group_id="a").encode()])
    namespace.put("orders", [Message(body="x", group_id="a", ttl=0.1).encode()])
    eventually(lambda: namespace.counts("mortal").dead_letter == 1 and namespace.counts("orders").active == 0)
    assert (namespace.counts("mortal").active, namespace.counts("orders").dead_letter) == (0, 0)


def test_no_more_messages_are_sent_than_the_credit_allows(namespace: StandIn) -> None:
    namespace.put("orders", [Message(body="x", group_id="a").encode() for _ in range(5)])
    with connected(namespace) as client:
        receiver = client.session("a")
        receiver.link.flow(2)
        client.connection.wait(lambda: len(receiver.fetcher.incoming) == 2)
        assert namespace.counts("orders").locked == 2
        receiver.link.drain(10)
        client.connection.wait(lambda: receiver.link.credit == 0 and not receiver.link.draining())
        assert len(receiver.fetcher.incoming) == 5


def frame(body: str, kind: int = 0) -> bytes:
    """Return a frame with this hexadecimal body."""
    raw = bytes.fromhex(body)
    return (len(raw) + 8).to_bytes(4, "big") + bytes((2, kind, 0, 0)) + raw


#: The SASL frames and an open frame with a container id.
OPENED = b"".join(
    (
        b"AMQP\x03\x01\x00\x00",
        frame("005341c00c01a309" + b"ANONYMOUS".hex(), 1),
        b"AMQP\x00\x01\x00\x00",
        frame("005310c00401a10161"),
    )
)


def answer_to(namespace: StandIn, data: bytes) -> bytes:
    """Return all bytes that answer these bytes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", namespace.port), 10) as sock:
        sock.sendall(data)
        seen = b""
        while more := sock.recv(4096):
            seen += more
    return seen


def test_a_handle_beyond_the_maximum_ends_the_connection() -> None:
    begin, attach = "005311c00704404352105210", "005312c00703a10161520941"
    with StandInType(handle_max=8) as namespace:
        seen = answer_to(namespace, OPENED + frame(begin) + frame(attach))
        assert b"amqp:connection:framing-error" in seen
        # The answer to the begin had announced the handle maximum.
        assert b"\x70\x00\x00\x00\x08" in seen


def test_a_silent_client_is_disconnected() -> None:
    with StandInType(idle_timeout=0.3) as namespace:
        assert b"amqp:resource-limit-exceeded" in answer_to(namespace, OPENED)


def test_the_stand_in_serves_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with StandInType(tls=(str(tmp_path / "both.pem"), str(tmp_path / "both.pem"))) as namespace:
        assert "Emulator" not in namespace.connection_string
        plain = socket.create_connection(("127.0.0.1", namespace.port), 5)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            sock.sendall(b"AMQP\x03\x01\x00\x00")
            assert sock.recv(8) == b"AMQP\x03\x01\x00\x00"


def test_the_stand_in_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "tests.standin", "--queue", "orders", "--lock-duration", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ)) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        assert answer["connection_string"].startswith(f"Endpoint=sb://127.0.0.1:{answer['port']}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
