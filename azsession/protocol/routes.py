"""The paths and queries of the protocol. The client builds them, the gateway parses them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, unquote

import attrs

from ..errors import ValidationError
from ..validation import MAX_SEQUENCE_NUMBER, check_queue_name, check_session_id


class Operation(Enum):
    """The operation that a request asks for."""

    RECEIVE = "receive"
    COMPLETE = "complete"
    ABANDON = "abandon"
    DEAD_LETTER = "dead-letter"
    RENEW = "renew"
    ACCEPT = "accept"
    SETTLE = "settle"
    DEFER = "defer"
    RECEIVE_DEFERRED = "receive-deferred"
    DEAD_LETTER_SESSION = "dead-letter-session"
    RELEASE = "release"
    GET_STATE = "get-state"
    SET_STATE = "set-state"
    CLEAR_STATE = "clear-state"
    PEEK = "peek"
    LIST_SESSIONS = "list-sessions"
    SEND = "send"
    PEEK_DEAD_LETTERS = "peek-dead-letters"
    RESUBMIT = "resubmit"
    DELETE_DEAD_LETTER = "delete-dead-letter"
    CREATE_QUEUE = "create-queue"
    GET_QUEUE = "get-queue"
    DELETE_QUEUE = "delete-queue"
    LIST_QUEUES = "list-queues"
    HEALTH = "health"
    READY = "ready"
    OPENAPI = "openapi"


@attrs.frozen
class Route:
    """A parsed path.

    Attributes:
        operation: The operation.
        entity: The queue or subscription, or "" for an operation on the namespace.
        session_id: The session, or "".
        lock_token: The lock token of the message to settle, or "".
        sequence_number: The sequence number of the dead letter, or 0.
    """

    operation: Operation
    entity: str = ""
    session_id: str = ""
    lock_token: str = ""
    sequence_number: int = 0

    @property
    def resource(self) -> tuple[str, ...]:
        """The decoded segments of the path, with the session id as one segment. A token's ``sr`` is compared with them."""
        segments = tuple(self.entity.split("/")) if self.entity else ()
        return (*segments, "sessions", self.session_id) if self.session_id else segments


_TOKEN = "{token}"
_GUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z"
_SOME_GUID = "00000000-0000-0000-0000-000000000000"
#: The longest path, in characters, whose result is cached.
_SHORT = 400

#: The segments after the session id and their operation, by method. Longer forms come first.
_SESSION_FORMS: dict[str, list[tuple[tuple[str, ...], Operation]]] = {
    "DELETE": [
        (("messages", "head"), Operation.RECEIVE),
        (("messages", _TOKEN), Operation.COMPLETE),
        (("state",), Operation.CLEAR_STATE),
    ],
    "PUT": [(("messages", _TOKEN), Operation.ABANDON), (("state",), Operation.SET_STATE)],
    "GET": [(("messages",), Operation.PEEK), (("state",), Operation.GET_STATE)],
    "POST": [
        (("messages", _TOKEN, "$deadletter"), Operation.DEAD_LETTER),
        (("messages", _TOKEN, "$defer"), Operation.DEFER),
        (("messages", "$settle"), Operation.SETTLE),
        (("messages", "$deferred"), Operation.RECEIVE_DEFERRED),
        (("$deadletter",), Operation.DEAD_LETTER_SESSION),
        (("renewlock",), Operation.RENEW),
        (("release",), Operation.RELEASE),
    ],
}


#: The paths without a queue. A queue with such a name cannot be read by GET.
_OPEN = {"healthz": Operation.HEALTH, "readyz": Operation.READY, "openapi.json": Operation.OPENAPI}


