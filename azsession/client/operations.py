"""The operations of the protocol: one function for each, which returns its `Call`.

A function names the route, the headers and the body of its request, and the reader of `responses` for the answer.
`SessionClient` and `ServiceBusProvider` call these functions and send the result with `Transport`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from ..messages import PeekedMessage, ReceivedMessage, SessionInfo
from ..protocol import (
    CLIENT_HEADER,
    ENVELOPE_TYPE,
    JSON_TYPE,
    LOCK_HELD_HEADER,
    LOCK_ID_HEADER,
    REQUEST_ID_HEADER,
    ROUTE_HEADER,
)
from ..protocol.error_codes import ABOUT_QUEUE, ABOUT_RECEIPT, ABOUT_SESSION
from ..protocol.routes import entity_path, format_timeout, is_fragile, message_path, route_of, session_path
from .call import MAX_RESPONSE_SIZE, Call, ServerResponse, SessionTarget
from .client_name import client_name
from .combined_responses import read_accepted
from .ids import new_id, new_ordered_id
from .responses import (
    LockGrant,
    read_count,
    read_failed_settlements,
    read_lock,
    read_messages,
    read_nothing,
    read_peeked,
    read_received,
    read_sessions,
    read_state,
)

T = TypeVar("T")

#: The largest body, in bytes, of a response with one message: Azure's largest message, encoded. And for each further message.
MESSAGE_RESPONSE_SIZE, FURTHER_MESSAGE_SIZE = 160 * 1024 * 1024, 2 * 1024 * 1024


# A session's lock


def receive(
    session: SessionTarget,
    max_count: int | None,
    timeout: float,
    session_timeout: float,
    request_id: str,
    *,
    has_lock: bool = False,
    taken: int | None = None,
) -> Call[LockGrant]:
    """Return the call that receives messages and takes or extends the lock.

    Args:
        session: The session.
        max_count: The largest number of messages. `None` receives one message in the plain dialect.
        timeout: Seconds that the server waits for a message.
        session_timeout: Seconds that the lock lasts if the server does not say.
        request_id: The value of ``Azsession-Request-Id``.
        has_lock: The caller already has the lock. If it lost the lock, the server must not grant it again.
        taken: Messages that the caller uses at once. Those behind them are fetched ahead. `None`: all.
    """
    parameters = "".join(f"&{name}={value}" for name, value in (("max", max_count), ("taken", taken)) if value is not None)
    headers = {**session.headers(), REQUEST_ID_HEADER: request_id, CLIENT_HEADER: client_name()}
    if has_lock:
        headers[LOCK_HELD_HEADER] = "1"
    return Call(
        method="DELETE",
        path=session.path + "/messages/head",
        entity=session.entity,
        read=lambda response: read_received(response, session, session_timeout),
        about=ABOUT_SESSION,
        query=lambda wait: f"timeout={format_timeout(wait)}{parameters}",
        wait=timeout,
        headers=headers,
        max_response_size=size_of(max_count or 1),
    )


def accept(
    entity: str,
    session_id: str | None,
    lock_id: str,
    timeout: float | None,
    session_timeout: float,
    *,
    max_count: int | None = None,
) -> Call[LockGrant | None]:
    """Return the call that takes the lock of a session. Its result is `None` if no session was available.

    Args:
        entity: The queue.
        session_id: The session. `None` takes the next session that has messages.
        lock_id: The lock id to take it under.
        timeout: Seconds that the server waits for a session. `None`: it does not wait, and retries are not bounded by a wait.
        session_timeout: Seconds that the lock lasts if the server does not say.
        max_count: The largest number of messages to receive with the lock, from a server that has the extension `COMBINED`.
            The caller uses the first at once. The others are fetched ahead. `None`: no message.
    """
    parameters = "" if max_count is None else f"&max={max_count}&taken=1"
    return Call(
        method="POST",
        path=f"{entity_path(entity)}/sessions",
        entity=entity,
        read=lambda response: read_accepted(response, entity, session_id, lock_id, session_timeout),
        about=ABOUT_SESSION,
        query=lambda wait: f"timeout={format_timeout(wait)}{parameters}",
        wait=timeout,
        headers={
            LOCK_ID_HEADER: lock_id,
            ROUTE_HEADER: route_of(lock_id),
            REQUEST_ID_HEADER: new_id(),
            CLIENT_HEADER: client_name(),
            "Content-Type": JSON_TYPE,
        },
        body=_json_body({} if session_id is None else {"SessionId": session_id}),
        max_response_size=MAX_RESPONSE_SIZE if max_count is None else size_of(max_count),
    )


def renew(session: SessionTarget) -> Call[LockGrant]:
    """Return the call that renews the lock."""
    call = session_call(session, "POST", "/renewlock", lambda response: read_lock(response, session.session_id))
    call.repeatable = True
    return call


def release(session: SessionTarget) -> Call[None]:
    """Return the call that releases the lock."""
    return session_call(session, "POST", "/release", read_nothing)


# Settlement


def complete(session: SessionTarget, token: str) -> Call[None]:
    """Return the call that completes a message."""
    call = _settlement(session, "DELETE", message_path(token))
    call.repeatable, call.completes = True, (session, token)
    return call


def abandon(session: SessionTarget, token: str, delay: float = 0.0) -> Call[None]:
    """Return the call that abandons a message, and holds its session back for `delay` seconds."""
    call = _settlement(session, "PUT", message_path(token))
    if delay:
        call.query = lambda _: f"delay={format_timeout(delay)}"
    call.repeatable = True
    return call


def defer(session: SessionTarget, token: str) -> Call[None]:
    """Return the call that defers a message."""
    return _settlement(session, "POST", message_path(token) + "/$defer")


def dead_letter(session: SessionTarget, token: str, reason: str, description: str | None) -> Call[None]:
    """Return the call that dead-letters a message."""
    return _settlement(session, "POST", message_path(token) + "/$deadletter", reason_body(reason, description))


def settle(session: SessionTarget, dispositions: Mapping[str, Sequence[str]]) -> Call[dict[str, str]]:
    """Return the call that settles many messages. Its result is the error codes of those that failed, by lock token.

    Args:
        session: The session.
        dispositions: For example ``{"complete": [token, token]}``.
    """
    return session_call(session, "POST", "/messages/$settle", read_failed_settlements, body=dispositions, about=ABOUT_RECEIPT)


def _settlement(session: SessionTarget, method: str, path: str, body: Mapping[str, str] | None = None) -> Call[None]:
    return session_call(session, method, path, read_nothing, body=body, about=ABOUT_RECEIPT)


def reason_body(reason: str, description: str | None) -> dict[str, str]:
    """Return the reason and the description of a dead letter as a request has them."""
    body = {"DeadLetterReason": reason}
    if description is not None:
        body["DeadLetterErrorDescription"] = description
    return body


# Other operations on a session that the caller holds


def receive_deferred(
    session: SessionTarget, sequence_numbers: Sequence[int], seconds_left: float
) -> Call[list[ReceivedMessage]]:
    """Return the call that receives deferred messages.

    Args:
        session: The session.
        sequence_numbers: The messages.
        seconds_left: Seconds until the lock expires.
    """
    call = session_call(
        session,
        "POST",
        "/messages/$deferred",
        lambda response: read_messages(response, session, seconds_left),
        body={"SequenceNumbers": list(sequence_numbers)},
    )
    call.max_response_size = size_of(len(sequence_numbers))
    return call


def dead_letter_session(session: SessionTarget, reason: str, description: str | None) -> Call[int]:
    """Return the call that dead-letters the rest of a session. Its result is the number of messages."""
    call = session_call(session, "POST", "/$deadletter", read_count, body=reason_body(reason, description))
    call.headers = {**call.headers, REQUEST_ID_HEADER: new_id()}
    return call


def get_state(session: SessionTarget) -> Call[bytes | None]:
    """Return the call that reads the state of a session."""
    call = session_call(session, "GET", "/state", read_state)
    call.max_response_size = MESSAGE_RESPONSE_SIZE
    return call


def set_state(session: SessionTarget, state: bytes | None) -> Call[None]:
    """Return the call that sets the state of a session. `None` deletes it."""
    if state is None:
        return session_call(session, "DELETE", "/state", read_nothing)
    call = session_call(session, "PUT", "/state", read_nothing)
    call.body = state
    call.headers = {**call.headers, "Content-Type": "application/octet-stream"}
    return call


def session_call(
    session: SessionTarget,
    method: str,
    path: str,
    read: Callable[[ServerResponse], T],
    *,
    body: Mapping[str, Any] | None = None,
    about: str = ABOUT_SESSION,
) -> Call[T]:
    """Return a call about a session. `path` follows the session's path, and `body` is sent as JSON."""
    headers = session.headers()
    if body is not None:
        headers["Content-Type"] = JSON_TYPE
    return Call(
        method=method,
        path=session.path + path,
        entity=session.entity,
        read=read,
        about=about,
        headers=headers,
        body=None if body is None else _json_body(body),
    )


