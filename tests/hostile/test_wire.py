"""Answers that are malformed HTTP, never end, come too early, or are followed by stray bytes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from azsession import ConnectionFailedError, MessageTooLargeError, ProviderError, QueueError

from .operations import ALL, Prepare, answers_within
from .servers import GATEWAYS, FaultyProxy, ScriptedAnswer, http_answer, raw

KEPT_HEAD = b"HTTP/1.1 200 OK\r\nAzsession-Protocol: 1\r\n"
# "close", so that no later request uses the connection at the moment when it is closed.
HEAD = KEPT_HEAD + b"Connection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

#: Answers that are not HTTP, or incomplete.
BROKEN = {
    "nothing": b"",
    "HTTP/0.9": b"<html>It works!</html>\r\n\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00",
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
    "a TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "AMQP": b"AMQP\x00\x01\x00\x00",
    "SMTP": b"220 mail ESMTP\r\n",
    "zeros": b"\x00" * 1000,
    "a status of letters": b"HTTP/1.1 OK 200\r\n\r\n",
    "a status that steers a terminal": b"HTTP/1.1 \x1b[31m\x07red\r\n\r\n",
    "a status line of 10 MB": b"HTTP/1.1 200 " + b"x" * 10_000_000,
    "a header of 10 MB": HEAD + b"X: " + b"h" * 10_000_000 + b"\r\n\r\n",
    "100,000 headers": HEAD + b"".join(b"X-%d: x\r\n" % n for n in range(100_000)) + b"\r\n",
    "10,000 promises": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
    "two lengths in one": HEAD + b"Content-Length: 2, 3\r\n\r\n{}}",
    "a length that is too large": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "chunks without a size": CHUNKED + b"\r\n\r\n",
    "a chunk of no number": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "a chunk of a negative size": CHUNKED + b"-5\r\nabc\r\n0\r\n\r\n",
    "a chunk of minus one": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "a chunk that is too large": CHUNKED + b"fffffffffffffffff\r\nabc",
    "a chunk size of 1 MB": CHUNKED + b"0" * 1_000_000 + b"\r\n",
    "chunks without an end": CHUNKED + b"3\r\nabc\r\n",
    "a trailer of 1 MB": CHUNKED + b"0\r\nX: " + b"x" * 1_000_000,
    "a gzip body that is not gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", ["receive", "complete", "renew", "send"])
def test_a_malformed_answer_is_a_connection_failure_and_changes_nothing(
    name: str, case: str, proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare()
    operation = ALL[name](context)
    proxy.script(raw(BROKEN[case]))
    with pytest.raises(ConnectionFailedError) as caught:
        operation()
    assert caught.value.maybe_delivered
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert not context.session.is_lock_lost
    operation()


@pytest.mark.parametrize("name", ["complete many", "renew"])
def test_an_answer_cut_off_at_any_byte_is_a_connection_failure(name: str, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    operation = ALL[name](context)
    whole = _answer_to(proxy, ALL[name](prepare()))
    for cut in range(len(whole)):
        proxy.script(ScriptedAnswer(lambda original, cut=cut: [original[:cut]], forwards=True))
        with pytest.raises(ConnectionFailedError) as caught:
            operation()
        assert caught.value.maybe_delivered, cut
        assert not context.session.is_lock_lost, cut
    # The server remembers the settlement, so that the repeated one succeeds.
    operation()


def test_a_retried_receive_gets_the_messages_of_an_answer_that_was_cut_off(proxy: FaultyProxy, prepare: Prepare) -> None:
    whole = _answer_to(proxy, ALL["receive"](prepare()))
    context = prepare(retry_attempts=1)
    for cut in (*range(0, len(whole), 40), len(whole) - 1):
        proxy.script(ScriptedAnswer(lambda original, cut=cut: [original[:cut]], forwards=True))
        # The message is there. A receive is repeated only within its time.
        found = context.session.receive_message(timeout=60)
        assert found is not None, cut
        assert found.body == b"second", cut
        context.session.abandon_message(found)


def _answer_to(proxy: FaultyProxy, operation: Callable[[], object]) -> bytes:
    """Return the gateway's answer."""
    whole: list[bytes] = []

    def note(original: bytes) -> list[bytes]:
        whole.append(original)
        return whole

    proxy.script(ScriptedAnswer(note, forwards=True, closes=False))
    operation()
    assert len(whole[0]) > 100
    return whole[0]


def for_ever(piece: bytes) -> Callable[[bytes], Iterator[bytes]]:
    return lambda original: itertools.repeat(piece)


def after(head: bytes, piece: bytes, pause: float = 0.0) -> Callable[[bytes], Iterator[bytes]]:
    def answer(original: bytes) -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(pause)
            yield piece

    return answer


