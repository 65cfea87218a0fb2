"""Accepts that wait, and clients of a gateway that go away."""

from __future__ import annotations

import http.client
import time
import uuid
from typing import Any

import pytest

from azsession import (
    Message,
    NoSessionAvailableError,
    ProviderError,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionLockedError,
    SessionProcessor,
    amqp,
)
from azsession.broker.azure import AzureBroker
from azsession.protocol.sas import generate_sas_token
from azsession.server import AccessKey, GatewayService

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import stand_in_only
from ...server.raw import Gateway
from ...standin.require import require_standin
from .conftest import holder_behind
from .holders import QUEUE, Holder, broker_on, in_thread, send, texts, waiting_accepts, waits_in
from .transport.raw_peer import Talk, raw_peer


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_an_accept_that_finds_no_session_ends_at_its_timeout(namespace: Namespace, timeout: float) -> None:
    with broker_on(namespace) as broker:
        send(broker, "x", session_id="taken")
        taken = Holder(broker)
        taken.accept_next()
        began = time.monotonic()
        assert Holder(broker).accept_next(timeout=timeout) is None
        # Far less than the minute that Azure waits without a timeout.
        assert timeout <= time.monotonic() - began < 10
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 0)
        assert namespace.locked_sessions(QUEUE) == {"taken"}


def test_an_accept_with_timeout_zero_takes_a_session_that_is_available(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        send(broker, "x", session_id="there")
        assert Holder(broker).accept_next(timeout=0) == "there"


@pytest.fixture
def long_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the namespace have session ids that are longer than Azure's."""
    require_standin()
    monkeypatch.setattr("tests.standin.admission._SESSION_ID_MAX", 200)


def put_by_another_sender(namespace: Namespace, *session_ids: str) -> None:
    """Add a message of another program to each of these sessions."""
    messages = [
        amqp.AmqpMessage(message_id=f"m{number}", group_id=session_id, data=b"x")
        for number, session_id in enumerate(session_ids)
    ]
    namespace.put(QUEUE, [amqp.encode_message(each) for each in messages])


@pytest.mark.parametrize("behind", ["in process", "gateway"])
def test_sessions_with_odd_ids_from_another_sender_do_not_delay_a_healthy_one(
    namespace: Namespace, gateway: Gateway, behind: str
) -> None:
    # The stand-in cannot keep an id with NUL: its library ends a text there.
    odd = ["", ".", "..", *(chr(code) for code in range(1, 18))]
    put_by_another_sender(namespace, *odd, "healthy")
    seen: set[str] = set()
    text = namespace.connection_string if behind == "in process" else gateway.service.connection_string()
    with ServiceBusProvider.from_connection_string(text) as provider:
        handler = lambda message, session: seen.add(session.session_id)  # noqa: E731
        with SessionProcessor(provider, QUEUE, handler, max_concurrent_sessions=2):
            eventually(lambda: seen == {*odd, "healthy"})
    assert namespace.locked_sessions(QUEUE) == set()


@stand_in_only("session ids that are too long")
@pytest.mark.usefixtures("long_ids")
def test_sessions_that_cannot_be_served_do_not_delay_a_healthy_one(
    namespace: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    # So many that pauses between them would take half a minute.
    unusable = [f"{number}".ljust(129, "x") for number in range(60)]
    put_by_another_sender(namespace, *unusable, "healthy")
    seen: list[str] = []
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider:
        handler = lambda message, session: seen.append(session.session_id)  # noqa: E731
        with SessionProcessor(provider, QUEUE, handler, max_concurrent_sessions=2):
            eventually(lambda: seen == ["healthy"])
        eventually(lambda: namespace.locked_sessions(QUEUE) == set())
    assert all(any(repr(name) in record.getMessage() for record in caplog.records) for name in unusable)


@stand_in_only("session ids that are too long")
@pytest.mark.usefixtures("long_ids")
@pytest.mark.parametrize("timeout", [0.0, 0.5])
def test_a_session_that_cannot_be_served_is_released_and_named_in_the_error(
    namespace: Namespace, gateway: Gateway, timeout: float
) -> None:
    put_by_another_sender(namespace, "x" * 129)
    for text in (namespace.connection_string, gateway.service.connection_string()):
        with ServiceBusProvider.from_connection_string(text) as provider:
            with pytest.raises(ProviderError, match=f"session '{'x' * 129}' cannot be used") as caught:
                provider.create_session_client(QUEUE, accept_timeout=timeout)
            assert caught.value.code == "SessionUnusable"
            eventually(lambda: namespace.locked_sessions(QUEUE) == set())


def test_the_attach_carries_the_timeout_in_milliseconds(namespace: Namespace) -> None:
    attaches: list[Any] = []

    def script(talk: Talk) -> None:
        talk.open()
        talk.begin()
        talk.serve_token()
        attaches.append(talk.frame(amqp.ATTACH).properties)
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        broker = AzureBroker(ServiceBusConfig(connection_string=peer.connection_string))
        accepting = in_thread(lambda: Holder(broker).accept_next(timeout=7.5))
        try:
            eventually(lambda: attaches)
        finally:
            broker.close()
        accepting.exception(10)
    assert 6000 < attaches[0]["com.microsoft:timeout"] <= 7500


@pytest.mark.parametrize("how", ["stop_waiting", "close"])
def test_an_accept_ends_when_the_broker_stops(namespace: Namespace, how: str) -> None:
    with broker_on(namespace) as broker:
        accepting = in_thread(lambda: Holder(broker).accept_next(timeout=60))
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 1)
        getattr(broker, how)()
        assert accepting.result(10) is None
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 0)
    with broker_on(namespace) as other:
        send(other, "x")
        assert not namespace.locked_sessions(QUEUE)


