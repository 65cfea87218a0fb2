"""For any path, the gateway acts only on the queue and session that the token was checked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from azsession.broker.calls import AcceptRequest, ReceiveRequest
from azsession.broker.embedded import EmbeddedBroker
from azsession.server import AccessKey, Right, create_app

from ..server.asgi import call
from ..server.raw import MANAGE, Gateway
from .tokens import signed

KEY = AccessKey("root", "c2VjcmV0", frozenset({Right.MANAGE}))
#: The methods of the broker. The first argument of each is a queue, and of most the second is a session.
OF_SESSIONS = (
    "receive",
    "settle",
    "receive_deferred",
    "dead_letter_session",
    "renew",
    "release",
    "get_state",
    "set_state",
    "peek",
)
OF_QUEUES = ("accept", "list_sessions", "send", "dead_letters", "resubmit", "delete_dead_letter", "get_queue", "delete_queue",
             "create_queue")  # fmt: skip


class RecordingBroker(EmbeddedBroker):
    """A broker that records the queue and the session of each call."""

    def __init__(self) -> None:
        super().__init__(auto_create=True)
        self.acted: list[tuple[str, ...]] = []


def _acted_on(args: tuple[Any, ...]) -> tuple[str, Any]:
    """Return the queue and the session from the arguments of a call. Calls without a session return another value for it."""
    first = args[0]
    if isinstance(first, ReceiveRequest | AcceptRequest):
        return first.entity, first.session_id
    return first, args[1] if len(args) > 1 else None


def _note(name: str, with_session: bool) -> None:
    real = getattr(EmbeddedBroker, name)

    def recording(self: RecordingBroker, *args: Any, **options: Any) -> Any:
        entity, session_id = _acted_on(args)
        self.acted.append((name, entity, session_id) if with_session else (name, entity))
        return real(self, *args, **options)

    setattr(RecordingBroker, name, recording)


for _name in OF_SESSIONS:
    _note(_name, True)
for _name in OF_QUEUES:
    _note(_name, False)


def _record_list_queues(self: RecordingBroker, **options: Any) -> Any:
    self.acted.append(("list_queues",))
    return EmbeddedBroker.list_queues(self, **options)


RecordingBroker.list_queues = _record_list_queues  # type: ignore[method-assign]


class Served:
    """The gateway over a recording broker, called as an HTTP server calls it."""

    def __init__(self) -> None:
        self.broker = RecordingBroker()
        self.app = create_app(self.broker, keys=[KEY])

    def ask(self, method: str, target: str, token: str, *, decoded: bool) -> tuple[int, list[tuple[str, ...]]]:
        """Return the status of a request and the recorded calls. The server passes on the path as sent, or decoded."""
        self.broker.acted.clear()
        path, _, query = target.partition("?")
        if "://" in path and not path.startswith("/"):
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        path = path.partition("#")[0]
        answer = call(
            self.app,
            method,
            f"{path}?{query or 'timeout=0'}",
            b"{}",
            {"Host": "here", "Authorization": token},
            path=unquote(path, errors="replace"),
            raw_path=None if decoded else path.encode("latin-1"),
        )
        return answer.status, list(self.broker.acted)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    # The broker starts its thread with the first lock. Start it here, so that no test seems to leave it behind.
    made.ask("DELETE", "/first/sessions/s/messages/head", token_for(), decoded=False)
    yield made
    made.broker.close()


def token_for(*segments: str) -> str:
    return signed(quote("sb://here/" + "/".join(quote(segment, safe="") for segment in segments), safe=""), KEY)


METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD"])
#: Pieces of paths that could confuse a parser.
PIECES = st.sampled_from(
    """/ // . .. ... %2e %2E%2e %252e %2f %2F %252F %5c \\ %00 %0a %0d%0a ; ;a=b ? # %3f %23 * : @ + %20 %FF %C0%AF %c0%ae
    %E2%80%AE orders orders2 Orders sessions Sessions s t messages head state renewlock release $deadletter $deadletterqueue
    $settle $deferred $defer subscriptions resubmit 1 healthz http://here/ http://elsewhere/ ///orders
    00000000-0000-0000-0000-000000000000""".split()
)
PATHS = st.builds(
    lambda start, pieces, between: start + between.join(pieces),
    st.sampled_from(
        ["/", "/orders", "/orders/", "/orders/sessions/s/", "/orders/sessions/s", "//", "", "http://here/orders/"]
    ),
    st.lists(PIECES, max_size=7),
    st.sampled_from(["", "/"]),
)


@given(METHODS, PATHS, st.booleans())
@example("GET", "/orders2/sessions/s/state", False)
@example("GET", "/orders/../orders2/sessions/s/state", False)
@example("GET", "/orders/%2e%2e/orders2/sessions/s/state", True)
@example("GET", "/orders%2f..%2forders2/sessions/s/state", True)
@example("GET", "http://here/orders2/sessions/s/state", False)
@settings(max_examples=250)
def test_a_token_for_a_queue_never_acts_on_another_queue(served: Served, method: str, path: str, decoded: bool) -> None:
    status, acted = served.ask(method, path, token_for("orders"), decoded=decoded)
    assert status < 500
    for _, *place in acted:
        assert place[0] == "orders" or place[0].startswith("orders/"), (path, acted)
    assert all(len(one) > 1 for one in acted), "the request listed the queues"


@pytest.mark.parametrize("session", ["s", "a/b", "s/messages/head", "../t", "s%2Fstate"])
@given(method=METHODS, path=PATHS, decoded=st.booleans())
@settings(max_examples=100)
def test_a_token_for_a_session_never_acts_on_another_session(
    served: Served, session: str, method: str, path: str, decoded: bool
) -> None:
    for target in (path, f"/orders/sessions/{quote(session, safe='')}/{path.lstrip('/')}"):
        status, acted = served.ask(method, target, token_for("orders", "sessions", session), decoded=decoded)
        assert status < 500
        for name, *place in acted:
            assert name in OF_SESSIONS
            assert place == ["orders", session], (target, acted)


ODD = ["s", "a/b", "s/messages/head", "a/renewlock", "50%", "%2e%2e", "a?b#c", "..a", "\u00e9", "a b", "a\\b", "x/sessions/y"]


@pytest.mark.parametrize("session", ODD)
@pytest.mark.parametrize("decoded", [False, True])
def test_a_session_with_any_id_is_reachable_with_its_own_token(served: Served, session: str, decoded: bool) -> None:
    for method, rest, name in (
        ("DELETE", "messages/head", "receive"),
        ("GET", "state", "get_state"),
        ("POST", "renewlock", "renew"),
    ):
        target = f"/orders/sessions/{quote(session, safe='')}/{rest}"
        _, acted = served.ask(method, target, token_for("orders", "sessions", session), decoded=decoded)
        assert acted == [(name, "orders", session)]
        status, acted = served.ask(method, target, token_for("orders", "sessions", session + "2"), decoded=decoded)
        assert (status, acted) == (401, [])


def test_each_known_path_trick_is_refused(served: Served) -> None:
    outer = token_for("orders")
    tricks = {
        "/orders/../orders2/sessions/s/state": {400, 404},
        "/orders/%2e%2e/orders2/sessions/s/state": {400, 404},
        "/orders/..%2forders2/sessions/s/state": {400, 404},
        "/orders%2f..%2forders2/sessions/s/state": {400, 404},
        "/orders/%252e%252e/orders2/sessions/s/state": {400, 404},
        "/orders2%00/sessions/s/state": {400},
        "/orders%00/sessions/s/state": {400},
        "/orders%0a/sessions/s/state": {400},
        "/orders;a=b/sessions/s/state": {400},
        "/orders\\..\\orders2/sessions/s/state": {400},
        "/orders%5csessions/s/state": {400, 404},
        "//orders2/sessions/s/state": {400},
        "/orders//sessions/s/state": {400, 404},
        "/./orders2/sessions/s/state": {400, 404},
        "/orders/sessions/../../orders2/sessions/s/state": {200, 204, 400, 404},
        "/%C0%AForders/sessions/s/state": {400},
        "/orders/sessions/%C0%AE%C0%AE/state": {400},
        "/orders/sessions/" + "x" * 129 + "/state": {400},
        "/" + "orders/" * 5000: {400, 404},
        "http://elsewhere/orders2/sessions/s/state": {401},
        "elsewhere/orders2/sessions/s/state": {400},
        "elsewhere": {400},
        "*": {400},
        "": {400, 401},
    }
    for target, statuses in tricks.items():
        for decoded in (False, True):
            status, acted = served.ask("GET", target, outer, decoded=decoded)
            assert status in statuses | ({401} if decoded else set()), (target, decoded, status)
            assert all(place[1] == "orders" for place in acted), target


@given(st.text(st.characters(max_codepoint=255), max_size=30), st.booleans())
@example("/\xff\xfe", True)
def test_any_bytes_as_a_path_act_on_the_right_session_or_are_refused(served: Served, path: str, decoded: bool) -> None:
    status, acted = served.ask("DELETE", path, token_for("orders", "sessions", "s"), decoded=decoded)
    assert status in (400, 401, 404, 405, 410, 204)
    assert all(one[1:] == ("orders", "s") for one in acted)


# Over a socket


@pytest.mark.parametrize(
    "target",
    [
        "/{queue}/../{other}/sessions/s/state",
        "/{queue}/%2e%2e/{other}/sessions/s/state",
        "/{queue}%2f%2e%2e%2f{other}/sessions/s/state",
        "//{other}/sessions/s/state",
        "//{queue}/{other}/sessions/s/state",
        "http://{host}/{other}/sessions/s/state",
        "http://{host}/{queue}/../{other}/sessions/s/state",
        "/{queue}#/../{other}/sessions/s/state",
        "/{queue};/../{other}/sessions/s/state",
        "/{queue}\\..\\{other}/sessions/s/state",
        "/{queue}%00/../{other}/sessions/s/state",
        "{other}/sessions/s/state",
    ],
)
def test_no_path_trick_reads_the_state_of_another_queue(gateway: Gateway, queue: str, target: str) -> None:
    other = gateway.queue()
    holder = gateway.holder(other, "s")
    holder.receive()
    assert holder.ask("PUT", "/state", b"not for everybody").status == 204
    text = target.format(queue=queue, other=other, host=f"{gateway.host}:{gateway.port}")
    lines = [
        f"GET {text} HTTP/1.1",
        f"Host: {gateway.host}:{gateway.port}",
        f"Authorization: {gateway.token(queue, key=MANAGE)}",
    ]
    with gateway.open_socket("\r\n".join([*lines, "Connection: close", "", ""]).encode()) as sock:
        received = b""
        while data := sock.recv(65536):
            received += data
    # The HTTP parser drops a fragment, which no client sends (RFC 9112, 3.2). The rest is the queue of the token.
    statuses = b"200" if "#" in target else b"400|401|404"
    assert re.match(rb"HTTP/1\.1 (%s) " % statuses, received)
    assert b"not for everybody" not in received
