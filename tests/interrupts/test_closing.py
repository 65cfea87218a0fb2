"""Closing that is interrupted, and closing from a signal handler."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from azsession import (
    ConfigurationError,
    ConnectionFailedError,
    Message,
    QueueError,
    ServiceBusProvider,
    SessionClient,
    SessionNotFoundError,
)

from ..api.conftest import Arrangement
from ..conftest import eventually
from .conftest import InterruptError, alarm, interrupted_in
from .sweep import Handler, steps


@pytest.fixture
def held(provider: ServiceBusProvider, queue: str) -> SessionClient:
    """A session with a message that is held and not settled."""
    provider.send_message(queue, Message("1", session_id="s"))
    session = provider.create_session_client(queue, "s")
    assert session.receive_message(timeout=20) is not None
    return session


def check_that_it_is_free(provider: ServiceBusProvider, queue: str) -> None:
    with provider.create_session_client(queue, "s") as session:
        message = session.receive_message(timeout=20)
        assert message is not None
        session.complete_message(message)


@pytest.mark.parametrize("name", ["shut", "release", "send", "_attempt", "_exchange", "read_nothing"])
def test_a_session_whose_closing_was_interrupted_can_be_closed_again(
    arrangement: Arrangement, provider: ServiceBusProvider, queue: str, held: SessionClient, name: str
) -> None:
    with interrupted_in(name) as entered, pytest.raises(InterruptError):
        held.close()
    assert entered
    held.close()
    check_that_it_is_free(provider, queue)


@pytest.mark.parametrize("name", ["stop", "shut", "clients", "release", "_exchange", "dismiss", "close"])
def test_a_provider_whose_closing_was_interrupted_can_be_closed_again(
    arrangement: Arrangement, queue: str, held: SessionClient, provider: ServiceBusProvider, name: str
) -> None:
    with interrupted_in(name) as entered, pytest.raises(InterruptError):
        provider.close()
    assert entered
    provider.close()
    with pytest.raises(ConfigurationError, match="closed"):
        provider.send_message(queue, Message("2", session_id="s"))
    eventually(lambda: not [each for each in threading.enumerate() if each.name in ("azsession-renewer", "azsession-amqp")])
    with arrangement.provider() as again:
        check_that_it_is_free(again, queue)


def calls(provider: ServiceBusProvider, queue: str, session: SessionClient) -> list[Callable[[], object]]:
    return [
        lambda: session.receive_message(timeout=0.01),
        lambda: session.receive_message(timeout=0),
        session.renew_session_lock,
        lambda: session.set_session_state(b"1"),
        lambda: provider.send_message(queue, Message("2", session_id="other")),
        lambda: provider.list_sessions(queue),
        lambda: provider.peek_messages(queue, "s"),
    ]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("closes", ["session", "provider"])
def test_a_signal_handler_can_close_while_its_thread_is_in_a_call(
    arrangement: Arrangement, queue: str, waits: bool, closes: str
) -> None:
    for number in range(6):
        provider = arrangement.provider()
        session = provider.create_session_client(queue, "s")
        session.receive_message(timeout=0)
        made = calls(provider, queue, session)

        def close(*_: object, provider: Any = provider, session: Any = session) -> None:
            (provider if closes == "provider" else session).close()

        def call_for_ever(session: SessionClient = session, made: Any = made) -> None:
            while True:
                if waits:
                    session.receive_message(timeout=60)
                for call in made:
                    call()

        began = time.monotonic()
        errors = (SessionNotFoundError, ConfigurationError, ConnectionFailedError)
        with pytest.raises(errors) as caught, alarm(0.05 + number * 0.003, close):
            call_for_ever()
        assert time.monotonic() - began < 20
        if isinstance(caught.value, ConnectionFailedError):
            # The provider was closed before Azure confirmed a message, which may have been sent.
            assert (closes, caught.value.maybe_delivered) == ("provider", True)
        session.close()
        provider.close()


CALLS: dict[str, Callable[[ServiceBusProvider, str, SessionClient], object]] = {
    "receive": lambda provider, queue, session: session.receive_message(timeout=0),
    "complete": lambda provider, queue, session: session.complete_messages(session.receive_messages(1, timeout=0)),
    "renew": lambda provider, queue, session: session.renew_session_lock(),
    "send": lambda provider, queue, session: provider.send_message(queue, Message("2", session_id="s")),
    "accept": lambda provider, queue, session: provider.create_session_client(queue, accept_timeout=0),
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions")
@pytest.mark.parametrize("name", CALLS)
def test_a_signal_handler_can_close_the_provider_anywhere_in_a_call(arrangement: Arrangement, queue: str, name: str) -> None:
    def run(at: int) -> int:
        provider = arrangement.provider()
        provider.send_message(queue, Message("1", session_id="s"))
        session = provider.create_session_client(queue, "s")
        session.get_session_state()  # Takes the lock.
        handler = Handler(at, provider.close)
        # The call can also end well, or find that there is no other session.
        with suppress(QueueError):
            handler.run(lambda: CALLS[name](provider, queue, session))
        provider.close()
        try:
            with arrangement.provider() as again, again.create_session_client(queue, "s") as found:
                found.complete_messages(found.receive_messages(10, timeout=0))
        except QueueError as error:
            raise AssertionError(f"closed at {handler.where}") from error
        return handler.lines

    for at in steps(run(0)):
        run(at)


def test_closing_in_a_signal_handler_that_raises_ends_the_call(arrangement: Arrangement, queue: str) -> None:
    provider = arrangement.provider()
    session = provider.create_session_client(queue, "s")
    session.receive_message(timeout=0)

    def close(*_: object) -> None:
        provider.close()
        raise InterruptError

    with pytest.raises((InterruptError, QueueError)), alarm(0.1, close):
        session.receive_message(timeout=60)
    provider.close()
