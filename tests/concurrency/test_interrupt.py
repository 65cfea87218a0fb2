"""Cancelling the request of another thread, over each kind of connection. The connection's next request is not disturbed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from azsession import Message, ServiceBusConfig, ServiceBusProvider, SessionNotFoundError
from azsession.broker.embedded import EmbeddedBroker
from azsession.client.cancellation import RequestInFlight
from azsession.client.http_sockets import send_prepared, track_connections
from azsession.server import AccessKey, GatewayService

from ..conftest import eventually
from ..support.internals import pending_calls
from .servers import Handler, Proxy, QuietHTTPServer, SilentServer


class _OK(Handler):
    def answer(self) -> None:
        self.give(200, {}, b"x" * 200)


def test_cancelling_a_request_does_not_disturb_the_next_one_on_its_connection() -> None:
    harmed: list[BaseException] = []
    all_in_flight: list[RequestInFlight] = []
    done = threading.Event()
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=2))
        track_connections(http, url, {})

        def ask() -> None:
            for _ in range(300):
                in_flight = RequestInFlight()
                all_in_flight.append(in_flight)
                request = http.prepare_request(requests.Request("GET", url))
                try:
                    assert send_prepared(http, request, in_flight, timeout=20).content == b"x" * 200
                except BaseException as error:
                    if not in_flight.cancelled:
                        harmed.append(error)

        def cancel() -> None:
            chance = random.Random(1)
            while not done.is_set():
                # Running requests, and requests that have just ended.
                for in_flight in all_in_flight[-6:]:
                    if chance.random() < 0.3:
                        in_flight.cancel()
                done.wait(0.0005)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        done.set()
        canceller.join()
    assert harmed == []
    assert any(in_flight.cancelled and in_flight.written for in_flight in all_in_flight)
    assert any(not in_flight.cancelled for in_flight in all_in_flight)


def test_cancelling_a_finished_request_does_not_close_its_connection() -> None:
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        track_connections(http, url, {})
        finished, request = RequestInFlight(), http.prepare_request(requests.Request("GET", url))
        send_prepared(http, request, finished, timeout=20)
        finished.cancel()
        assert send_prepared(http, request, RequestInFlight(), timeout=20).status_code == 200
        assert len(server.open) == 1


class _Gateway:
    """A gateway with or without TLS and proxy, and a provider that reaches it."""

    def __init__(self, stack: ExitStack, folder: Path, *, tls: bool, proxy: bool, own: bool) -> None:
        files: dict[str, Any] = {}
        bundle = None
        if tls:
            authority = trustme.CA()
            issued = authority.issue_cert("127.0.0.1")
            issued.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
            issued.private_key_pem.write_to_path(str(folder / "key.pem"))
            authority.cert_pem.write_to_path(str(folder / "ca.pem"))
            files = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
            bundle = str(folder / "ca.pem")
        service = stack.enter_context(
            GatewayService(EmbeddedBroker(auto_create=True), [AccessKey.generate()], max_waiting=16, **files)
        )
        config = ServiceBusConfig(connection_string=service.connection_string(), ca_bundle=bundle)
        session = stack.enter_context(requests.Session()) if proxy or own else None
        self.proxy = stack.enter_context(Proxy()) if proxy else None
        if session is not None and self.proxy is not None:
            session.proxies = {"http": self.proxy.url, "https": self.proxy.url}
        self.provider = stack.enter_context(ServiceBusProvider(config, http=session))


_WAYS = {
    "plain": {"tls": False, "proxy": False, "own": False},
    "tls": {"tls": True, "proxy": False, "own": False},
    "own session": {"tls": False, "proxy": False, "own": True},
    "own session and tls": {"tls": True, "proxy": False, "own": True},
    "forward proxy": {"tls": False, "proxy": True, "own": True},
    "tunnel": {"tls": True, "proxy": True, "own": True},
}


@pytest.fixture(params=list(_WAYS))
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Gateway]:
    with ExitStack() as stack:
        yield _Gateway(stack, tmp_path, **_WAYS[request.param])


def _in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def _waits(client: Any) -> bool:
    return any(call.in_flight is not None and call.in_flight.written for call in pending_calls(client))


def test_closing_ends_a_waiting_receive_over_each_kind_of_connection(gateway: _Gateway) -> None:
    provider = gateway.provider
    provider.send_message("q", Message(b"1", session_id="s"))
    client = provider.create_session_client("q", "s")
    message = client.receive_message(timeout=10)
    assert message is not None
    client.complete_message(message)
    thread, errors = _in_thread(lambda: client.receive_message(timeout=300))
    eventually(lambda: _waits(client))
    client.close_session()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [SessionNotFoundError]
    # Other sessions work on.
    provider.send_message("q", Message(b"2", session_id="s"))
    with provider.create_session_client("q", "s") as other:
        found = other.receive_message(timeout=10)
        assert found is not None
        assert found.body == b"2"
    if gateway.proxy is not None:
        assert gateway.proxy.used


def test_closing_ends_a_wait_for_a_tls_handshake() -> None:
    with SilentServer() as server:
        config = ServiceBusConfig(connection_string=server.connection_string.replace("http:", "https:"))
        with ServiceBusProvider(config) as provider:
            client = provider.create_session_client("q", "s")
            thread, errors = _in_thread(lambda: client.receive_message(timeout=300))
            assert server.asked.acquire(timeout=20)
            client.close_session()
            thread.join(8)
            assert not thread.is_alive(), "the handshake was waited for until it timed out"
    assert [type(error) for error in errors] == [SessionNotFoundError]


def test_a_cancelled_request_is_not_sent() -> None:
    with QuietHTTPServer(_OK) as server, requests.Session() as http:
        url = f"{server.url}/"
        track_connections(http, url, {})
        in_flight = RequestInFlight()
        in_flight.cancel()
        with pytest.raises(requests.ConnectionError):
            send_prepared(http, http.prepare_request(requests.Request("GET", url)), in_flight, timeout=20)
        assert in_flight.tracked is False
        assert in_flight.written is False