def test_an_accept_of_a_client_that_went_away_locks_no_session(namespace: Namespace) -> None:
    key = AccessKey.generate()
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string))
    with GatewayService(broker, [key]) as service:
        host = service.url.removeprefix("http://")
        token = generate_sas_token(f"{service.url}/{QUEUE}", key.name, key.key, int(time.time()) + 60)
        link = http.client.HTTPConnection(host)
        headers = {"Authorization": token, "Azsession-Lock-Id": str(uuid.uuid4())}
        link.request("POST", f"/{QUEUE}/sessions?timeout=60", b"{}", headers)
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 1)
        link.close()
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 0)
        with ServiceBusProvider.from_connection_string(service.connection_string()) as provider:
            provider.send_message(QUEUE, Message("x", session_id="s1"))
            assert not namespace.locked_sessions(QUEUE)
            with provider.create_session_client(QUEUE, accept_timeout=10) as client:
                assert client.session_id == "s1"


def test_closing_a_provider_ends_its_accepts(namespace: Namespace) -> None:
    provider = ServiceBusProvider.from_connection_string(namespace.connection_string)
    accepting = in_thread(lambda: provider.create_session_client(QUEUE, accept_timeout=60))
    eventually(lambda: namespace.waiting_accepts(QUEUE) == 1)
    provider.close()
    assert accepting.exception(10) is not None
    eventually(lambda: not namespace.connections())
    assert not namespace.locked_sessions(QUEUE)


def test_a_provider_raises_an_error_if_no_session_came(namespace: Namespace) -> None:
    with (
        ServiceBusProvider.from_connection_string(namespace.connection_string) as provider,
        pytest.raises(NoSessionAvailableError),
    ):
        provider.create_session_client(QUEUE, accept_timeout=0.2)


def test_a_repeated_accept_returns_the_same_session(namespace: Namespace, broker: AzureBroker) -> None:
    send(broker, "a", session_id="s1")
    send(broker, "b", session_id="s2")
    holder = Holder(broker)
    first = holder.accept_next(request_id="r1")
    assert holder.accept_next(request_id="r1") == first
    assert namespace.locked_sessions(QUEUE) == {first}
    holder.release()
    assert Holder(broker).accept_next(request_id="r1") in ("s1", "s2")


