"""Each operation of the client, prepared so that a test can replace the answer to its only request."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs

from azsession import Message, ReceivedMessage, ServiceBusProvider, SessionClient

_numbers = itertools.count(1)


@attrs.frozen
class Stage:
    """The objects that an operation needs: a held session with one received message and one in the queue."""

    provider: ServiceBusProvider
    queue: str
    session: SessionClient
    message: ReceivedMessage
    opened: list[SessionClient] = attrs.field(factory=list)

    def close(self) -> None:
        for session in (self.session, *self.opened):
            session.close()


def stage(provider: ServiceBusProvider, queue: str) -> Stage:
    """Return a stage with a new session."""
    session_id = f"s{next(_numbers)}"
    provider.send_messages(queue, [Message(body, session_id=session_id) for body in ("first", "second")])
    session = provider.create_session_client(queue, session_id, auto_renew=False)
    message = session.receive_message(timeout=5)
    assert message is not None
    assert message.body == b"first"
    return Stage(provider, queue, session, message)


Operation = Callable[[Stage], Callable[[], object]]


def _receive(at: Stage) -> Callable[[], object]:
    def receive() -> object:
        found = at.session.receive_message(timeout=0)
        assert found is not None
        assert found.body == b"second"
        return found

    return receive


def _receive_many(at: Stage) -> Callable[[], object]:
    def receive() -> object:
        found = at.session.receive_messages(10, timeout=0)
        assert [message.body for message in found] == [b"second"]
        return found

    return receive


def _receive_deferred(at: Stage) -> Callable[[], object]:
    at.session.defer_message(at.message)
    number: Any = at.message.sequence_number

    def receive() -> object:
        found = at.session.receive_deferred_messages([number])
        assert [message.body for message in found] == [b"first"]
        return found

    return receive


def _accept(at: Stage) -> Callable[[], object]:
    queue = f"accept-{next(_numbers)}"
    at.provider.send_message(queue, Message("only", session_id="next"))

    def accept() -> object:
        session = at.provider.create_session_client(queue, accept_timeout=0, auto_renew=False)
        at.opened.append(session)
        assert session.session_id == "next"
        return session

    return accept


def _dead(at: Stage) -> int:
    at.session.dead_letter_message(at.message, "broken")
    letters = at.provider.dead_letters(at.queue, from_sequence_number=at.message.sequence_number or 0)
    assert letters[0].sequence_number is not None
    return letters[0].sequence_number


def _resubmit(at: Stage) -> Callable[[], object]:
    number = _dead(at)
    return lambda: at.provider.resubmit(at.queue, number)


def _delete_dead_letter(at: Stage) -> Callable[[], object]:
    number = _dead(at)
    return lambda: at.provider.delete_dead_letter(at.queue, number)


def _delete_queue(at: Stage) -> Callable[[], object]:
    name = f"deleted-{next(_numbers)}"
    at.provider.create_queue(name)
    return lambda: at.provider.delete_queue(name)


def _create_queue(at: Stage) -> Callable[[], object]:
    name = f"created-{next(_numbers)}"
    return lambda: at.provider.create_queue(name)


def _get_state(at: Stage) -> Callable[[], object]:
    at.session.set_session_state(b"state")

    def read() -> object:
        state = at.session.get_session_state()
        assert state == b"state"
        return state

    return read


#: Operations of a session's holder. An answer to them can say that the lock is lost.
ON_LOCK: dict[str, Operation] = {
    "receive": _receive,
    "receive many": _receive_many,
    "receive deferred": _receive_deferred,
    "renew": lambda at: at.session.renew_session_lock,
    "get state": _get_state,
    "set state": lambda at: lambda: at.session.set_session_state(b"new"),
    "dead-letter the session": lambda at: lambda: at.session.dead_letter_session("broken"),
}
SETTLING: dict[str, Operation] = {
    "complete": lambda at: lambda: at.session.complete_message(at.message),
    "abandon": lambda at: lambda: at.session.abandon_message(at.message),
    "defer": lambda at: lambda: at.session.defer_message(at.message),
    "dead-letter": lambda at: lambda: at.session.dead_letter_message(at.message, "broken"),
    "complete many": lambda at: lambda: at.session.complete_messages([at.message]),
}
OF_PROVIDER: dict[str, Operation] = {
    "accept": _accept,
    "send": lambda at: lambda: at.provider.send_message(at.queue, Message("sent", session_id="sent")),
    "list sessions": lambda at: lambda: at.provider.list_sessions(at.queue),
    "peek": lambda at: lambda: at.provider.peek_messages(at.queue, at.session.session_id),
    "dead letters": lambda at: lambda: at.provider.dead_letters(at.queue),
    "resubmit": _resubmit,
    "delete dead letter": _delete_dead_letter,
    "create queue": _create_queue,
    "get queue": lambda at: lambda: at.provider.get_queue(at.queue),
    "list queues": lambda at: at.provider.list_queues,
    "delete queue": _delete_queue,
}
ALL: dict[str, Operation] = {**ON_LOCK, **SETTLING, **OF_PROVIDER}
#: Operations whose successful answer has a body that is read.
READING = [
    *("receive", "receive many", "receive deferred", "dead-letter the session", "complete many", "accept"),
    *("list sessions", "peek", "dead letters", "get queue", "list queues"),
]
