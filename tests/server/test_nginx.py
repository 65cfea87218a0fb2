"""Two gateways for one namespace behind nginx, with the documented configuration.

All requests of a session's holder reach the same gateway. If one gateway dies, the other takes over."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import requests

from azsession import (
    InvalidReceiptError,
    Message,
    NoSessionAvailableError,
    QueueError,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionLockedError,
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import AcceptRequest, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.backends import AZURE_BODY_SIZE, AZURE_MESSAGE_SIZE
from azsession.config import ServiceBusConfig
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, GatewayService

from ..api.test_names import SESSION_IDS
from ..conftest import eventually
from ..namespaces import OwnNamespace
from ..support.processes import PATIENCE, Served, environment
from .nginx import Nginx, require_nginx

QUEUE = "orders"
KEY = AccessKey("app", "c2VjcmV0IG9mIGEgdGVzdA==")
WORKERS, PREFETCH = 8, 3


class Scene:
    """A namespace, two gateways in front of it, and nginx in front of the gateways."""

    def __init__(self, stack: ExitStack, place: Path) -> None:
        require_nginx()
        self.namespace = stack.enter_context(OwnNamespace())
        self.namespace.create_queue(QUEUE)
        self.namespace.create_subscription("events", "audit")
        self._stack, self._place = stack, place

    def serve(self, *addresses: str) -> None:
        self.nginx = self._stack.enter_context(Nginx(self._place / "nginx", addresses))
        eventually(self.nginx.is_up)
        self.connection_string = f"Endpoint={self.nginx.url}/;SharedAccessKeyName={KEY.name};SharedAccessKey={KEY.key}"

    def provider(self, **fields: Any) -> ServiceBusProvider:
        return self._stack.enter_context(ServiceBusProvider.from_connection_string(self.connection_string, **fields))

    def header(self, path: str) -> dict[str, str]:
        token = generate_sas_token(f"{self.nginx.url}{path}", KEY.name, KEY.key, int(time.time()) + 60)
        return {"Authorization": token}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack, tmp_path)


class Here:
    """Two gateways in this process that record the broker calls of their clients."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        self.asked: list[list[tuple[str, str, str]]] = [[], []]
        services = [self._service(scene, stack, number) for number in range(2)]
        scene.serve(*(service.url.removeprefix("http://") for service in services))

    def _service(self, scene: Scene, stack: ExitStack, number: int) -> GatewayService:
        asked = self.asked[number]

        class Noting(AzureBroker):
            """Records each call before it runs."""

            def accept(self, request: AcceptRequest, **rest: Any) -> Any:
                asked.append(("accept", request.entity, request.lock_id))
                return super().accept(request, **rest)

            def receive(self, request: ReceiveRequest, **rest: Any) -> Any:
                who = request.lock_id or request.session_id
                asked.append(("receive", request.entity, who))
                receiving = super().receive(request, **rest)
                receiving.add_done_callback(lambda _: asked.append(("received", request.entity, who)))
                return receiving

            def renew(self, entity: str, session_id: str, lock_id: str, **rest: Any) -> Any:
                asked.append(("renew", entity, lock_id or session_id))
                return super().renew(entity, session_id, lock_id, **rest)

            def settle(self, entity: str, session_id: str, settlements: Any, **rest: Any) -> Any:
                asked.append(("settle", entity, session_id))
                return super().settle(entity, session_id, settlements, **rest)

            def send(self, entity: str, messages: Any, request_id: str = "", **rest: Any) -> Any:
                asked.append(("send", entity, request_id))
                return super().send(entity, messages, request_id, **rest)

        broker = Noting(ServiceBusConfig(connection_string=scene.namespace.connection_string))
        service = GatewayService(
            broker, [KEY], max_waiting=64, max_body_size=AZURE_BODY_SIZE, max_message_size=AZURE_MESSAGE_SIZE
        )
        return stack.enter_context(service)

    def callers(self, call: str) -> list[set[str]]:
        """Return, for each gateway, the holders or requests that made calls of one kind."""
        return [{who for kind, _, who in asked if kind == call} for asked in self.asked]


