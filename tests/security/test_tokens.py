"""An unauthorized caller gets the same response for every invalid token, path and method, and for any queue."""

from __future__ import annotations

import re
from http.client import responses
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from azsession.errors import AuthenticationFailedError, ConfigurationError
from azsession.protocol.routes import Operation
from azsession.server import AccessKey, Right
from azsession.server.authorization import Guard

from ..server.raw import LISTEN, MANAGE, Gateway
from .tokens import SCHEME, signed, wrong_forms, wrong_resources

KEY = AccessKey("reader", "c2VjcmV0", frozenset({Right.LISTEN}))


def answer_to(gateway: Gateway, method: str, target: str, authorization: str | None) -> bytes:
    """Return the bytes of a response without its date."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {gateway.host}:{gateway.port}", "Connection: close"]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    received = b""
    with gateway.open_socket(head) as sock:
        while data := sock.recv(65536):
            received += data
    return re.sub(rb"(?i)\r\ndate: [^\r]*", b"", received)


def refusal(gateway: Gateway) -> bytes:
    """Return the response to a request without a token for a queue that does not exist."""
    answer = answer_to(gateway, "GET", "/nowhere/sessions/s/state", None)
    assert answer.startswith(b"HTTP/1.1 401 ")
    return answer


def differing(gateway: Gateway, queue: str, tokens: dict[str, str]) -> list[str]:
    """Return the tokens with another response than the refusal, for a queue that exists or one that does not."""
    usual = refusal(gateway)
    return [
        name
        for name, token in tokens.items()
        for there in (queue, queue.replace("queue", "nowhere"))
        if answer_to(gateway, "GET", f"/{there}/sessions/s/state", token) != usual
    ]


def test_malformed_tokens_get_identical_refusals(gateway: Gateway, queue: str) -> None:
    tokens = wrong_forms(gateway.host, queue, MANAGE)
    assert differing(gateway, queue, {name: text for name, text in tokens.items() if "\n" not in text}) == []


def test_tokens_for_another_resource_get_identical_refusals(gateway: Gateway, queue: str) -> None:
    tokens = {name: signed(sr, MANAGE) for name, sr in wrong_resources(gateway.host, queue).items()}
    assert differing(gateway, queue, tokens) == []


def test_the_test_tokens_are_valid_without_their_one_fault(gateway: Gateway, queue: str) -> None:
    for sr in (f"sb://{gateway.host}/{queue}", f"sb://{gateway.host}:1//{queue}/", f"sb://{gateway.host}/{queue}/sessions/s"):
        for encoded in (quote(sr, safe=""), sr):
            answer = answer_to(gateway, "DELETE", f"/{queue}/sessions/s/messages/head?timeout=0", signed(encoded, MANAGE))
            assert answer.startswith(b"HTTP/1.1 204 "), (encoded, answer)


@pytest.mark.parametrize("size", [66_000, 1_000_000])
def test_a_header_over_the_limit_gets_the_same_refusal_for_any_queue(gateway: Gateway, queue: str, size: int) -> None:
    token = gateway.token(queue) + "x" * size
    answers = set()
    too_large = f"HTTP/1.1 413 {responses[413]}".encode()
    for there in (queue, "nowhere"):
        head = gateway.head("GET", f"/{there}/sessions/s/state").decode().replace(gateway.token(), token)
        with gateway.open_socket() as sock:
            try:
                sock.sendall(head.encode())
                answers.add(sock.recv(65536).split(b"\r\n", 1)[0])
            except (BrokenPipeError, ConnectionResetError):
                # The gateway refuses before it has read the whole header.
                answers.add(too_large)
    assert answers == {too_large}


#: Requests without a meaning: malformed paths, unknown paths, and wrong methods.
MEANINGLESS = [
    ("GET", "/{queue}/else"),
    ("GET", "/{queue}/sessions/s/else"),
    ("GET", "/{queue}/sessions/s/renewlock"),
    ("POST", "/{queue}/sessions/s/state"),
    ("PATCH", "/{queue}"),
    ("OPTIONS", "/{queue}"),
    ("TRACE", "/{queue}"),
    ("PROPFIND", "/{queue}"),
    ("POST", "/healthz"),
    ("GET", "/healthz/"),
    ("GET", "/{queue}/../{queue}"),
    ("GET", "/{queue}%00"),
    ("GET", "/{queue}/sessions/%FF/state"),
    ("GET", "/{queue}/sessions/%2E%2E/state"),
    ("GET", "/{queue}/sessions//state"),
    ("GET", "/{queue}/$deadletterqueue/messages/x/y"),
    ("DELETE", "/{queue}/$deadletterqueue/messages/-1"),
    ("GET", "/{queue}?max=0&max=0"),
    ("GET", "/{queue}/sessions/s/messages?max=x"),
    ("GET", "/" + "q" * 300),
    ("OPTIONS", "*"),
]


@pytest.mark.parametrize("authorization", [None, "expired", "sibling", "elsewhere"])
def test_an_unauthorized_caller_does_not_learn_which_paths_exist(
    gateway: Gateway, queue: str, authorization: str | None
) -> None:
    tokens = {
        None: None,
        "expired": gateway.token(expiry=1),
        "sibling": signed(quote(f"sb://{gateway.host}/{queue}", safe=""), AccessKey("nobody", MANAGE.key)),
        "elsewhere": gateway.token(base="sb://elsewhere.example"),
    }
    usual = refusal(gateway)
    for there in (queue, "nowhere"):
        for method, path in MEANINGLESS:
            answer = answer_to(gateway, method, path.format(queue=there), tokens[authorization])
            assert answer == usual, (method, path, there)


def test_an_authorized_caller_learns_why_a_path_is_refused(gateway: Gateway, queue: str) -> None:
    token = gateway.token(f"{queue}/sessions/s", key=LISTEN)
    for method, path, status in (("GET", "/q/messages/else", 404), ("PATCH", "/q", 405), ("GET", "/..", 400)):
        assert gateway.ask(method, path, token=token).status == status


def test_a_token_for_one_queue_reveals_nothing_about_another(gateway: Gateway, queue: str) -> None:
    usual, other = refusal(gateway), gateway.queue()
    for target in (other, "nowhere", f"{queue}x", queue[:-1], f"{queue}/subscriptions/x/y"):
        for method, rest in (("GET", ""), ("GET", "/sessions"), ("GET", "/sessions/s/state"), ("POST", "/messages")):
            answer = answer_to(gateway, method, f"/{target}{rest}", gateway.token(f"{queue}/sessions/s"))
            if target.startswith(f"{queue}/"):
                # An unknown path. The response is the same for every token.
                assert b" 404 " in answer.split(b"\r\n")[0]
            else:
                assert answer == usual


# The check without HTTP

GUARD = Guard([KEY], ["known.example"])


def test_tokens_that_cannot_be_a_header_are_refused() -> None:
    for text in ("\ud800", SCHEME + "\udcff", signed("sb%3A%2F%2Fhere%2Fq", KEY) + "\udfff", signed("\ud83d\ud83d", KEY)):
        with pytest.raises(AuthenticationFailedError):
            GUARD.check(text, "here", ("q",), Operation.RECEIVE)


SEGMENTS = st.sampled_from(
    [
        "q",
        "q2",
        "Q",
        "sessions",
        "s",
        "s2",
        "a/b",
        "..",
        ".",
        "",
        "%",
        "%2F",
        "%252f",
        "a b",
        "a+b",
        "?",
        "#",
        "\\",
        ";",
        "\0",
    ]
)


@given(st.lists(SEGMENTS, max_size=5), st.lists(SEGMENTS.filter(bool), min_size=1, max_size=5).map(tuple))
@example(["q", "sessions", "a/b"], ("q", "sessions", "a/b"))
@example(["q", "sessions", "?"], ("q", "sessions", "s"))
@example([], ("q",))
def test_a_token_is_valid_only_for_resources_below_its_segments(segments: list[str], resource: tuple[str, ...]) -> None:
    sr = quote("sb://here/" + "/".join(quote(segment, safe="") for segment in segments), safe="")
    named = segments[:-1] if segments[-1:] == [""] else segments
    while named[:1] == [""]:
        named = named[1:]
    try:
        GUARD.check(signed(sr, KEY), "here", resource, Operation.RECEIVE)
    except AuthenticationFailedError:
        assert list(resource[: len(named)]) != named
    else:
        assert list(resource[: len(named)]) == named


@given(st.lists(SEGMENTS, min_size=1, max_size=5))
def test_a_token_with_an_unencoded_session_id_grants_nothing_more(pieces: list[str]) -> None:
    session = "".join(pieces)
    if not session or session == "/":
        return
    token = signed(quote(f"sb://here/q/sessions/{session}", safe=""), KEY)
    for resource in (("q",), ("q", "sessions", "other"), ("q2", "sessions", session)):
        with pytest.raises(AuthenticationFailedError):
            GUARD.check(token, "here", resource, Operation.RECEIVE)


@pytest.mark.parametrize("secret", ["\ud800", "half\udc80"])
def test_a_key_that_utf_8_cannot_encode_is_refused_at_the_start(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="NAME:KEY:RIGHTS"):
        AccessKey.parse(f"app:{secret}:Send")


def test_a_token_of_an_unknown_key_is_refused_for_an_unknown_path() -> None:
    bad: list[Any] = [None, "", signed("sb%3A%2F%2Fhere", AccessKey("nobody", KEY.key)), signed("sb%3A%2F%2Felsewhere", KEY)]
    for authorization in bad:
        with pytest.raises(AuthenticationFailedError):
            GUARD.check(authorization, "here", None, None)
    GUARD.check(signed("sb%3A%2F%2Fhere%2Fanything", KEY), "here", None, None)


@pytest.mark.parametrize("sr", ["sb%3A%2F%2Fhere%2Fq%2Fsessions%2F%25FF", "sb%3A%2F%2Fhere%2Fq%2Fsessions%2F%FF"])
def test_a_resource_that_is_not_text_matches_no_session(sr: str) -> None:
    with pytest.raises(AuthenticationFailedError):
        GUARD.check(signed(sr, KEY), "here", ("q", "sessions", "\ufffd"), Operation.RECEIVE)
