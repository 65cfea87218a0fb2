"""The operations of `$management`, under Azure's names. `requests` calls `perform`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proton import UNDESCRIBED, Array, Data, int32, symbol, timestamp

from tests.standin import wire
from tests.standin.boxes import DEFERRED, Box, Message, lock_token
from tests.standin.links import encoded
from tests.standin.refusal import Refusal
from tests.standin.state import Queue

if TYPE_CHECKING:
    from tests.standin.connection import Peer
    from tests.standin.server import StandIn

__all__ = ["perform", "symbol"]

Answer = tuple[int, Any]
_NOTHING: Answer = (204, None)
_MAX_DATE = 253402300800000


class _Call:
    """One request and where it came from."""

    def __init__(self, server: StandIn, queue: Queue | str, peer: Peer, asked: dict[str, Any]) -> None:
        self.server, self.entity, self.peer, self.asked = server, queue, peer, asked

    @property
    def queue(self) -> Queue:
        if isinstance(self.entity, str):
            raise Refusal("amqp:not-allowed", "A topic has no messages of its own.")
        return self.entity

    def session(self) -> Box:
        """Return the named session.

        Raises:
            Refusal: This connection does not hold the session.
        """
        box = self.queue.boxes.get(self.asked.get("session-id"))
        if box is None or box.holder is None or getattr(box.holder, "peer", None) is not self.peer:
            text = "The session lock has expired on the session. Accept a new session."
            raise Refusal("com.microsoft:session-lock-lost", text, 410)
        return box

    def tokens(self) -> list[bytes]:
        return [token.bytes_le for token in _list(self.asked["lock-tokens"])]


def _list(values: Any) -> list[Any]:
    return list(values.elements) if isinstance(values, Array) else list(values)


def _array(kind: int, values: list[Any]) -> Array:
    return Array(UNDESCRIBED, kind, *values)


def _renew_session_lock(call: _Call) -> Answer:
    until = call.queue.renew(call.session())
    return 200, {"expiration": timestamp(int(until * 1000))}


def _get_session_state(call: _Call) -> Answer:
    return 200, {"session-state": call.session().state}


def _set_session_state(call: _Call) -> Answer:
    box = call.session()
    state = call.asked.get("session-state")
    box.state = None if state is None else bytes(state)
    box.state_set = call.queue.clock.now()
    return 200, None


def _peek(call: _Call) -> Answer:
    asked, queue = call.asked, call.queue
    order = queue.order
    if asked.get("session-id") is not None:
        box = queue.boxes.get(asked["session-id"])
        if box is None:
            return _NOTHING
        order = box.order
    # Azure peeks in one partition at a time, and returns one message.
    most = 1 if queue.options.partitioned else int(asked["message-count"])
    found = []
    for message in order.since(int(asked.get("from-sequence-number", 0))):
        if len(found) >= most:
            break
        found.append({"message": message.encode(locked=False, state=True)})
    return (200, {"messages": found}) if found else _NOTHING


def _receive_by_number(call: _Call) -> Answer:
    asked, queue = call.asked, call.queue
    if queue.sessions:
        call.session()
    messages: list[Message] = []
    for number in _list(asked["sequence-numbers"]):
        message = queue.order.messages.get(number)
        if message is None or message.state != DEFERRED or message.token is not None:
            raise Refusal("com.microsoft:message-not-found", f"Failed to lock message {number}: it was not found.", 404)
        messages.append(message)
    found = []
    for message in messages:
        token = queue.lock(message)
        if int(asked.get("receiver-settle-mode", 1)) == 0:
            found.append({"message": message.encode(locked=False, state=True)})
            queue.complete(token)
        else:
            found.append({"message": message.encode(state=True), "lock-token": lock_token(token)})
    return (200, {"messages": found}) if found else _NOTHING


def _update_disposition(call: _Call) -> Answer:
    asked, queue = call.asked, call.queue
    if queue.sessions and asked.get("session-id") is not None:
        call.session()
    status, changes = asked["disposition-status"], encoded(asked.get("properties-to-modify"))
    tokens = call.tokens()
    for token in tokens:
        queue.find(token)
    for token in tokens:
        if status == "completed":
            queue.complete(token)
        elif status == "abandoned":
            queue.abandon(token, changes)
        elif status == "defered":
            queue.defer(token, changes)
        elif status == "suspended":
            queue.dead_letter_message(token, asked.get("deadletter-reason"), asked.get("deadletter-description"), changes)
        else:
            raise Refusal("com.microsoft:argument-error", f"Unknown disposition status {status}.")
    return 200, None


def _renew_lock(call: _Call) -> Answer:
    expirations = [timestamp(int(call.queue.renew_message(token) * 1000)) for token in call.tokens()]
    return 200, {"expirations": _array(Data.TIMESTAMP, expirations)}


def _schedule(call: _Call) -> Answer:
    name = call.entity if isinstance(call.entity, str) else call.entity.name
    contents = [wire.parse(bytes(each["message"])) for each in call.asked["messages"]]
    numbers = call.server.enqueue(name, contents)
    return 200, {"sequence-numbers": _array(Data.LONG, numbers)}


def _cancel(call: _Call) -> Answer:
    for number in _list(call.asked["sequence-numbers"]):
        call.queue.cancel(number)
    return 200, None


def _sessions(call: _Call) -> Answer:
    asked = call.asked
    since = int(asked["last-updated-time"])
    names = call.queue.session_ids(None if since >= _MAX_DATE else since / 1000)
    skip = int(asked["skip"])
    page = names[skip : skip + min(int(asked["top"]), call.queue.options.session_page)]
    return (200, {"skip": int32(skip + len(page)), "sessions-ids": _array(Data.STRING, page)}) if page else _NOTHING


_OPERATIONS: dict[str, Callable[[_Call], Answer]] = {
    "renew-session-lock": _renew_session_lock,
    "get-session-state": _get_session_state,
    "set-session-state": _set_session_state,
    "peek-message": _peek,
    "receive-by-sequence-number": _receive_by_number,
    "update-disposition": _update_disposition,
    "renew-lock": _renew_lock,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
    "get-message-sessions": _sessions,
}


def perform(server: StandIn, queue: Queue | str, peer: Peer, operation: str, body: Any) -> Answer:
    """Perform a request; return the status code and body of its response.

    Raises:
        Refusal: The operation is unknown, malformed or refused.
    """
    if operation not in _OPERATIONS:
        raise Refusal("amqp:not-implemented", f"The operation {operation} is not supported.", 501)
    server.requests[operation] += 1
    try:
        return _OPERATIONS[operation](_Call(server, queue, peer, body if isinstance(body, dict) else {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refusal("com.microsoft:argument-error", f"A malformed request for {operation}: {error!r}") from error
    finally:
        server.dirty(peer)
