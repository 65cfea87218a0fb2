"""The requests of the protocol, as `Call`s: which route, which headers, and what is read from the answer.

`SessionClient` and `ServiceBusProvider` make their calls here and send them with `Transport`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import attrs

from ..messages import PeekedMessage, ReceivedMessage, SessionInfo
from ..protocol import (
    ENVELOPE_TYPE,
    JSON_TYPE,
    LOCK_HELD_HEADER,
    LOCK_ID_HEADER,
    REQUEST_ID_HEADER,
    ROUTE_HEADER,
)
from ..protocol.error_codes import ABOUT_QUEUE, ABOUT_RECEIPT, ABOUT_SESSION
from ..protocol.routes import format_timeout, message_path, route_of, session_path
from ..protocol.wire import MalformedError
from ..validation import check_session_id
from .call import Answer, Call
from .redacted import Hidden
from .responses import LockAnswer, checked, read_items, read_lock, read_messages, read_object, read_peeked, read_sessions

T = TypeVar("T")

#: Bytes that the answer may have which brings a message, and for each further one.
MESSAGE_ROOM, FURTHER_ROOM = 160 * 1024 * 1024, 2 * 1024 * 1024


@attrs.frozen
class Session:
    """Which session a call is about, as the server knows it."""

    entity: str
    session_id: str
    lock_id: str = attrs.field(repr=False)
    route: str

    @property
    def path(self) -> str:
        return session_path(self.entity, self.session_id)

    def headers(self) -> dict[str, str]:
        """Return the headers that say who holds the session, and where."""
        return {LOCK_ID_HEADER: self.lock_id, ROUTE_HEADER: self.route}


def _room(count: int) -> int:
    """Return the bytes that an answer with so many messages may have: one as large as Azure's largest, or many as usual."""
    return MESSAGE_ROOM + (count - 1) * FURTHER_ROOM


