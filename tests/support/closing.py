"""Closing a provider while other threads use it: the same over a socket and in process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from azsession import ConfigurationError, Message, QueueError, ServiceBusProvider, SessionClient, SessionNotFoundError

from ..conftest import eventually
from .thread_group import ThreadGroup


def kinds_of_calls(provider: ServiceBusProvider, held: SessionClient) -> list[Callable[[], object]]:
    """Return one call of each kind. The first and the last receive wait for messages, and an accept waits for a session."""

    def hold() -> None:
        with provider.create_session_client("q", "held2") as client:
            client.receive_message(timeout=300)

    return [
        lambda: held.receive_message(timeout=300),
        held.renew_session_lock,
        lambda: held.set_session_state(b"1"),
        held.get_session_state,
        lambda: provider.create_session_client("empty", accept_timeout=300),
        lambda: provider.send_message("other", Message(b"x", session_id="s")),
        lambda: provider.list_sessions("q"),
        lambda: provider.peek_messages("q", "s1"),
        lambda: provider.dead_letters("q"),
        lambda: provider.create_session_client("q", "s1").close(),
        hold,
    ]


def check_that_closing_ends_every_kind_of_call(
    provider: ServiceBusProvider, is_waiting: Callable[[SessionClient], bool]
) -> None:
    """Close a provider while a thread repeats each kind of call. Each thread must get the error of a closed provider.

    Args:
        provider: A provider for a server without messages.
        is_waiting: Returns whether the receive of this client and the accept of the provider wait for the server.
    """
    provider.send_messages("q", [Message(f"m{number}", session_id=f"s{number}") for number in range(8)])
    held = provider.create_session_client("q", "held")
    held.receive_message(timeout=0)
    group = ThreadGroup()
    ended: list[QueueError] = []
    running = threading.Semaphore(0)

    def until_closed(call: Callable[[], object]) -> None:
        running.release()
        try:
            while True:
                call()
        except (SessionNotFoundError, ConfigurationError) as error:
            ended.append(error)

    kinds = kinds_of_calls(provider, held)
    for kind in kinds:
        group.start(until_closed, kind)
    for _ in kinds:
        running.acquire()
    eventually(lambda: is_waiting(held))
    provider.close()
    group.join(40)
    assert group.errors == []
    assert len(ended) == len(kinds)
