"""The paths and queries of the protocol. The client builds them, the gateway parses them.

A path cannot carry every name as it is: servers and proxies remove empty and dot segments, and refuse control characters.
Such a session id is written in the escaped form, ``$sessions/~BASE64URL``. A segment of an entity that would mean something
else, such as ``messages``, is written with a tilde in front.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
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
    PEEK_QUEUE = "peek-queue"
    LIST_SESSIONS = "list-sessions"
    SEND = "send"
    SCHEDULE = "schedule"
    CANCEL_SCHEDULED = "cancel-scheduled"
    PURGE = "purge"
    PURGE_SESSION = "purge-session"
    PEEK_DEAD_LETTERS = "peek-dead-letters"
    RESUBMIT = "resubmit"
    DELETE_DEAD_LETTER = "delete-dead-letter"
    CREATE_QUEUE = "create-queue"
    GET_QUEUE = "get-queue"
    QUEUE_STATISTICS = "queue-statistics"
    DELETE_QUEUE = "delete-queue"
    LIST_QUEUES = "list-queues"
    HEALTH = "health"
    READY = "ready"
    OPENAPI = "openapi"
    METRICS = "metrics"
    BACKUP = "backup"

    # The hash of `Enum` is a function in Python, and each request looks for its operation in several tables.
    __hash__: Callable[[Operation], int] = object.__hash__  # type: ignore[assignment]  # For mypy, it is a bound method.


@attrs.frozen
class Route:
    """A parsed path.

    Attributes:
        operation: The operation.
        entity: The queue or subscription, or "" for an operation on the namespace.
        session_id: The session, or "" for an operation that is not about one session.
        lock_token: The lock token of the message to settle, or "".
        sequence_number: The sequence number of the dead letter, or 0.
    """

    operation: Operation
    entity: str = ""
    session_id: str = ""
    lock_token: str = ""
    sequence_number: int = 0

    @property
    def is_on_session(self) -> bool:
        """Whether the operation is about the session `session_id`, whose id can be empty."""
        return self.operation in _ON_SESSIONS

    @property
    def resource(self) -> tuple[str, ...]:
        """The decoded segments of the path, with the session id as one segment. A token's ``sr`` is compared with them.

        The entity is written as `entity_path` writes it: a token for a session must not be one for another queue.
        """
        if self.operation is Operation.METRICS:
            return (METRICS_PATH[1:],)
        segments = tuple(_marked_segments(self.entity)) if self.entity else ()
        return (*segments, "sessions", self.session_id) if self.is_on_session else segments


_TOKEN = "{token}"
_is_guid = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
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
        (("messages", "$purge"), Operation.PURGE_SESSION),
        (("$deadletter",), Operation.DEAD_LETTER_SESSION),
        (("renewlock",), Operation.RENEW),
        (("release",), Operation.RELEASE),
    ],
}


#: The operations on an entity, by the segments after it and by method.
_ON_ENTITY: dict[tuple[str, ...], dict[str, Operation]] = {
    (): {"PUT": Operation.CREATE_QUEUE, "GET": Operation.GET_QUEUE, "DELETE": Operation.DELETE_QUEUE},
    ("$statistics",): {"GET": Operation.QUEUE_STATISTICS},
    ("sessions",): {"POST": Operation.ACCEPT, "GET": Operation.LIST_SESSIONS},
    ("messages",): {"POST": Operation.SEND, "GET": Operation.PEEK_QUEUE},
    ("messages", "$schedule"): {"POST": Operation.SCHEDULE},
    ("messages", "$cancel"): {"POST": Operation.CANCEL_SCHEDULED},
    ("messages", "$purge"): {"POST": Operation.PURGE},
}
#: How the session id is found: as one segment; else, in a path that the server decoded, as several.
_EXACT, _EXACT_OR_DECODED = (True,), (True, False)
#: The operations on one session.
_ON_SESSIONS = frozenset(operation for forms in _SESSION_FORMS.values() for _, operation in forms)
#: The paths without a queue.
_OPEN = {"healthz": Operation.HEALTH, "readyz": Operation.READY, "openapi.json": Operation.OPENAPI}

#: The path of the metrics. It is Prometheus' usual one. A queue of this name is written with a tilde.
METRICS_PATH = "/metrics"
#: The first segments that are not a queue.
_NO_ENTITY = frozenset({*_OPEN, METRICS_PATH[1:]})
#: The path of a backup. No queue has this name.
BACKUP_PATH = "/$backup"
#: The operations on all queues, by the path without its slash.
_ON_NAMESPACE = {
    "": Operation.LIST_QUEUES,
    BACKUP_PATH[1:]: Operation.BACKUP,
    METRICS_PATH[1:]: Operation.METRICS,
}

#: The segments that end an entity in a path. An entity's first segment, and a subscription's name, can be one of them.
_AFTER_ENTITY = frozenset({"sessions", "$sessions", "messages", "$deadletterqueue", "$statistics"})
#: Marks an escaped session id, and a segment of an entity that would mean something else. No entity has this character.
_ESCAPE = "~"
#: Control characters, which a path cannot carry.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


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
    if not _is_guid(last):
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
    if len(segments) == 1 and segments[0] in _ON_NAMESPACE:
        return _only(method, {"GET": Route(_ON_NAMESPACE[segments[0]])})
    if len(segments) == 1 and segments[0] in _OPEN and method in ("GET", "HEAD"):
        return Route(_OPEN[segments[0]])
    length = _entity_length(segments)
    entity, rest = check_queue_name("/".join(_plain_segments(segments[:length]))), segments[length:]
    operations = _ON_ENTITY.get(tuple(rest))
    if operations is not None:
        return _only(method, {name: Route(operation, entity) for name, operation in operations.items()})
    if rest[0] == "$deadletterqueue":
        return _parse_dead_letters(method, entity, rest[1:])
    if rest[0] == "sessions":
        return _parse_session(method, entity, rest[1:], encoded, _EXACT_OR_DECODED)
    if rest[0] == "$sessions" and len(rest) > 1:
        found = _parse_session(method, entity, ["-", *rest[2:]], encoded, _EXACT)
        return attrs.evolve(found, session_id=_decode_session_id(rest[1]))
    raise NoRouteError("the session protocol has no such path")


def _entity_length(segments: list[str]) -> int:
    """Return how many of the segments of a path are the entity's."""
    for at, segment in enumerate(segments):
        if at and segment in _AFTER_ENTITY:
            return at
        if at and segment.lower() == "subscriptions":
            return min(at + 2, len(segments))
    return len(segments)


