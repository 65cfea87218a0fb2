"""Faults of the network: an unknown name, no listener, no answer, a failed TLS handshake, resets."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme

from azsession import ConnectionFailedError, Message, ServiceBusProvider, SessionClient, SessionNotFoundError

from ..concurrency.servers import KEY, Acceptor, SilentServer
from ..conftest import eventually
from ..server.raw import in_thread
from ..support.plain_server import PlainServer
from .operations import ALL, Prepare
from .servers import FaultyProxy, ScriptedAnswer

NAME = "gateway.localhost"
#: Seconds in which every call of these tests must end. Without timeouts in the client, none would end.
BOUND = 60.0


def connect(url: str, **fields: Any) -> ServiceBusProvider:
    settings = {"request_timeout": 10, "retry_attempts": 2, "retry_deadline": 60, **fields}
    return ServiceBusProvider.from_connection_string(f"Endpoint={url}/;{KEY}", **settings)


def fails(call: Callable[[], object]) -> ConnectionFailedError:
    """Return the error of a call that ends in time."""
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError) as caught:
        call()
    assert time.monotonic() - began < BOUND
    assert caught.value.is_transient
    return caught.value


class Resolver:
    """Resolves `NAME` to loopback, after `failures` failures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures: list[Exception] = []
        self.requests = 0
        self.gate = threading.Event()
        self.gate.set()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != NAME:
            return self._real(host, *args, **kwargs)
        self.requests += 1
        assert self.gate.wait(BOUND)
        if self.failures:
            raise self.failures.pop(0)
        return self._real("127.0.0.1", *args, **kwargs)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@pytest.fixture
def named(resolver: Resolver) -> Iterator[SessionClient]:
    """A session with one message on a plain server that is reached by a name."""
    with PlainServer() as server:
        server.put("orders", "s1", b"paid")
        url = server.url.replace("127.0.0.1", NAME)
        with (
            connect(url) as provider,
            provider.create_session_client("orders", "s1", auto_renew=False) as session,
        ):
            yield session


NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_RESOLVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize("failure", [NO_NAME, NO_RESOLVER, OSError("the resolver is broken"), UnicodeError("label too long")])
def test_an_unknown_host_name_is_a_connection_failure_and_is_looked_up_again(
    failure: Exception, resolver: Resolver, named: SessionClient
) -> None:
    resolver.failures = [failure] * 3
    error = fails(lambda: named.receive_message(timeout=60))
    assert not error.maybe_delivered
    assert resolver.requests == 3
    assert not named.is_lock_lost


def test_a_request_that_is_not_idempotent_is_retried_if_only_the_name_lookup_failed(
    resolver: Resolver, named: SessionClient
) -> None:
    resolver.failures = [NO_RESOLVER, NO_NAME]
    message = named.receive_message(timeout=60)
    assert message is not None
    assert message.body == b"paid"


def test_closing_during_a_slow_name_lookup_ends_the_call_after_the_lookup(resolver: Resolver, named: SessionClient) -> None:
    resolver.gate.clear()
    receiving = in_thread(lambda: named.receive_message(timeout=20))
    while not resolver.requests:
        time.sleep(0.005)
    closing = in_thread(named.close)
    while not named.closed:
        time.sleep(0.005)
    resolver.gate.set()
    with pytest.raises(SessionNotFoundError):
        receiving()
    closing()


def test_a_refused_connection_is_certainly_not_delivered() -> None:
    with ExitStack() as stack:
        unused = stack.enter_context(socket.socket())
        unused.bind(("127.0.0.1", 0))  # It does not listen, and no other process gets the port.
        provider = stack.enter_context(connect(f"http://127.0.0.1:{unused.getsockname()[1]}"))
        session = stack.enter_context(provider.create_session_client("orders", "s1"))
        for call in (
            lambda: session.receive_message(timeout=5),
            session.renew_session_lock,
            lambda: provider.send_message("orders", Message("x", session_id="s1")),
            lambda: provider.create_session_client("orders", accept_timeout=5),
        ):
            assert not fails(call).maybe_delivered


