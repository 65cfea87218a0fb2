"""The official SDK as a client of the stand-in: helpers for the tests that check the stand-in with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proton import Message

from tests.support.sdk import close_aside, message, receive, send, session, wait_for_closings

if TYPE_CHECKING:
    from tests.standin import StandIn

__all__ = ["close_aside", "message", "put", "receive", "send", "session", "wait_for_closings"]


def put(namespace: StandIn, queue: str, *messages: tuple[str, str | None]) -> None:
    """Add messages to a queue without the SDK: pairs of a body, which is also the message id, and a session id."""
    made = [Message(body.encode(), id=body, group_id=session_id, inferred=True) for body, session_id in messages]
    namespace.put(queue, [each.encode() for each in made])
