"""Authorization of requests: the check of shared access signatures and of the rights of their keys.

`dispatch` asks a `Guard` before it reads the rest of a request. A refusal reveals neither the fault of the token
nor the existence of the queue.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from functools import lru_cache
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit

import attrs

from ..errors import AuthenticationFailedError, ConfigurationError, PermissionDeniedError, ValidationError
from ..protocol.routes import Operation
from ..protocol.sas import SCHEME, verify_token
from ..validation import check_host_name
from .access_keys import AccessKey, right_for

#: Characters that URL parsers drop, or that end the path. A URL with one could cover more paths than it seems to.
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\?#]")

#: Tokens whose check is remembered.
MAX_KNOWN = 1024
#: Characters of a header ``Host`` at most: the longest name of the DNS, and a port.
MAX_HOST_LENGTH = 260


#: Operations that require no token: their answers say nothing about any queue.
OPEN = frozenset({Operation.HEALTH, Operation.READY, Operation.OPENAPI})


@attrs.frozen
class _Token:
    """A token with a valid signature. It covers requests to a host, and to a path or the paths below it."""

    key: AccessKey
    expires_on: int
    host: str
    segments: tuple[str, ...]


def _scope(encoded: str) -> tuple[str, tuple[str, ...]]:
    """Return the host and the path of an encoded URL. If URL parsers could read it in different ways, the host is empty."""
    try:
        url = unquote_plus(encoded, errors="strict")
        parts = urlsplit(url if "://" in url else f"//{url}")
        host = (parts.hostname or "").lower()
        # Clients join a base URL and a path, which can leave an extra slash at the start or the end.
        path = parts.path.lstrip("/").removesuffix("/")
        segments = tuple(unquote(segment, errors="strict") for segment in path.split("/")) if path else ()
    except ValueError:
        return "", ()
    return "" if "@" in parts.netloc or _UNREADABLE.search(url) else host, segments


@lru_cache(256)
def _host_name(host: str) -> str | None:
    """Return the name in the header ``Host``, or `None` if the header is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return None


#: Stands for a key with an unknown name.
_NOBODY = AccessKey("", "")