@pytest.mark.parametrize(("name", "requests"), [("receive", 1), ("renew", 3)])
def test_a_call_to_a_server_that_never_answers_ends(name: str, requests: int) -> None:
    with (
        SilentServer() as server,
        connect(server.url, request_timeout=0.5) as provider,
        provider.create_session_client("orders", "s1", auto_renew=False) as session,
    ):
        error = fails(session.renew_session_lock if name == "renew" else lambda: session.receive_message(timeout=0))
        assert error.maybe_delivered
        assert "timed out" in str(error)
        for _ in range(requests):
            assert server.asked.acquire(timeout=30)
        # A plain receive is not retried, because it may have taken a message.
        assert not server.asked.acquire(blocking=False)


def test_a_request_to_a_server_that_does_not_accept_is_not_delivered() -> None:
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(20):
            one = stack.enter_context(socket.socket())
            one.settimeout(0.2)
            try:
                one.connect(full.getsockname())
            except TimeoutError:
                break
        else:
            pytest.skip("this system accepts connections beyond a listener's backlog")
        provider = stack.enter_context(
            connect(f"http://127.0.0.1:{full.getsockname()[1]}", request_timeout=0.5, retry_attempts=1)
        )
        session = stack.enter_context(provider.create_session_client("orders", "s1"))
        error = fails(lambda: session.receive_message(timeout=0))
        assert not error.maybe_delivered
        assert "timed out" in str(error)


class TLSServer(Acceptor):
    """Misbehaves in the TLS handshake of each connection."""

    def __init__(self, talk: Callable[[socket.socket], object]) -> None:
        super().__init__()
        self._talk = talk
        self.talks = 0

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")

    def serve(self, sock: socket.socket) -> None:
        self.talks += 1
        self._talk(sock)


def untrusted(sock: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with context.wrap_socket(sock, server_side=True) as wrapped:
        wrapped.recv(1000)


def unwilling(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")


TALKS: dict[str, Callable[[socket.socket], object]] = {
    "a certificate that nobody vouches for": untrusted,
    "an alert": unwilling,
    "HTTP without TLS": lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "an early end": lambda sock: sock.recv(65536),
    "silence": lambda sock: [sock.recv(65536) for _ in range(2)],
}


@pytest.mark.parametrize("case", TALKS)
def test_a_failed_tls_handshake_is_not_delivered_and_is_retried(case: str) -> None:
    with (
        TLSServer(TALKS[case]) as server,
        connect(server.url, request_timeout=0.5 if case == "silence" else 10) as provider,
        provider.create_session_client("orders", "s1") as session,
    ):
        error = fails(session.renew_session_lock)
        assert not error.maybe_delivered
        eventually(lambda: server.talks == 3)
        if case == "a certificate that nobody vouches for":
            assert "certificate verify failed" in str(error)


def reset(sock: socket.socket) -> None:
    """Close a connection with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class ResettingServer(Acceptor):
    """Resets each connection after so many bytes of a request."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after
        self.talks = 0

    def serve(self, sock: socket.socket) -> None:
        self.talks += 1
        sock.recv(self._after)
        reset(sock)


@pytest.mark.parametrize("after", [1, 65536])
def test_a_reset_during_a_plain_receive_may_have_delivered_a_message(after: int) -> None:
    with (
        ResettingServer(after) as server,
        connect(server.url) as provider,
        provider.create_session_client("orders", "s1", auto_renew=False) as session,
    ):
        assert fails(lambda: session.receive_message(timeout=5)).maybe_delivered
        assert server.talks == 1
        # A repeated renewal does no harm.
        assert fails(session.renew_session_lock).maybe_delivered
        assert server.talks == 4


@pytest.mark.parametrize("name", ["receive", "send", "complete", "accept", "renew", "dead-letter the session"])
def test_a_reset_after_the_gateway_acted_is_retried(name: str, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare(retry_attempts=2)
    operation = ALL[name](context)
    proxy.script(
        ScriptedAnswer(lambda original: [], forwards=True), ScriptedAnswer(lambda original: [original[:10]], forwards=True)
    )
    operation()
