"""The operations of the plain dialect, and responses that a server breaks off, for parametrized tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azsession import ReceivedMessage, SessionClient

from ..support.plain_server import (
    CLOSED_BEFORE,
    CLOSED_IN_BODY,
    CLOSED_IN_HEADERS,
    GARBAGE,
    MANY_HEADERS,
    ONE_HUGE_HEADER,
    Fate,
    PlainServer,
)

#: The settlements, by their names in the tests.
SETTLES: dict[str, Callable[[SessionClient, Any], None]] = {
    "complete": lambda session, receipt: session.complete_message(receipt),
    "abandon": lambda session, receipt: session.abandon_message(receipt),
    "dead-letter": lambda session, receipt: session.dead_letter_message(receipt, "broken"),
}


#: The operations on the lock itself.
ON_LOCK: dict[str, Callable[[SessionClient], object]] = {
    "receive": lambda session: session.receive_message(timeout=0),
    "renew": lambda session: session.renew_session_lock(),
}


ALL = {**ON_LOCK, **SETTLES}


UNFINISHED = {"before": CLOSED_BEFORE, "in the headers": CLOSED_IN_HEADERS, "in the body": CLOSED_IN_BODY}


BROKEN = {"garbage": GARBAGE, "one huge header": ONE_HUGE_HEADER, "many headers": MANY_HEADERS}


def received(server: PlainServer, session: SessionClient, body: bytes = b"paid") -> ReceivedMessage:
    """Put a message into the session, receive it, and forget the requests so far."""
    server.put("orders", "s1", body)
    message = session.receive_message(timeout=2)
    assert message is not None
    server.seen.clear()
    return message


def act(name: str, server: PlainServer, session: SessionClient, *fates: Fate) -> None:
    """Do one operation. The server treats its requests as `fates` say."""
    if name in SETTLES:
        message = received(server, session)
        server.next(*fates)
        SETTLES[name](session, message)
    else:
        server.next(*fates)
        ON_LOCK[name](session)
