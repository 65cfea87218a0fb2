"""Readers for the responses to requests that take two steps at once. `combined_operations` gives one to each `Call`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..messages import ReceivedMessage
from ..protocol.combined import decode_combined
from ..protocol.routes import route_of
from ..protocol.wire import MalformedError
from ..validation import check_session_id
from .call import ServerResponse, SessionTarget
from .responses import (
    LockGrant,
    checked,
    decoded_messages,
    failed_settlements,
    own_messages,
    read_lock,
    read_object,
)


def read_accepted(
    response: ServerResponse, entity: str, session_id: str | None, lock_id: str, session_timeout: float
) -> LockGrant | None:
    """Return the lock of an accepted session with its first messages, or `None` if no session was available.

    Args:
        response: The response.
        entity: The queue.
        session_id: The session that was asked for. `None` if any session was.
        lock_id: The lock id.
        session_timeout: Seconds that the lock lasts if the server does not say.
    """
    if response.status == 204:
        return None
    result, items = _parts(response)
    name = checked(check_session_id, result.get("SessionId"))
    if session_id is not None and name != session_id:
        raise MalformedError("the response is about another session")
    grant = read_lock(response, name)
    session = SessionTarget(entity, name, lock_id, route_of(lock_id))
    return grant.with_messages(_messages(response, items, session, grant.seconds_left(session_timeout)) or ())


def read_settled_and_received(
    response: ServerResponse, session: SessionTarget, session_timeout: float
) -> tuple[dict[str, str], LockGrant | None]:
    """Return the error codes of failed settlements, by lock token, and the received messages.

    The second part is `None` if nothing was received: a settlement failed, or the server only settles.
    """
    result, items = _parts(response)
    failed = failed_settlements(result)
    grant = read_lock(response, session.session_id)
    messages = None if failed else _messages(response, items, session, grant.seconds_left(session_timeout))
    return failed, None if messages is None else grant.with_messages(messages)


def read_settled_and_released(response: ServerResponse) -> dict[str, str]:
    """Return the error codes of failed settlements, by lock token."""
    if response.status == 204:
        # An older gateway ignores the settlements.
        raise MalformedError("the server released the session without saying whether the messages are settled")
    return failed_settlements(read_object(response))


def _parts(response: ServerResponse) -> tuple[Mapping[str, Any], list[dict[str, Any]] | None]:
    """Return the object of a response, and the fields of its messages. In this process they are not encoded."""
    return (read_object(response), None) if response.messages is not None else decode_combined(response.body)


def _messages(
    response: ServerResponse, items: list[dict[str, Any]] | None, session: SessionTarget, seconds_left: float
) -> list[ReceivedMessage] | None:
    if response.messages is not None:
        return own_messages(response.messages, session, seconds_left)
    return None if items is None else decoded_messages(items, session, seconds_left)
