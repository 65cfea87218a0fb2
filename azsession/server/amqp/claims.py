"""The rights of a client on its connection: the tokens that it put, or the key with which it signed in.

`connection` has one `Claims`. The same `Guard` as for HTTP requests checks a token, for each operation again: it may expire,
and its key may be revoked.
"""

from __future__ import annotations

import time
from contextlib import suppress
from urllib.parse import urlsplit

import attrs

from ...amqp import Open
from ...errors import AuthenticationFailedError, QueueError
from ...protocol.entity_resources import entity_resources
from ...protocol.routes import Operation
from ...protocol.sas import MAX_TOKEN_LENGTH, expiry_of
from ..access_keys import AccessKey
from ..authorization import Guard, require
from .conditions import TOO_MANY, RefusedError
from .entities import split_path

#: The most tokens of one connection.
MAX_TOKENS = 1000


def path_of(address: str) -> str:
    """Return the path of an audience or address, without scheme, host and slashes."""
    scheme, found, rest = address.strip().partition("://")
    return (rest.partition("/")[2] if found and scheme.isalnum() else address).strip().strip("/")


@attrs.frozen
class _Put:
    token: str = attrs.field(repr=False)
    host: str
    expires_on: int


class Claims:
    """The rights of one connection.

    Args:
        guard: Checks tokens and keys.

    Attributes:
        host: The name that the client used for the server, from its open frame.
        container_id: The client's own name, from its open frame.
    """

    def __init__(self, guard: Guard) -> None:
        self.host: str = ""
        self.container_id: str = ""
        self._guard = guard
        self._signed_in: AccessKey | None = None
        self._put: dict[str, _Put] = {}

    def sign_in(self, name: str, secret: str) -> None:
        """Take the name and the secret of an access key.

        Raises:
            AuthenticationFailedError: There is no such key.
        """
        self._signed_in = self._guard.sign_in(name, secret)

    def introduce(self, opened: Open) -> None:
        """Note the names in the client's open frame."""
        self.host, self.container_id = opened.hostname or "", opened.container_id

    def put(self, audience: str, token: str) -> None:
        """Take a token for an audience and everything below it.

        Raises:
            RefusedError: There are too many tokens.
            AuthenticationFailedError: The token is not valid for the audience.
        """
        path = path_of(audience)
        if len(token) > MAX_TOKEN_LENGTH:
            raise AuthenticationFailedError("the token is too long")
        if path not in self._put and len(self._put) >= MAX_TOKENS:
            raise RefusedError(TOO_MANY, f"The connection has {MAX_TOKENS} tokens already.", 403)
        # A client may leave the name out of its open frame.
        host = self.host or _host_of(audience)
        self._check(_Put(token, host, 0), path)
        self._put[path] = _Put(token, host, expiry_of(token))

    def check(self, path: str, entity: str, *operations: Operation) -> tuple[AccessKey, Operation]:
        """Return the first of some operations to which the client has the right, and the key that gives it.

        Args:
            path: The path of the node that the client uses.
            entity: The queue or subscription of the operation.
            operations: The operations.

        Raises:
            QueueError: No token gives the right, and no key does.
        """
        segments = _segments(path)
        error: QueueError = AuthenticationFailedError("no token was put for this entity")
        # The rights of the key can have changed since the client signed in.
        signed_in = None if self._signed_in is None else self._guard.current(self._signed_in)
        for operation in operations:
            try:
                if signed_in is not None:
                    require(signed_in, operation, entity)
                    return signed_in, operation
            except QueueError as refused:
                error = refused
            for length in range(len(segments), -1, -1):
                put = self._put.get("/".join(segments[:length]))
                try:
                    if put is not None:
                        return self._check(put, path, operation, entity), operation
                except QueueError as refused:
                    error = refused
        raise error

    def _check(self, put: _Put, path: str, operation: Operation | None = None, entity: str = "") -> AccessKey:
        """Return the key of a token that covers a path, in one of the forms in which tokens name it."""
        written, rest = split_path(path)
        behind = _segments(rest.lstrip("/"))
        *others, usual = entity_resources(written)
        for resource in others:
            with suppress(QueueError):
                return self._guard.check(put.token, put.host, (*resource, *behind), operation, entity)
        return self._guard.check(put.token, put.host, (*usual, *behind), operation, entity)

    def may_use(self, path: str, entity: str) -> bool:
        """Return whether the client may send to an entity or receive from it."""
        try:
            self.check(path, entity, Operation.RECEIVE, Operation.SEND)
        except QueueError:
            return False
        return True

    def next_expiry(self) -> float | None:
        """Return in how many seconds the next token expires; `None` without tokens that will expire."""
        now = time.time()
        return min((put.expires_on - now for put in self._put.values() if put.expires_on > now), default=None)


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def _host_of(audience: str) -> str:
    try:
        return urlsplit(audience).netloc
    except ValueError:
        return ""