#: Answers that never end, at full speed.
ENDLESS = {
    "a body until it closes": after(HEAD + b"\r\n", b"x" * 65536),
    "a body of 10 TB": after(HEAD + b"Content-Length: 9999999999999\r\n\r\n", b"x" * 65536),
    "chunks": after(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "a chunk's size": after(CHUNKED, b"0" * 65536),
    "trailers": after(CHUNKED + b"0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    "promises": for_ever(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000),
    "zeros": for_ever(b"\x00" * 65536),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_the_client_stops_reading_an_endless_answer(case: str, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    proxy.script(ScriptedAnswer(ENDLESS[case]))
    with answers_within(context, 1.0), pytest.raises(ConnectionFailedError):
        context.session.complete_message(context.message)
    assert proxy.client_left.acquire(timeout=30)  # The client closed the connection.
    context.session.complete_message(context.message)


@pytest.mark.parametrize("status", [302, 404, 410, 500])
def test_an_error_with_an_endless_body_is_an_error(status: int, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    head = b"HTTP/1.1 %d Said\r\nLocation: /elsewhere\r\n\r\n" % status
    proxy.script(ScriptedAnswer(after(head, b"x" * 65536)))
    with pytest.raises(ProviderError):
        context.session.complete_message(context.message)
    assert proxy.client_left.acquire(timeout=30)
    context.session.complete_message(context.message)


#: Answers that arrive too slowly, one byte at a time.
TRICKLES = {
    "the status line": after(b"", b"H", 0.02),
    "a header": after(HEAD + b"X: ", b"x", 0.02),
    "headers": after(HEAD, b"X: x\r\n", 0.02),
    "the body": after(HEAD + b"Content-Length: 100000\r\n\r\n", b"x", 0.02),
    "chunks": after(CHUNKED, b"1\r\nx\r\n", 0.02),
    "promises": after(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
}


@pytest.mark.parametrize("case", TRICKLES)
def test_a_slow_answer_times_out(case: str, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    began = time.monotonic()
    proxy.script(ScriptedAnswer(TRICKLES[case]))
    with answers_within(context, 0.5), pytest.raises(ConnectionFailedError, match="timed out"):
        context.session.complete_message(context.message)
    assert 0.4 < time.monotonic() - began < 30  # Without a timeout it would never end.
    assert proxy.client_left.acquire(timeout=30)
    context.session.complete_message(context.message)


def test_a_large_answer_may_take_longer_than_the_timeout_while_it_arrives(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()

    def answer(original: bytes) -> Iterator[bytes]:
        yield HEAD + b"Content-Length: %d\r\n\r\n" % (20 * 32768)
        for _ in range(20):
            time.sleep(0.2)
            yield b"x" * 32768

    proxy.script(ScriptedAnswer(answer))
    with answers_within(context, 3.0):
        state = context.session.get_session_state()
    assert state is not None
    assert len(state) == 20 * 32768


# Stray bytes and several answers

STRAY = b"HTTP/1.1 200 OK\r\nAzsession-Protocol: 1\r\nContent-Length: 6\r\n\r\nforged"


@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.parametrize(
    ("case", "first"),
    {
        "a body where none can be": b"HTTP/1.1 204 No Content\r\nAzsession-Protocol: 1\r\nContent-Length: 98\r\n\r\n",
        "chunks where none can be": b"HTTP/1.1 204 No\r\nAzsession-Protocol: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "an answer of two lengths": KEPT_HEAD
        + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    }.items(),
)
def test_stray_bytes_after_an_answer_are_not_taken_for_the_next_answer(
    case: str, first: bytes, pause: float, proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare()

    def answer(original: bytes) -> Iterator[bytes]:
        yield first
        time.sleep(pause)
        yield STRAY

    context.session.set_session_state(b"state")
    proxy.script(ScriptedAnswer(answer, forwards=True, closes=False))
    with suppress(ConnectionFailedError):
        context.session.complete_message(context.message)
    assert context.session.get_session_state() == b"state"


def test_the_second_of_two_answers_to_one_request_is_ignored(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    context.session.set_session_state(b"state")
    # Once the second answer fits into the buffer of the reader, and once it does not.
    for size in (6, 100_000):
        stray = STRAY.replace(b" 6", b" %d" % size) + b"x" * (size - 6)
        proxy.script(ScriptedAnswer(lambda original, stray=stray: [original + stray], forwards=True, closes=False))
        assert context.session.get_session_state() == b"state"
        assert context.session.get_session_state() == b"state"


@pytest.mark.parametrize("status", [102, 103, 199])
def test_an_interim_response_is_not_the_answer(status: int, proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    context.session.set_session_state(b"state")
    promise = b"HTTP/1.1 %d Wait\r\nLink: </style.css>\r\n\r\n" % status
    proxy.always = ScriptedAnswer(lambda original: [promise, promise, original], forwards=True, closes=False)
    for _ in range(3):
        assert context.session.get_session_state() == b"state"


def test_an_answer_before_the_request_was_read_is_accepted(proxy: FaultyProxy, prepare: Prepare) -> None:
    context = prepare()
    proxy.script(http_answer(413, headers=GATEWAYS, reads_body=False, closes=False))
    with pytest.raises(MessageTooLargeError):
        context.session.set_session_state(b"x" * 100)


def test_an_answer_and_a_reset_before_the_request_was_read_are_an_azsession_error(
    proxy: FaultyProxy, prepare: Prepare
) -> None:
    context = prepare()
    proxy.script(http_answer(413, headers=GATEWAYS, reads_body=False))
    with pytest.raises(QueueError) as caught:
        context.session.set_session_state(b"x" * 8_000_000)
    assert isinstance(caught.value, (MessageTooLargeError, ConnectionFailedError))
    context.session.set_session_state(b"state")
    assert context.session.get_session_state() == b"state"