# Operations on a queue


def send(entity: str, envelope: bytes) -> Call[None]:
    """Return the call that sends messages.

    Args:
        entity: The queue.
        envelope: The messages, as a JSON array.
    """
    return Call(
        method="POST",
        path=f"{entity_path(entity)}/messages",
        entity=entity,
        read=read_nothing,
        headers={"Content-Type": ENVELOPE_TYPE, REQUEST_ID_HEADER: new_ordered_id()},
        body=envelope,
    )


def list_sessions(entity: str, after: str | None, limit: int) -> Call[list[SessionInfo]]:
    """Return the call that lists up to `limit` sessions: those whose ids come after `after`, or the first ones."""
    after_parameter = "" if after is None else f"&after={quote(after, safe='')}"
    return Call(
        method="GET",
        path=f"{entity_path(entity)}/sessions",
        entity=entity,
        read=read_sessions,
        query=lambda _: f"max={limit}{after_parameter}",
    )


def peek(entity: str, session_id: str | None, start: int, limit: int) -> Call[list[PeekedMessage]]:
    """Return the call that peeks at up to `limit` messages, of one session if given, from the sequence number `start`."""
    if session_id is None:
        return _peek_call(entity, f"{entity_path(entity)}/messages", start, limit)
    path = session_path(entity, session_id, escaped=is_fragile(session_id))
    return _peek_call(entity, f"{path}/messages", start, limit)