class NoRouteError(Exception):
    """The protocol has no such path, or not with this method.

    Attributes:
        allowed: The methods that the path has, or () for an unknown path.
    """

    def __init__(self, message: str, *, allowed: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.allowed: tuple[str, ...] = tuple(allowed)


def parse_route(method: str, path: str, *, encoded: bool) -> Route:
    """Parse the path of a request.

    Args:
        method: The HTTP method.
        path: The path, without the query.
        encoded: `True`: `path` is percent-encoded, as the client sent it. Every session id is then exact. `False`: the HTTP
            server decoded it. A session id with slashes then spans several segments, and is found by matching the path from
            both ends.

    Raises:
        ValidationError: A name or an id in the path is malformed.
        NoRouteError: The protocol has no such path.
    """
    if len(path) > _SHORT:
        return _parse(method, path, encoded)
    head, _, last = path.rpartition("/")
    if not re.match(_GUID, last):
        return _parse_known(method, path, encoded)
    # Probably a lock token, which differs in each request. Cache the result for the rest of the path.
    route = _parse_known(method, f"{head}/{_SOME_GUID}", encoded)
    if route.lock_token != _SOME_GUID:
        return _parse(method, path, encoded)
    return Route(route.operation, route.entity, route.session_id, last)


def _parse(method: str, path: str, encoded: bool) -> Route:
    if not path.startswith("/"):
        raise ValidationError("the path must begin with '/'")
    segments = path[1:].split("/")
    if encoded:
        try:
            segments = [unquote(segment, errors="strict") for segment in segments]
        except UnicodeDecodeError:
            raise ValidationError("the path must be percent-encoded UTF-8") from None
    if segments == [""]:
        return _only(method, {"GET": Route(Operation.LIST_QUEUES)})
    if len(segments) == 1 and segments[0] in _OPEN and method in ("GET", "HEAD"):
        return Route(_OPEN[segments[0]])
    length = 3 if len(segments) >= 3 and segments[1].lower() == "subscriptions" else 1
    entity, rest = check_queue_name("/".join(segments[:length])), segments[length:]
    if not rest:
        queue_operations = {
            "PUT": Operation.CREATE_QUEUE,
            "GET": Operation.GET_QUEUE,
            "DELETE": Operation.DELETE_QUEUE,
        }
        return _only(method, {name: Route(operation, entity) for name, operation in queue_operations.items()})
    if rest == ["messages"]:
        return _only(method, {"POST": Route(Operation.SEND, entity)})
    if rest[0] == "$deadletterqueue":
        return _parse_dead_letters(method, entity, rest[1:])
    if rest == ["sessions"]:
        return _only(method, {"POST": Route(Operation.ACCEPT, entity), "GET": Route(Operation.LIST_SESSIONS, entity)})
    if rest[0] == "sessions":
        return _parse_session(method, entity, rest[1:], encoded)
    raise NoRouteError("the session protocol has no such path")


_parse_known = lru_cache(1024)(_parse)


def _only(method: str, routes: dict[str, Route]) -> Route:
    if method not in routes:
        raise NoRouteError(f"the method {method} is not allowed for this path", allowed=routes)
    return routes[method]


def _parse_dead_letters(method: str, entity: str, rest: list[str]) -> Route:
    if rest == ["messages"]:
        return _only(method, {"GET": Route(Operation.PEEK_DEAD_LETTERS, entity)})
    if rest[:1] == ["messages"] and len(rest) in (2, 3):
        if not re.fullmatch(r"[0-9]{1,19}", rest[1]) or int(rest[1]) > MAX_SEQUENCE_NUMBER:
            raise ValidationError(
                f"a sequence number must be a whole number from 0 to {MAX_SEQUENCE_NUMBER}, not {rest[1][:80]!r}"
            )
        number = int(rest[1])
        if len(rest) == 2:
            return _only(method, {"DELETE": Route(Operation.DELETE_DEAD_LETTER, entity, sequence_number=number)})
        if rest[2] == "resubmit":
            return _only(method, {"POST": Route(Operation.RESUBMIT, entity, sequence_number=number)})
    raise NoRouteError("the session protocol has no such path")


def _parse_session(method: str, entity: str, tail: list[str], encoded: bool) -> Route:
    route = _match_session(method, entity, tail, encoded)
    if route is not None:
        return route
    allowed = [name for name in _SESSION_FORMS if _match_session(name, entity, tail, encoded) is not None]
    if allowed:
        raise NoRouteError(f"the method {method} is not allowed for this path", allowed=allowed)
    raise NoRouteError("the session protocol has no such path")


def _match_session(method: str, entity: str, tail: list[str], encoded: bool) -> Route | None:
    forms = _SESSION_FORMS.get(method, [])
    for exact in (True, False):
        for suffix, operation in forms:
            at = len(tail) - len(suffix)
            if at < 1 or (exact and at != 1):
                continue
            token = ""
            for part, wanted in zip(tail[at:], suffix, strict=True):
                if wanted == _TOKEN and part and ((exact and encoded) or re.match(_GUID, part)):
                    token = part
                elif part != wanted:
                    break
            else:
                return Route(operation, entity, check_session_id("/".join(tail[:at])), token)
    return None


@lru_cache(1024)
def session_path(entity: str, session_id: str) -> str:
    """Return the path of a session. The operations append their own segments."""
    return f"/{quote(entity)}/sessions/{quote(session_id, safe='')}"


def route_of(lock_id: str) -> str:
    """Return the `ROUTE_HEADER` for a lock id: its first characters, which are too few to hold the lock with."""
    return lock_id[:8]


def message_path(lock_token: str) -> str:
    """Return the segments after a session's path for the message with this lock token."""
    return f"/messages/{quote(lock_token, safe='')}"


def format_timeout(timeout: float) -> str:
    """Return seconds for the query: a whole number, or with up to three decimals."""
    rounded = round(timeout, 3)
    return str(int(rounded)) if rounded == int(rounded) else f"{rounded:.3f}".rstrip("0")