def _plain_segments(segments: list[str]) -> list[str]:
    """Return the segments of an entity without the marks that `entity_path` gave them."""
    return [
        part[1:] if part[:1] == _ESCAPE and _must_be_marked(part[1:], at=at) else part for at, part in enumerate(segments)
    ]


@lru_cache(1024)
def _marked_segments(entity: str) -> list[str]:
    segments = entity.split("/")
    return [
        _ESCAPE + part if _must_be_marked(part, at=at) and segments[at - 1].lower() != "subscriptions" else part
        for at, part in enumerate(segments)
    ]


def _must_be_marked(segment: str, *, at: int) -> bool:
    return segment in _AFTER_ENTITY if at else segment in _NO_ENTITY


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


def _parse_session(method: str, entity: str, tail: list[str], encoded: bool, attempts: tuple[bool, ...]) -> Route:
    route = _match_session(method, entity, tail, encoded, attempts)
    if route is not None:
        return route
    allowed = [name for name in _SESSION_FORMS if _match_session(name, entity, tail, encoded, attempts) is not None]
    if allowed:
        raise NoRouteError(f"the method {method} is not allowed for this path", allowed=allowed)
    raise NoRouteError("the session protocol has no such path")


def _match_session(method: str, entity: str, tail: list[str], encoded: bool, attempts: tuple[bool, ...]) -> Route | None:
    """Return the route of the segments from the session id on.

    Args:
        method: The HTTP method.
        entity: The queue or subscription.
        tail: The segments.
        encoded: Whether the path was percent-encoded.
        attempts: Whether the session id is exactly one segment. The attempts are made in this order.
    """
    forms = _SESSION_FORMS.get(method, [])
    for exact in attempts:
        for suffix, operation in forms:
            at = len(tail) - len(suffix)
            if at < 1 or (exact and at != 1):
                continue
            token = ""
            for part, wanted in zip(tail[at:], suffix, strict=True):
                if wanted == _TOKEN and part and ((exact and encoded) or _is_guid(part)):
                    token = part
                elif part != wanted:
                    break
            else:
                return Route(operation, entity, _plain_session_id("/".join(tail[:at])), token)
    return None