def dead_letters(entity: str, start: int, limit: int, session_id: str | None = None) -> Call[list[PeekedMessage]]:
    """Return the call that peeks at up to `limit` dead letters, of one session if given, from the sequence number `start`."""
    more = "" if session_id is None else f"&session={quote(session_id, safe='')}"
    return _peek_call(entity, f"{entity_path(entity)}/$deadletterqueue/messages", start, limit, more)


def _peek_call(entity: str, path: str, start: int, limit: int, more: str = "") -> Call[list[PeekedMessage]]:
    return Call(
        method="GET",
        path=path,
        entity=entity,
        read=read_peeked,
        about=ABOUT_QUEUE,
        query=lambda _: f"from={start}&max={limit}{more}",
        max_response_size=size_of(limit),
    )


def resubmit(entity: str, sequence_number: int) -> Call[None]:
    """Return the call that moves a dead letter to the end of its session."""
    call = queue_call("POST", entity, read_nothing, path=f"/$deadletterqueue/messages/{sequence_number}/resubmit")
    call.missing_is_success = True
    return call


def delete_dead_letter(entity: str, sequence_number: int) -> Call[None]:
    """Return the call that deletes a dead letter."""
    call = queue_call("DELETE", entity, read_nothing, path=f"/$deadletterqueue/messages/{sequence_number}")
    call.missing_is_success = True
    return call


def check_health() -> Call[None]:
    """Return the call that asks the server whether it lives. Its response shows which dialect the server speaks."""
    return Call(method="GET", path="/healthz", entity="", read=read_nothing, repeatable=True)


def queue_call(
    method: str,
    entity: str,
    read: Callable[[ServerResponse], T],
    *,
    path: str = "",
    body: Mapping[str, Any] | None = None,
) -> Call[T]:
    """Return a call about a queue. `path` follows the queue's path, and `body` is sent as JSON."""
    return Call(
        method=method,
        path=f"{entity_path(entity)}{path}",
        entity=entity,
        read=read,
        headers={} if body is None else {"Content-Type": JSON_TYPE},
        body=None if body is None else _json_body(body),
    )


def size_of(count: int) -> int:
    """Return the largest body, in bytes, of a response with up to `count` messages."""
    return MESSAGE_RESPONSE_SIZE + (count - 1) * FURTHER_MESSAGE_SIZE


def _json_body(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
