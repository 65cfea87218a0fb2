"""Accepts that wait: for as long as they said, and for nobody who has gone."""

from __future__ import annotations

import http.client
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from azsession import Message, NoSessionAvailableError, ServiceBusConfig, ServiceBusProvider, amqp
from azsession.broker.azure import AzureBroker
from azsession.server import AccessKey, GatewayService
from azsession.tokens import generate_sas_token

from ....conftest import eventually
from ....standin.require import require_standin
from ..holders import QUEUE, Holder, broker_on, in_thread, send
from ..transport.raw_peer import Talk, raw_peer

if TYPE_CHECKING:
    from tests.standin import StandIn


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE)
        yield namespace


def waiting_links(namespace: StandIn) -> int:
    """Return how many accepts wait at the namespace."""
    queue = namespace._queue(QUEUE)
    found: int = namespace.loop.call(lambda: len(queue.waiting))
    return found


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_an_accept_that_finds_nothing_ends_within_its_time(namespace: StandIn, timeout: float) -> None:
    with broker_on(namespace) as broker:
        send(broker, "x", session_id="taken")
        taken = Holder(broker)
        taken.accept_next()
        began = time.monotonic()
        assert Holder(broker).accept_next(timeout=timeout) is None
        # Far less than the minute that Azure would wait of itself.
        assert timeout <= time.monotonic() - began < 10
        eventually(lambda: waiting_links(namespace) == 0)
        assert namespace.locked_sessions(QUEUE) == {"taken"}


def test_an_accept_without_time_takes_a_session_that_is_there(namespace: StandIn) -> None:
    with broker_on(namespace) as broker:
        send(broker, "x", session_id="there")
        assert Holder(broker).accept_next(timeout=0) == "there"


def test_the_namespace_is_told_the_time_in_milliseconds(namespace: StandIn) -> None:
    told: list[Any] = []

    def script(talk: Talk) -> None:
        talk.open()
        talk.begin()
        talk.serve_token()
        told.append(talk.frame(amqp.ATTACH).properties)
        while talk.read(1):
            pass

    with raw_peer(script) as peer:
        broker = AzureBroker(ServiceBusConfig(connection_string=peer.connection_string))
        accepting = in_thread(lambda: Holder(broker).accept_next(timeout=7.5))
        try:
            eventually(lambda: told)
        finally:
            broker.close()
        accepting.exception(10)
    assert 6000 < told[0]["com.microsoft:timeout"] <= 7500


@pytest.mark.parametrize("how", ["stop_waiting", "close"])
def test_an_accept_ends_when_the_broker_stops(namespace: StandIn, how: str) -> None:
    with broker_on(namespace) as broker:
        accepting = in_thread(lambda: Holder(broker).accept_next(timeout=60))
        eventually(lambda: waiting_links(namespace) == 1)
        getattr(broker, how)()
        assert accepting.result(10) is None
        eventually(lambda: waiting_links(namespace) == 0)
    with broker_on(namespace) as other:
        send(other, "x")
        assert not namespace.locked_sessions(QUEUE)


def test_an_accept_of_a_client_that_went_away_locks_nothing(namespace: StandIn) -> None:
    key = AccessKey.generate()
    broker = AzureBroker(ServiceBusConfig(connection_string=namespace.connection_string))
    with GatewayService(broker, [key]) as service:
        host = service.url.removeprefix("http://")
        token = generate_sas_token(f"{service.url}/{QUEUE}", key.name, key.key, int(time.time()) + 60)
        link = http.client.HTTPConnection(host)
        headers = {"Authorization": token, "Azsession-Lock-Id": str(uuid.uuid4())}
        link.request("POST", f"/{QUEUE}/sessions?timeout=60", b"{}", headers)
        eventually(lambda: waiting_links(namespace) == 1)
        link.close()
        eventually(lambda: waiting_links(namespace) == 0)
        with ServiceBusProvider.from_connection_string(service.connection_string()) as provider:
            provider.send_message(QUEUE, Message("x", session_id="s1"))
            assert not namespace.locked_sessions(QUEUE)
            with provider.create_session_client(QUEUE, accept_timeout=10) as client:
                assert client.session_id == "s1"


def test_a_provider_that_is_closed_ends_its_accepts(namespace: StandIn) -> None:
    provider = ServiceBusProvider.from_connection_string(namespace.connection_string)
    accepting = in_thread(lambda: provider.create_session_client(QUEUE, accept_timeout=60))
    eventually(lambda: waiting_links(namespace) == 1)
    provider.close()
    assert accepting.exception(10) is not None
    eventually(lambda: not namespace.connections())
    assert not namespace.locked_sessions(QUEUE)


def test_a_provider_tells_that_no_session_came(namespace: StandIn) -> None:
    with (
        ServiceBusProvider.from_connection_string(namespace.connection_string) as provider,
        pytest.raises(NoSessionAvailableError),
    ):
        provider.create_session_client(QUEUE, accept_timeout=0.2)
