"""Each operation of the client, prepared so that a test can replace the answer to its only request."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient
from azsession.client.provider import core_of

_numbers = itertools.count(1)


@attrs.frozen
class Context:
    """The objects that an operation needs: a held session with one received message and one in the queue."""

    provider: ServiceBusProvider
    queue: str
    session: SessionClient
    message: ReceivedMessage
    opened: list[SessionClient] = attrs.field(factory=list)

    def close(self) -> None:
        for session in (self.session, *self.opened):
            session.close()


#: The fixture `prepare`: a function that returns a new context.
Prepare = Callable[..., Context]


def new_context(provider: ServiceBusProvider, queue: str) -> Context:
    """Return a context with a new session."""
    session_id = f"s{next(_numbers)}"
    provider.send_messages(queue, [Message(body, session_id=session_id) for body in ("first", "second")])
    session = provider.create_session_client(queue, session_id, auto_renew=False)
    message = session.receive_message(timeout=5)
    assert message is not None
    assert message.body == b"first"
    return Context(provider, queue, session, message)


@contextmanager
def answers_within(context: Context, seconds: float) -> Iterator[None]:
    """Let the provider wait only so long for answers. All else has the usual time, which a busy machine needs."""
    transport: Any = core_of(context.provider).transport
    usual = transport._config
    transport._config = attrs.evolve(usual, request_timeout=seconds)
    try:
        yield
    finally:
        transport._config = usual


Operation = Callable[[Context], Callable[[], object]]


def _receive(context: Context) -> Callable[[], object]:
    def receive() -> object:
        # The message is there. A receive is repeated only within its time.
        found = context.session.receive_message(timeout=60)
        assert found is not None
        assert found.body == b"second"
        return found

    return receive


def _receive_many(context: Context) -> Callable[[], object]:
    def receive() -> object:
        found = context.session.receive_messages(10, timeout=60)
        assert [message.body for message in found] == [b"second"]
        return found

    return receive


def _receive_deferred(context: Context) -> Callable[[], object]:
    context.session.defer_message(context.message)
    number: Any = context.message.sequence_number

    def receive() -> object:
        found = context.session.receive_deferred_messages([number])
        assert [message.body for message in found] == [b"first"]
        return found

    return receive


def _accept(context: Context) -> Callable[[], object]:
    queue = f"accept-{next(_numbers)}"
    context.provider.send_message(queue, Message("only", session_id="next"))

    def accept() -> object:
        session = context.provider.create_session_client(queue, accept_timeout=60, auto_renew=False)
        context.opened.append(session)
        assert session.session_id == "next"
        return session

    return accept


def _dead(context: Context) -> int:
    context.session.dead_letter_message(context.message, "broken")
    letters = context.provider.dead_letters(context.queue, from_sequence_number=context.message.sequence_number or 0)
    assert letters[0].sequence_number is not None
    return letters[0].sequence_number


def _resubmit(context: Context) -> Callable[[], object]:
    number = _dead(context)
    return lambda: context.provider.resubmit(context.queue, number)


def _delete_dead_letter(context: Context) -> Callable[[], object]:
    number = _dead(context)
    return lambda: context.provider.delete_dead_letter(context.queue, number)


def _delete_queue(context: Context) -> Callable[[], object]:
    name = f"deleted-{next(_numbers)}"
    context.provider.create_queue(name)
    return lambda: context.provider.delete_queue(name)


def _create_queue(context: Context) -> Callable[[], object]:
    name = f"created-{next(_numbers)}"
    return lambda: context.provider.create_queue(name)


def _get_state(context: Context) -> Callable[[], object]:
    context.session.set_session_state(b"state")

    def read() -> object:
        state = context.session.get_session_state()
        assert state == b"state"
        return state

    return read


#: Operations of a session's holder. An answer to them can say that the lock is lost.
ON_LOCK: dict[str, Operation] = {
    "receive": _receive,
    "receive many": _receive_many,
    "receive deferred": _receive_deferred,
    "renew": lambda context: context.session.renew_session_lock,
    "get state": _get_state,
    "set state": lambda context: lambda: context.session.set_session_state(b"new"),
    "dead-letter the session": lambda context: lambda: context.session.dead_letter_session("broken"),
}
SETTLING: dict[str, Operation] = {
    "complete": lambda context: lambda: context.session.complete_message(context.message),
    "abandon": lambda context: lambda: context.session.abandon_message(context.message),
    "defer": lambda context: lambda: context.session.defer_message(context.message),
    "dead-letter": lambda context: lambda: context.session.dead_letter_message(context.message, "broken"),
    "complete many": lambda context: lambda: context.session.complete_messages([context.message]),
}
OF_PROVIDER: dict[str, Operation] = {
    "accept": _accept,
    "send": lambda context: lambda: context.provider.send_message(context.queue, Message("sent", session_id="sent")),
    "list sessions": lambda context: lambda: context.provider.list_sessions(context.queue),
    "peek": lambda context: lambda: context.provider.peek_messages(context.queue, context.session.session_id),
    "dead letters": lambda context: lambda: context.provider.dead_letters(context.queue),
    "resubmit": _resubmit,
    "delete dead letter": _delete_dead_letter,
    "create queue": _create_queue,
    "get queue": lambda context: lambda: context.provider.get_queue(context.queue),
    "list queues": lambda context: context.provider.list_queues,
    "delete queue": _delete_queue,
}
ALL: dict[str, Operation] = {**ON_LOCK, **SETTLING, **OF_PROVIDER}
#: Operations whose successful answer has a body that is read.
READING = [
    *("receive", "receive many", "receive deferred", "dead-letter the session", "complete many", "accept"),
    *("list sessions", "peek", "dead letters", "get queue", "list queues"),
]