def _json_body(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def receive(
    session: Session, max_count: int | None, timeout: float, session_timeout: float, request_id: str, *, holds: bool = False
) -> Call[LockAnswer]:
    """Return the call that receives: one message in the plain dialect, or up to `max_count`.

    Whoever `holds` the lock must not be given it anew: another one may have had the session meanwhile.
    """
    limit = "" if max_count is None else f"&max={max_count}"

    def read(answer: Answer) -> LockAnswer:
        if answer.status == 204:
            return read_lock(answer, session.session_id)
        if answer.status not in (200, 201):
            raise MalformedError(f"a receive is not answered {answer.status}")
        found = read_lock(answer, session.session_id)
        lasts = session_timeout if found.lasts is None else found.lasts
        left = found.sent + found.waited + lasts - time.monotonic()
        messages = read_messages(answer, session, left)
        return LockAnswer(found.session_id, messages, found.sent, found.lasts, found.waited)

    return Call(
        method="DELETE",
        path=session.path + "/messages/head",
        entity=session.entity,
        read=read,
        about=ABOUT_SESSION,
        query=lambda wait: f"timeout={format_timeout(wait)}{limit}",
        wait=timeout,
        headers={**session.headers(), REQUEST_ID_HEADER: request_id, **({LOCK_HELD_HEADER: "1"} if holds else {})},
        room=_room(max_count or 1),
    )


def accept(entity: str, session_id: str | None, lock_id: str, timeout: float | None) -> Call[LockAnswer | None]:
    """Return the call that takes the lock of a session, or of the next one available; it gives `None` if none came.

    Without a `timeout` the server does not wait, and the call is tried again as any other is.
    """

    def read(answer: Answer) -> LockAnswer | None:
        if answer.status == 204:
            return None
        name = checked(check_session_id, read_object(answer).get("SessionId"))
        if session_id is not None and name != session_id:
            raise MalformedError("it names another session")
        return read_lock(answer, name)

    return Call(
        method="POST",
        path=f"/{quote(entity)}/sessions",
        entity=entity,
        read=read,
        about=ABOUT_SESSION,
        query=lambda wait: f"timeout={format_timeout(wait)}",
        wait=timeout,
        headers={
            LOCK_ID_HEADER: lock_id,
            ROUTE_HEADER: route_of(lock_id),
            REQUEST_ID_HEADER: str(uuid.uuid4()),
            "Content-Type": JSON_TYPE,
        },
        body=_json_body({} if session_id is None else {"SessionId": session_id}),
    )


def renew(session: Session) -> Call[LockAnswer]:
    """Return the call that renews the session's lock."""
    return Call(
        method="POST",
        path=session.path + "/renewlock",
        entity=session.entity,
        read=lambda answer: read_lock(answer, session.session_id),
        about=ABOUT_SESSION,
        headers=session.headers(),
        repeatable=True,
    )


def release(session: Session) -> Call[None]:
    """Return the call that gives the session's lock back."""
    return _on_session(session, "POST", "/release", ignore)


def complete(session: Session, token: str) -> Call[None]:
    """Return the call that completes a message."""
    return _on_message(session, "DELETE", message_path(token), repeatable=True)


def abandon(session: Session, token: str) -> Call[None]:
    """Return the call that abandons a message."""
    return _on_message(session, "PUT", message_path(token), repeatable=True)


def defer(session: Session, token: str) -> Call[None]:
    """Return the call that defers a message."""
    return _on_message(session, "POST", message_path(token) + "/$defer")


def dead_letter(session: Session, token: str, reason: str, description: str | None) -> Call[None]:
    """Return the call that dead-letters a message."""
    path = message_path(token) + "/$deadletter"
    return _on_message(session, "POST", path, body=_reason(reason, description))


def _reason(reason: str, description: str | None) -> dict[str, str]:
    body = {"DeadLetterReason": reason}
    if description is not None:
        body["DeadLetterErrorDescription"] = description
    return body


def _on_message(session: Session, method: str, path: str, *, body: Any = None, repeatable: bool = False) -> Call[None]:
    return Call(
        method=method,
        path=session.path + path,
        entity=session.entity,
        read=ignore,
        about=ABOUT_RECEIPT,
        headers=session.headers() if body is None else {**session.headers(), "Content-Type": JSON_TYPE},
        body=None if body is None else _json_body(body),
        repeatable=repeatable,
    )


def settle(session: Session, dispositions: Mapping[str, Sequence[Any]]) -> Call[dict[str, str]]:
    """Return the call that settles many messages; it gives the codes of those that could not be, by token."""

    def read(answer: Answer) -> dict[str, str]:
        failed: dict[str, str] = {}
        for item in read_items(answer, "failed"):
            token, code = item.get("LockToken"), item.get("code")
            if not isinstance(token, str) or not isinstance(code, str):
                raise MalformedError("what failed has a LockToken and a code")
            failed[Hidden(token)] = code
        return failed

    return _on_session(session, "POST", "/messages/$settle", read, body=dispositions, about=ABOUT_RECEIPT)


def receive_deferred(session: Session, sequence_numbers: Sequence[int], lasts: float) -> Call[list[ReceivedMessage]]:
    """Return the call that receives deferred messages."""
    body = {"SequenceNumbers": list(sequence_numbers)}
    call = _on_session(
        session, "POST", "/messages/$deferred", lambda answer: read_messages(answer, session, lasts), body=body
    )
    call.room = _room(len(sequence_numbers))
    return call


def dead_letter_session(session: Session, reason: str, description: str | None) -> Call[int]:
    """Return the call that dead-letters what is left in a session; it gives how many messages that were."""

    def read(answer: Answer) -> int:
        count = read_object(answer).get("count")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise MalformedError("it has no count")
        return count

    call = _on_session(session, "POST", "/$deadletter", read, body=_reason(reason, description))
    call.headers = {**call.headers, REQUEST_ID_HEADER: str(uuid.uuid4())}
    return call


def get_state(session: Session) -> Call[bytes | None]:
    """Return the call that reads a session's state."""
    call = _on_session(session, "GET", "/state", lambda answer: None if answer.status == 204 else answer.body)
    call.room = MESSAGE_ROOM
    return call


def set_state(session: Session, state: bytes | None) -> Call[None]:
    """Return the call that sets or clears a session's state."""
    call = _on_session(session, "DELETE" if state is None else "PUT", "/state", ignore)
    if state is not None:
        call.body = state
        call.headers = {**call.headers, "Content-Type": "application/octet-stream"}
    return call


def _on_session(
    session: Session,
    method: str,
    path: str,
    read: Callable[[Answer], T],
    *,
    body: Any = None,
    about: str = ABOUT_SESSION,
) -> Call[T]:
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


def peek(entity: str, session_id: str, start: int, limit: int) -> Call[list[PeekedMessage]]:
    """Return the call that looks at messages of a session."""
    return _looking(entity, f"{session_path(entity, session_id)}/messages", start, limit)


def dead_letters(entity: str, start: int, limit: int) -> Call[list[PeekedMessage]]:
    """Return the call that looks at a queue's dead letters."""
    return _looking(entity, f"/{quote(entity)}/$deadletterqueue/messages", start, limit)


def _looking(entity: str, path: str, start: int, limit: int) -> Call[list[PeekedMessage]]:
    return Call(
        method="GET",
        path=path,
        entity=entity,
        read=read_peeked,
        about=ABOUT_QUEUE,
        query=lambda _: f"from={start}&max={limit}",
        room=_room(limit),
    )


def list_sessions(entity: str, after: str, limit: int) -> Call[list[SessionInfo]]:
    """Return the call that lists sessions behind `after`."""
    behind = f"&after={quote(after, safe='')}" if after else ""
    return Call(
        method="GET",
        path=f"/{quote(entity)}/sessions",
        entity=entity,
        read=read_sessions,
        query=lambda _: f"max={limit}{behind}",
    )


def send(entity: str, envelope: bytes) -> Call[None]:
    """Return the call that sends an envelope of messages."""
    return Call(
        method="POST",
        path=f"/{quote(entity)}/messages",
        entity=entity,
        read=ignore,
        headers={"Content-Type": ENVELOPE_TYPE, REQUEST_ID_HEADER: str(uuid.uuid4())},
        body=envelope,
    )


def on_entity(
    method: str,
    entity: str,
    path: str = "",
    *,
    read: Callable[[Answer], T],
    body: Any = None,
    gone_is_done: bool = False,
) -> Call[T]:
    """Return a call on a queue, its dead letters, or (with no entity) on the namespace."""
    return Call(
        method=method,
        path=f"/{quote(entity)}{path}",
        entity=entity,
        read=read,
        headers={} if body is None else {"Content-Type": JSON_TYPE},
        body=None if body is None else _json_body(body),
        gone_is_done=gone_is_done,
    )


def ignore(answer: Answer) -> None:
    """Read nothing from an answer but its success."""