@pytest.fixture
def here(scene: Scene) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(scene, stack)


def take(session: SessionClient) -> ReceivedMessage:
    message = session.receive_message(timeout=10)
    assert message is not None
    return message


@pytest.mark.parametrize("entity", [QUEUE, "events/subscriptions/audit"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "next-available"])
def test_all_requests_of_one_holder_reach_the_same_gateway(scene: Scene, here: Here, entity: str, named: bool) -> None:
    provider = scene.provider()
    names = [f"a/b é?#%{number}" for number in range(16)]
    provider.send_messages(entity.partition("/")[0], [Message(name, session_id=name) for name in names])
    for name in names:
        with provider.create_session_client(entity, name if named else None, accept_timeout=10) as session:
            message = take(session)
            assert message.text() == session.session_id
            session.renew_session_lock()
            session.set_session_state(b"1")
            receipt = str(message.receipt)
            with provider.session_from_receipt(receipt) as elsewhere:
                elsewhere.complete_message(receipt)
    for call in ("accept", "receive", "renew", "settle"):
        first, second = here.callers(call)
        # Each holder used one gateway, and each gateway was used.
        assert not first & second, call
        if named or call != "settle":
            assert (first and second) or (named and call == "accept"), call
    assert scene.namespace.counts(entity).active == 0


def test_requests_without_a_route_header_are_routed_by_their_path(scene: Scene, here: Here) -> None:
    scene.provider().send_messages(QUEUE, [Message("x", session_id=f"a/{number}") for number in range(16)])
    for number in range(16):
        path = f"/{QUEUE}/sessions/{quote(f'a/{number}', safe='')}"
        headers = scene.header(f"/{QUEUE}")
        received = requests.delete(f"{scene.nginx.url}{path}/messages/head?timeout=10", headers=headers, timeout=20)
        assert received.status_code == 201
        assert requests.post(f"{scene.nginx.url}{path}/renewlock", headers=headers, timeout=10).status_code == 204
        token = json.loads(received.headers["BrokerProperties"])["LockToken"]
        done = requests.delete(f"{scene.nginx.url}{path}/messages/{token}", headers=headers, timeout=10)
        assert done.status_code == 204
    for call in ("receive", "renew", "settle"):
        first, second = here.callers(call)
        assert first
        assert second
        assert not first & second, call
    assert scene.namespace.counts(QUEUE).active == 0


@pytest.mark.parametrize("normalizing", [False, True], ids=["documented", "normalizing"])
def test_any_session_id_passes_a_proxy(tmp_path: Path, normalizing: bool) -> None:
    broker = EmbeddedBroker(queues=["a/messages"])
    with GatewayService(broker, [KEY], max_waiting=64) as service:
        address = service.url.removeprefix("http://")
        with Nginx(tmp_path / "nginx", [address], normalizing=normalizing) as nginx:
            eventually(nginx.is_up)
            text = f"Endpoint={nginx.url}/;SharedAccessKeyName={KEY.name};SharedAccessKey={KEY.key}"
            with ServiceBusProvider.from_connection_string(text) as provider:
                _use_all_sessions(provider, "a/messages")


def _use_all_sessions(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(repr(name), session_id=name) for name in SESSION_IDS])
    assert sorted(info.session_id for info in provider.list_sessions(queue)) == sorted(SESSION_IDS)
    for name in SESSION_IDS:
        assert [message.session_id for message in provider.peek_messages(queue, name)] == [name]
        with provider.create_session_client(queue, name) as session:
            message = take(session)
            assert (message.session_id, message.text()) == (name, repr(name))
            session.set_session_state(b"state")
            session.complete_message(message)
    assert {info.message_count for info in provider.list_sessions(queue)} == {0}


