"""The sockets under requests: each kind of connection can be shut down from another thread."""

from __future__ import annotations

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
from azsession.server import AccessKey, GatewayService

from ..concurrency.servers import Proxy, SilentServer
from ..conftest import eventually
from ..support.internals import pending_calls


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