def test_a_repeated_accept_replaces_the_first_attempt(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    first = in_thread(lambda: holder.accept_next(request_id="r1"))
    eventually(lambda: waiting_accepts(broker))
    second = in_thread(lambda: holder.accept_next(request_id="r1"))
    assert first.result(10) is None
    send(broker, "a")
    assert second.result(10) == "s1"
    send(broker, "b", session_id="s2")
    assert namespace.locked_sessions(QUEUE) == {"s1"}


def test_an_accept_goes_on_waiting_after_its_link_was_lost(namespace: Namespace, broker: AzureBroker) -> None:
    holder = Holder(broker)
    accepting = in_thread(holder.accept_next)
    for number in range(6):
        eventually(lambda: namespace.waiting_accepts(QUEUE))
        if number % 2:
            namespace.drop_connections()
        else:
            namespace.detach_links(QUEUE)
    with broker_on(namespace) as sender:
        send(sender, "a")
    assert accepting.result(10) == "s1"
    assert texts(holder.take()) == ["a"]


def test_a_client_that_closes_its_socket_gets_no_message(namespace: Namespace, gateway: Gateway) -> None:
    holder = gateway.holder(QUEUE, "s1", str(uuid.uuid4()))
    behind = holder_behind(gateway)
    sock = holder.start_receive(30, {"Azsession-Request-Id": str(uuid.uuid4())})
    eventually(lambda: waits_in(behind) and namespace.locked_sessions(QUEUE))
    sock.close()
    eventually(lambda: not waits_in(behind))
    gateway.send(QUEUE, "s1", "a")
    assert namespace.counts(QUEUE).locked == 0
    reply = holder.receive("timeout=5")
    assert (reply.body, reply.properties["DeliveryCount"]) == (b"a", 1)


def test_a_client_that_closes_its_socket_during_an_accept_gets_no_session(namespace: Namespace, gateway: Gateway) -> None:
    headers = {"Azsession-Lock-Id": str(uuid.uuid4()), "Content-Type": "application/json", "Content-Length": "2"}
    sock = gateway.open_socket(gateway.head("POST", f"/{QUEUE}/sessions?timeout=30", headers) + b"{}")
    registry = holder_behind(gateway).broker._registry
    eventually(lambda: len(registry._pending) and namespace.links() > 2)
    before = namespace.links()
    sock.close()
    eventually(lambda: not registry._pending and namespace.links() < before)
    gateway.send(QUEUE, "s1", "a")
    assert namespace.locked_sessions(QUEUE) == set()
    assert gateway.holder(QUEUE, "s1", str(uuid.uuid4())).receive("timeout=5").body == b"a"


@stand_in_only("attaches that wait for held sessions")
@pytest.mark.parametrize("timeout", [0.0, 2.0])
def test_a_session_that_is_held_elsewhere_is_reported_within_the_callers_time(namespace: Namespace, timeout: float) -> None:
    namespace.create_queue("slow", waits_for_held_sessions=True)
    with (
        ServiceBusProvider.from_connection_string(namespace.connection_string) as holding,
        ServiceBusProvider.from_connection_string(namespace.connection_string) as provider,
        holding.create_session_client("slow", "s1") as held,
        provider.create_session_client("slow", "s1") as session,
    ):
        held.receive_message(timeout=0)
        started = time.monotonic()
        with pytest.raises(SessionLockedError):
            session.receive_message(timeout=timeout)
        # Without a limit of its own, an attach waits for a minute.
        assert time.monotonic() - started < timeout + 10


@stand_in_only("attaches that wait for held sessions")
def test_a_receive_gets_a_session_that_another_process_releases_meanwhile(namespace: Namespace) -> None:
    namespace.create_queue("slow", waits_for_held_sessions=True)
    with (
        ServiceBusProvider.from_connection_string(namespace.connection_string) as holding,
        ServiceBusProvider.from_connection_string(namespace.connection_string) as provider,
        holding.create_session_client("slow", "s1") as held,
        provider.create_session_client("slow", "s1") as session,
    ):
        provider.send_message("slow", Message("x", session_id="s1"))
        held.receive_message(timeout=0)
        waiting = in_thread(lambda: session.receive_message(timeout=20))
        eventually(lambda: namespace.connections() == 2)
        held.close()
        message = waiting.result(20)
        assert message is not None
        assert message.text() == "x"


def test_accepts_wait_at_the_same_time_by_one_connection_and_lock_no_session_that_nobody_wants(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holders = [Holder(broker) for _ in range(4)]
    accepting = [holder.start_accept(30.0) for holder in holders]
    eventually(lambda: namespace.waiting_accepts(QUEUE) == 4)
    assert namespace.connections() == 1
    with broker_on(namespace) as sender:
        for name in ("a", "b"):
            send(sender, "x", session_id=name)
        eventually(lambda: sum(future.done() for future in accepting) == 2)
        for future in accepting:
            future.cancel()
        eventually(lambda: namespace.waiting_accepts(QUEUE) == 0)
        send(sender, "y", session_id="c")
        assert namespace.locked_sessions(QUEUE) == {"a", "b"}
        assert sorted(future.result().session_id for future in accepting if not future.cancelled()) == ["a", "b"]
        other = Holder(sender)
        assert other.accept_next() == "c"
        assert [message.delivery_count for message in other.take()] == [1]