class Guard:
    """Checks the tokens of requests. Safe to use from many threads.

    Args:
        keys: The keys whose tokens are accepted.
        hosts: Host names that tokens may be for, besides the host name in the request.

    Raises:
        ConfigurationError: Two keys have the same name, or a host name is malformed.
    """

    def __init__(self, keys: Iterable[AccessKey], hosts: Iterable[str] = ()) -> None:
        try:
            self._hosts = frozenset(check_host_name(host).lower() for host in hosts)
        except ValidationError as error:
            raise ConfigurationError(str(error)) from None
        self._lock = threading.Lock()  # Guards changes of the attributes below.
        #: The keys by name. `replace_keys` puts another dictionary here, and never changes one.
        self._keys: Mapping[str, AccessKey] = _by_name(keys)
        #: Tokens that were accepted, by the digest of their text. A token that is refused takes the same steps each time.
        self._known: dict[bytes, _Token] = {}
        #: The operations that wait, with their key, operation and entity.
        self._waiting: dict[Future[Any], tuple[AccessKey, Operation, str]] = {}

    @property
    def keys(self) -> list[AccessKey]:
        """The keys whose tokens are accepted now."""
        return list(self._keys.values())

    def replace_keys(self, keys: Iterable[AccessKey]) -> None:
        """Accept the tokens of other keys from now on.

        Tokens of a key that is missing, or that has another secret, are refused at once, and operations that wait with such
        a key end. The same is true if the key has lost the right to an operation. A session that a client holds stays locked
        until the lock expires, because the client cannot renew it.

        Args:
            keys: All keys, also those that stay.

        Raises:
            ConfigurationError: Two keys have the same name. The former keys stay.
        """
        new = _by_name(keys)
        with self._lock:
            old = self._keys
            # A key that stays is the same object as before, so its tokens stay known.
            self._keys = {name: old[name] if name in old and old[name].is_same(key) else key for name, key in new.items()}
            self._known = {digest: token for digest, token in self._known.items() if self._is_current(token)}
            ended = [future for future, use in self._waiting.items() if not self._still_allows(*use)]
        for future in ended:
            future.cancel()

    def check(
        self,
        authorization: str | None,
        host: str,
        resource: tuple[str, ...] | None,
        operation: Operation | None,
        entity: str = "",
    ) -> AccessKey:
        """Return the key of the request if its token allows this operation on this resource.

        Args:
            authorization: The header ``Authorization`` of the request.
            host: The host that the request was sent to.
            resource: The decoded segments of the path. `None` if the path is not in the protocol: a token for any resource
                of this host is accepted then.
            operation: The operation; `None` requires no right.
            entity: The queue or subscription of the operation, or ``""``.

        Raises:
            AuthenticationFailedError: The request has no valid token for this resource.
            PermissionDeniedError: The key of the token lacks the right.
        """
        text = authorization or ""
        digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
        token = self._known.get(digest)
        if token is None or not self._is_current(token) or not self._covers(token.host, token.segments, host, resource):
            token = self._verify(text, digest, host, resource)
        if token is None:
            raise AuthenticationFailedError(
                "the request needs a SharedAccessSignature that is not expired, is for this host and path, and is "
                "signed with a key of this gateway"
            )
        if operation is not None:
            require(token.key, operation, entity)
        return token.key

    def check_scraper(
        self, authorization: str | None, host: str, resource: tuple[str, ...], operation: Operation
    ) -> AccessKey:
        """Return the key of a request of a monitoring system, like `check`. Such systems send a name and a secret.

        Args:
            authorization: The header ``Authorization``: ``Basic`` with the name and the secret of a key, or ``Bearer`` or
                ``SharedAccessSignature`` with a token.
            host: The host that the request was sent to.
            resource: The decoded segments of the path.
            operation: The operation.

        Raises:
            AuthenticationFailedError: The request has neither a valid token nor the name and secret of a key.
            PermissionDeniedError: The key lacks the right.
        """
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() == "basic":
            name, secret = basic_credentials(credentials)
            if not name:
                raise AuthenticationFailedError("Authorization: Basic has no name of a key: send a key's name as the user")
            key = self.sign_in(name, secret)
            require(key, operation, "")
            return key
        if scheme.lower() == "bearer":
            authorization = f"{SCHEME} {credentials}"
        try:
            return self.check(authorization, host, resource, operation)
        except AuthenticationFailedError as error:
            raise AuthenticationFailedError(
                "the request needs the name and the secret of a key with the right Metrics as user and password "
                f"(Authorization: Basic), or a token. For a token, {error}"
            ) from None

    def sign_in(self, name: str, secret: str) -> AccessKey:
        """Return the key with a name and a secret. For clients that send the key itself and no token.

        Raises:
            AuthenticationFailedError: There is no such key.
        """
        key = self._keys.get(name)
        # The secret is compared also for an unknown name, so that the time of a refusal does not reveal the names.
        is_right = (key or _NOBODY).has_secret(secret)
        if key is None or not is_right:
            raise AuthenticationFailedError("the gateway has no key with this name and this secret")
        return key

    def current(self, key: AccessKey) -> AccessKey | None:
        """Return a key with the rights that it has now; `None` if it was revoked or has another secret.

        For connections that outlive one request, and whose clients signed in with the key itself.
        """
        current = self._keys.get(key.name)
        return current if current is not None and current.has_secret(key.key) else None

    def end_when_revoked(self, future: Future[Any], key: AccessKey, operation: Operation, entity: str) -> None:
        """Cancel a future when its key is revoked or loses the right to the operation, or now if that has happened.

        Args:
            future: The operation that waits. It can be done already.
            key: The key that `check` returned for the operation.
            operation: The operation.
            entity: The queue or subscription of the operation, or ``""``.
        """
        with self._lock:
            is_allowed = self._still_allows(key, operation, entity)
            if is_allowed:
                self._waiting[future] = (key, operation, entity)
        if is_allowed:
            # Without the lock: a future that is done calls this at once.
            future.add_done_callback(self._forget)
        else:
            future.cancel()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _still_allows(self, key: AccessKey, operation: Operation, entity: str) -> bool:
        current = self.current(key)
        return current is not None and (current is key or _allows(current, operation, entity))

    def _is_current(self, token: _Token) -> bool:
        return token.expires_on > time.time() and self._keys.get(token.key.name) is token.key

    def _verify(self, text: str, digest: bytes, host: str, resource: tuple[str, ...] | None) -> _Token | None:
        # Each check runs whatever the result of the others, so that the time of a refusal does not reveal the fault.
        verified = verify_token(text, self._secret_of)
        name, segments = _scope(verified.resource)
        covers = self._covers(name, segments, host, resource)
        key = self._keys.get(verified.key_name)
        if key is None or not verified.is_valid or not covers:
            return None
        token = _Token(key, verified.expires_on, name, segments)
        with self._lock:
            self._known.pop(digest, None)
            while len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[digest] = token
        return token

    def _secret_of(self, key_name: str) -> str | None:
        key = self._keys.get(key_name)
        return None if key is None else key.key

    def _covers(self, name: str, segments: tuple[str, ...], host: str, resource: tuple[str, ...] | None) -> bool:
        """Return whether a token for this host name and path covers a request, compared segment by segment."""
        own = _host_name(host) if len(host) <= MAX_HOST_LENGTH else None
        if not name or (name != own and name not in self._hosts):
            return False
        return resource is None or resource[: len(segments)] == segments


def basic_credentials(text: str) -> tuple[str, str]:
    """Return the user and the password of the scheme Basic (RFC 7617). Both are empty if the text is malformed."""
    try:
        user, separator, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (ValueError, UnicodeDecodeError):
        return "", ""
    return (user, password) if separator else ("", "")


def require(key: AccessKey, operation: Operation, entity: str) -> None:
    """Check that a key has the right to an operation.

    Args:
        key: The key.
        operation: The operation.
        entity: The queue or subscription of the operation, or ``""``.

    Raises:
        PermissionDeniedError: The key lacks the right, or is limited to other queues.
    """
    if _allows(key, operation, entity):
        return
    right = right_for(operation)
    if not key.allows(right):
        raise PermissionDeniedError(f"the key {key.name!r} lacks the right {right.value}")
    if not entity:
        raise PermissionDeniedError(f"the key {key.name!r} is limited to some queues, and this is about all queues")
    raise PermissionDeniedError(f"the key {key.name!r} is limited to other queues than {entity!r}")


def _allows(key: AccessKey, operation: Operation, entity: str) -> bool:
    # A list of queues shows only those that the key covers. Other operations without an entity are about all queues.
    is_covered = key.covers(entity) if entity else key.queues is None or operation is Operation.LIST_QUEUES
    return is_covered and key.allows(right_for(operation))


def _by_name(keys: Iterable[AccessKey]) -> dict[str, AccessKey]:
    by_name: dict[str, AccessKey] = {}
    for key in keys:
        if by_name.setdefault(key.name, key) is not key:
            raise ConfigurationError(f"two access keys have the name {key.name!r}; give each key a name of its own")
    return by_name
