"""A message that is on its way to the caller is not lost if a signal handler raises an exception."""

from __future__ import annotations

import ctypes
import gc
import itertools
import operator
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient

from ..api.conftest import provider as provider
from ..api.conftest import queue as queue
from ..interrupts.conftest import InterruptError
from ..interrupts.conftest import arrangement as arrangement
from ..interrupts.test_receiving import BODIES, rest

# `os.kill` handles the signal before it returns; this function of the C library does not.
_raise_signal = ctypes.PyDLL(None)["raise"]


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def handle(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


def then_interrupted(results: Iterator[Any]) -> Iterator[Any]:
    """Return the results. Python handles a signal directly after each, when it returns from C to the caller's code."""
    signals = map(_raise_signal, itertools.repeat(int(signal.SIGUSR1)))
    return itertools.compress(results, map(operator.not_, signals))


@contextmanager
def expected(errors: list[Exception]) -> Iterator[None]:
    """Keep an error."""
    try:
        yield
    except ValueError as error:
        errors.append(error)


def one_again_and_again(session: SessionClient) -> Iterator[Any]:
    return iter(partial(session.receive_message, timeout=10), None)


def batches(session: SessionClient) -> Iterator[Any]:
    return iter(partial(session.receive_messages, 3, timeout=10), None)


WAYS: dict[str, Callable[[SessionClient], Iterator[Any]]] = {
    "iterated": lambda session: session.messages(timeout=10, prefetch=1),
    "fetched-ahead": lambda session: session.messages(timeout=10, prefetch=4),
    "one": one_again_and_again,
    "many": batches,
}


@pytest.mark.parametrize("way", list(WAYS))
def test_messages_that_an_interrupt_dropped_on_their_way_come_first(
    provider: ServiceBusProvider, queue: str, way: str
) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        for _ in range(3):
            with pytest.raises(InterruptError):
                next(then_interrupted(WAYS[way](session)))
        assert rest(session) == BODIES


def test_a_loop_goes_on_with_the_message_that_an_interrupt_dropped(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=0, prefetch=4)
        session.complete_message(next(messages))
        with pytest.raises(InterruptError):
            next(then_interrupted(messages))
        found = []
        for message in messages:
            found.append(message.text())
            session.complete_message(message)
        assert found == BODIES[1:]


def test_another_loop_begins_with_the_message_that_an_interrupt_dropped(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        with pytest.raises(InterruptError):
            next(then_interrupted(session.messages(timeout=10)))
        for message in session.messages(timeout=0):
            assert message.text() == BODIES[0]
            break


def test_messages_that_the_caller_got_and_did_not_keep_do_not_come_again(provider: ServiceBusProvider, queue: str) -> None:
    """A caller can keep the receipts alone. An older exception, which passed the same instruction, changes nothing."""
    receipts: list[str] = []
    errors: list[Exception] = []

    def keep(message: ReceivedMessage) -> None:
        receipts.append(str(message.receipt))
        if len(receipts) == 2:
            raise ValueError(message.text())

    provider.send_messages(queue, [Message(body, session_id="s") for body in BODIES])
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=0, prefetch=4)
        while len(receipts) < len(BODIES):
            with expected(errors):
                list(map(keep, messages))
        assert len(receipts) == len(set(receipts)) == len(BODIES)
        assert [str(error) for error in errors] == ["1"]
        session.complete_messages(receipts)
        assert rest(session) == []


def test_a_message_that_was_handed_out_is_not_kept_alive(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_message(queue, Message("0", session_id="s"))
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=10)
        known = weakref.ref(next(messages))
        gc.collect()
        assert known() is None


def test_a_loop_can_go_on_after_an_error(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_message(queue, Message("0", session_id="s"))
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=10)

        def handle(*_: object) -> None:
            raise InterruptError

        signal.signal(signal.SIGUSR1, handle)
        session.complete_message(next(messages))
        timer = threading.Timer(0.2, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(InterruptError):
            next(messages)
        timer.join()
        provider.send_message(queue, Message("1", session_id="s"))
        assert next(messages).text() == "1"


def test_a_loop_that_has_ended_stays_ended(provider: ServiceBusProvider, queue: str) -> None:
    with provider.create_session_client(queue, "s") as session:
        messages = session.messages(timeout=0)
        assert list(messages) == []
        provider.send_message(queue, Message("0", session_id="s"))
        assert list(messages) == []