def test_sends_are_spread_and_a_repeated_send_reaches_the_same_gateway(scene: Scene, here: Here) -> None:
    body = json.dumps([{"Body": "x", "BrokerProperties": {"SessionId": "s"}}])
    for number in range(20):
        for _ in range(2):
            headers = {**scene.header(f"/{QUEUE}"), "Azsession-Request-Id": f"request-{number}"}
            headers["Content-Type"] = "application/vnd.microsoft.servicebus.json"
            sent = requests.post(f"{scene.nginx.url}/{QUEUE}/messages", body, headers=headers, timeout=10)
            assert sent.status_code == 201
    first, second = here.callers("send")
    assert first
    assert second
    assert not first & second
    assert len(scene.namespace.accepted(QUEUE)) == 20


def test_attributes_of_any_name_pass_as_headers(scene: Scene, here: Here) -> None:
    headers = {**scene.header(f"/{QUEUE}"), "BrokerProperties": json.dumps({"SessionId": "s"}), "one%20two": '"c"'}
    sent = requests.post(f"{scene.nginx.url}/{QUEUE}/messages", b"0", headers=headers, timeout=10)
    assert sent.status_code == 201, sent.text
    names = ["with_underscore", "é (x): y", "Host", "from me"]
    scene.provider().send_message(QUEUE, Message(b"1", session_id="s", attributes=dict.fromkeys(names, "d" * 2000)))
    url = f"{scene.nginx.url}/{QUEUE}/sessions/s/messages/head?timeout=10"
    first, second = (requests.delete(url, headers=scene.header(f"/{QUEUE}"), timeout=20) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert [unquote(name).lower() for name, value in first.headers.items() if value == '"c"'] == ["one two"]
    got = [unquote(name).lower() for name, value in second.headers.items() if value == f'"{"d" * 2000}"']
    assert sorted(got) == sorted(name.lower() for name in names)


def test_large_messages_pass(scene: Scene, here: Here) -> None:
    scene.namespace.create_queue("large", max_message_size=10_000_000)
    provider = scene.provider()
    provider.send_message("large", Message(b"1" * 3_000_000, session_id="s"))
    with provider.create_session_client("large", "s") as session:
        message = take(session)
        assert message.body == b"1" * 3_000_000
        session.complete_message(message)


def _connection_to(nginx: Nginx) -> socket.socket:
    return socket.create_connection(("127.0.0.1", nginx.port), timeout=20)


def test_the_gateway_notices_a_receive_that_the_client_gave_up(scene: Scene, here: Here) -> None:
    provider = scene.provider()
    headers = {**scene.header(f"/{QUEUE}"), "Azsession-Lock-Id": "one", "Azsession-Route": "one"}
    url = f"{scene.nginx.url}/{QUEUE}/sessions/s/messages/head"
    with _connection_to(scene.nginx) as sock:
        lines = [f"{name}: {value}" for name, value in {"Host": "127.0.0.1", **headers}.items()]
        path = url.removeprefix(scene.nginx.url)
        sock.sendall("\r\n".join([f"DELETE {path}?timeout=100 HTTP/1.1", *lines, "", ""]).encode())
        eventually(lambda: "one" in set.union(*here.callers("receive")))
    eventually(lambda: "one" in set.union(*here.callers("received")))
    # No receive waits for the next message.
    provider.send_message(QUEUE, Message("x", session_id="s"))
    got = requests.delete(f"{url}?timeout=10", headers=headers, timeout=20)
    assert (got.status_code, got.content) == (201, b"x")


# Gateways in processes of their own

COMPLETE = """
import sys
from azsession import ServiceBusProvider
with ServiceBusProvider.from_env() as provider:
    for receipt in sys.argv[1:]:
        with provider.session_from_receipt(receipt) as session:
            session.complete_message(receipt)
"""


class Workers:
    """Threads that consume webhooks session by session, and record the received messages."""

    def __init__(self, connection_string: str) -> None:
        self._connection_string = connection_string
        self._lock = threading.Lock()  # Guards the lists.
        self.received: list[tuple[str, int]] = []
        self.lost: list[str] = []
        self.ended = threading.Event()

    def work(self) -> None:
        with ServiceBusProvider.from_connection_string(self._connection_string) as provider:
            while not self.ended.is_set():
                self._take_one(provider)

    def _take_one(self, provider: ServiceBusProvider) -> None:
        try:
            self._take_all_of_one(provider)
        except NoSessionAvailableError:
            pass
        except (SessionNotFoundError, SessionLockedError, InvalidReceiptError) as error:
            with self._lock:
                self.lost.append(str(error))
        except QueueError as error:
            if not error.is_transient:
                raise
            self.ended.wait(0.05)

    def _take_all_of_one(self, provider: ServiceBusProvider) -> None:
        with provider.create_session_client(QUEUE, accept_timeout=0.5) as session:
            for message in session.messages(timeout=0, prefetch=PREFETCH):
                event = message.json()
                with self._lock:
                    self.received.append((event["session_id"], event["position"]))
                session.complete_message(message)


@pytest.mark.parametrize("killed", [False, True], ids=["both-stay", "one-is-killed"])
def test_webhooks_arrive_in_order_and_none_is_lost_when_a_gateway_dies(
    scene: Scene, webhooks: list[dict[str, Any]], killed: bool
) -> None:
    environ = {"AZSESSION_AZURE_CONNECTION_STRING": scene.namespace.connection_string}
    key = f"{KEY.name}:{KEY.key}:Manage"
    with Served("--json", "--key", key, env=environ) as first, Served("--json", "--key", key, env=environ) as second:
        scene.serve(*(json.loads(served.line)["url"].removeprefix("http://") for served in (first, second)))
        provider = scene.provider()
        provider.send_messages(QUEUE, [Message(json.dumps(event), session_id=event["session_id"]) for event in webhooks])
        workers = Workers(scene.connection_string)
        with ThreadPoolExecutor(WORKERS) as pool:
            working = [pool.submit(workers.work) for _ in range(WORKERS)]
            try:
                eventually(lambda: len(workers.received) >= 80, seconds=60)
                if killed:
                    first.process.kill()
                    first.wait()
                counts = scene.namespace.counts
                eventually(lambda: counts(QUEUE).active == 0, lambda: f"{counts(QUEUE)} {working}", seconds=60)
            finally:
                workers.ended.set()
            for each in working:
                each.result(PATIENCE)
        # During this time, sends, peeks and new sessions work.
        provider.send_message(QUEUE, Message("more", session_id="more"))
        assert [found.session_id for found in provider.list_sessions(QUEUE)] == ["more"]

    done = scene.namespace.completed(QUEUE)
    assert len(done) == len(webhooks) == len({entry[1] for entry in done})
    assert scene.namespace.counts(QUEUE).dead_letter == 0
    expected, received, completed = defaultdict(list), defaultdict(list), defaultdict(list)
    for event in webhooks:
        expected[event["session_id"]].append(event["position"])
    for session_id, position in dict.fromkeys(workers.received):
        received[session_id].append(position)
    for name, number, _ in done:
        completed[name].append(number)
    assert received == expected
    assert all(numbers == sorted(numbers) for numbers in completed.values())
    again = len(workers.received) - len(set(workers.received))
    if killed:
        assert again <= WORKERS * PREFETCH
    else:
        assert (again, workers.lost) == (0, [])


def test_another_process_completes_what_this_one_received(scene: Scene) -> None:
    environ = {"AZSESSION_AZURE_CONNECTION_STRING": scene.namespace.connection_string}
    key = f"{KEY.name}:{KEY.key}:Manage"
    with Served("--json", "--key", key, env=environ) as first, Served("--json", "--key", key, env=environ) as second:
        scene.serve(*(json.loads(served.line)["url"].removeprefix("http://") for served in (first, second)))
        provider = scene.provider()
        provider.send_messages(QUEUE, [Message("x", session_id=str(number)) for number in range(6)])
        sessions = [provider.create_session_client(QUEUE, accept_timeout=10) for _ in range(6)]
        receipts = [str(take(session).receipt) for session in sessions]
        command = [sys.executable, "-c", COMPLETE, *receipts]
        ended = subprocess.run(
            command,
            env=environment(scene.connection_string),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert len(scene.namespace.completed(QUEUE)) == 6
        # The settlement reached the gateways of the holders.
        for session in sessions:
            assert session.receive_message(timeout=0) is None
            session.close_session()