def _plain_session_id(session_id: str) -> str:
    if must_be_escaped(session_id):
        raise ValidationError(
            f"a path cannot carry the session id {session_id!r}; version 1 has an escaped form for it, $sessions/~BASE64URL"
        )
    return check_session_id(session_id)


def _decode_session_id(segment: str) -> str:
    """Return the session id of the escaped form: a tilde, and the id in UTF-8 and base64url without padding."""
    try:
        if not segment.startswith(_ESCAPE):
            raise ValueError
        packed = segment[1:].encode("ascii")
        decoded = base64.b64decode(packed + b"=" * (-len(packed) % 4), altchars=b"-_", validate=True).decode()
        if _encode_session_id(decoded) != segment:
            raise ValueError
    except (ValueError, binascii.Error):
        raise ValidationError("the session id after $sessions must be a tilde and base64url without padding") from None
    return check_session_id(decoded)


def _encode_session_id(session_id: str) -> str:
    return _ESCAPE + base64.urlsafe_b64encode(session_id.encode()).decode().rstrip("=")


@lru_cache(1024)
def must_be_escaped(session_id: str) -> bool:
    """Return whether a path cannot carry a session id, so that only the escaped form of version 1 can."""
    return session_id in ("", ".", "..") or _CONTROL.search(session_id) is not None


@lru_cache(1024)
def is_fragile(session_id: str) -> bool:
    """Return whether a proxy that normalizes paths would change a session id, so that the escaped form is safer."""
    # Some proxies read a backslash as a slash.
    return "\\" in session_id or must_be_escaped(session_id) or not {"", ".", ".."}.isdisjoint(session_id.split("/"))


@lru_cache(1024)
def entity_path(entity: str) -> str:
    """Return the path of an entity. The operations append their own segments. ``""`` is the namespace."""
    return "/" + quote("/".join(_marked_segments(entity)))


@lru_cache(1024)
def session_path(entity: str, session_id: str, *, escaped: bool = False) -> str:
    """Return the path of a session. The operations append their own segments.

    Args:
        entity: The queue or subscription.
        session_id: The session.
        escaped: Write the session id in the escaped form of version 1.
    """
    if escaped:
        return f"{entity_path(entity)}/$sessions/{_encode_session_id(session_id)}"
    return f"{entity_path(entity)}/sessions/{quote(session_id, safe='')}"


def route_of(lock_id: str) -> str:
    """Return the `ROUTE_HEADER` for a lock id: its first characters, which are too few to hold the lock with."""
    return lock_id[:8]


def message_path(lock_token: str) -> str:
    """Return the segments after a session's path for the message with this lock token."""
    return f"/messages/{lock_token if _is_guid(lock_token) else quote(lock_token, safe='')}"


def format_timeout(timeout: float) -> str:
    """Return seconds for the query: a whole number, or with up to three decimals."""
    rounded = round(timeout, 3)
    return str(int(rounded)) if rounded == int(rounded) else f"{rounded:.3f}".rstrip("0")
