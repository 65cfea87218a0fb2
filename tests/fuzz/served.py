"""Parsers of the gateway: paths, queries, tokens, keys, and whole requests. Each function is one of `targets`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from azsession.broker.calls import BLOCKING, CallContext
from azsession.broker.embedded import EmbeddedBroker
from azsession.protocol.routes import Operation, Route, message_path, must_be_escaped, parse_route, session_path
from azsession.server.authorization import AccessKey, Guard
from azsession.server.dispatch import Gateway, parse_query
from azsession.server.request import Headers, Request

METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS")
#: The key of the valid tokens among the seeds.
KEY = AccessKey("root", "bWFuYWdl+/=")
HOST = "gateway:8080"


def method_of(data: bytes) -> tuple[str, bytes]:
    """Return the method that the first byte chooses, and the other bytes."""
    return METHODS[data[0] % len(METHODS) if data else 0], data[1:]


def path(data: bytes) -> None:
    """Parse an encoded path. The path of a session survives conversion to text and back."""
    method, rest = method_of(data)
    route = parse_route(method, rest.decode("latin-1"), encoded=True)
    if route.session_id:
        escaped = must_be_escaped(route.session_id)
        written = session_path(route.entity, route.session_id, escaped=escaped)
        if route.lock_token:
            written += message_path(route.lock_token)
            again = parse_route("PUT", written, encoded=True)
            assert (again.entity, again.session_id, again.lock_token) == (route.entity, route.session_id, route.lock_token)
        again_at = session_path(route.entity, route.session_id, escaped=escaped)
        again = parse_route("GET", again_at + "/state", encoded=True)
        assert (again.entity, again.session_id) == (route.entity, route.session_id)
        assert route.resource[-2:] == ("sessions", route.session_id)


def decoded_path(data: bytes) -> None:
    """Parse a path that an HTTP server has decoded."""
    method, rest = method_of(data)
    parse_route(method, rest.decode("utf-8", "replace"), encoded=False)


def query(data: bytes) -> None:
    """Parse a query and its parameters."""
    found = parse_query(data.decode("latin-1"))
    request = Request(Route(Operation.RECEIVE), found, Headers(), b"", BLOCKING)
    assert 0 <= request.timeout <= 86400
    assert 1 <= request.number("max", 1, 1000, lowest=1) <= 1000
    assert 0 <= request.number("from", 0, 2**63 - 1) < 2**63


def token(data: bytes) -> None:
    """Check an authorization."""
    header, _, host = data.decode("latin-1").partition("\n")
    Guard([KEY], ["other"]).check(header, host or HOST, ("orders", "sessions", "a/b"), Operation.RECEIVE)


def access_key(data: bytes) -> None:
    """Parse a key. It survives conversion to text and back."""
    key = AccessKey.parse(data.decode("utf-8", "surrogateescape"))
    rights = ",".join(right.value for right in key.rights)
    assert AccessKey.parse(f"{key.name}:{key.key}:{rights}") == key


_gateways: list[Gateway] = []


@contextmanager
def serving() -> Iterator[None]:
    """Run a gateway for `request`."""
    broker = EmbeddedBroker()
    gateway = Gateway(broker, max_body_size=1024 * 1024, max_message_size=64 * 1024)
    gateway.handle("PUT", "/q", Headers(), b"", BLOCKING)
    # The gateway starts its threads with the first waiting receive.
    gateway.handle("DELETE", "/q/sessions/first/messages/head?timeout=0.01", Headers(), b"", BLOCKING)
    _gateways.append(gateway)
    try:
        yield
    finally:
        _gateways.remove(gateway)
        broker.close()


def request(data: bytes) -> None:
    """Handle a whole request without authorization: a target, lines of headers, an empty line, a body.

    No request may get a status of 500 or above, which would mean that the gateway failed.
    """
    method, rest = method_of(data)
    head, _, body = rest.partition(b"\n\n")
    target, *lines = head.split(b"\n")
    headers = [("Content-Type", "application/vnd.microsoft.servicebus.json")]
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        headers.append((name.strip(), value.strip()))
    context = CallContext(deadline=time.monotonic())
    answer = _gateways[-1].handle(method, target.decode("latin-1"), Headers(headers), body, context).encoded()
    assert answer.status < 500, answer
    for name, value in answer.headers.items():
        assert name, "a header has a name"
        assert f"{name}{value}".isascii(), "headers are ASCII"
        assert f"{name}{value}".isprintable(), "a header is one line"
