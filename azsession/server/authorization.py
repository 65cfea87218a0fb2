"""Authorization of requests: access keys, their rights, and the check of shared access signatures.

`dispatch` asks a `Guard` before it reads the rest of a request. A refusal reveals neither the fault of the token
nor the existence of the queue.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from urllib.parse import unquote, unquote_plus, urlsplit

import attrs

from ..errors import AuthenticationFailedError, ConfigurationError, PermissionDeniedError
from ..protocol.routes import Operation
from ..protocol.sas import verify_token

#: Characters that URL parsers drop, or that end the path. A URL with one could cover more paths than it seems to.
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\?#]")

#: Tokens whose check is remembered.
MAX_KNOWN = 1024
#: Characters of a header ``Host`` at most: the longest name of the DNS, and a port.
MAX_HOST_LENGTH = 260


class Right(Enum):
    """A right of an access key, as in Azure Service Bus. `MANAGE` includes the others."""

    SEND = "Send"
    LISTEN = "Listen"
    MANAGE = "Manage"


#: The right that an operation requires, if the right is not Listen.
_RIGHTS = {
    Operation.SEND: Right.SEND,
    Operation.SCHEDULE: Right.SEND,
    Operation.CANCEL_SCHEDULED: Right.SEND,
    Operation.CREATE_QUEUE: Right.MANAGE,
    Operation.GET_QUEUE: Right.MANAGE,
    Operation.DELETE_QUEUE: Right.MANAGE,
    Operation.LIST_QUEUES: Right.MANAGE,
}
#: Operations that require no token: their answers say nothing about any queue.
OPEN = frozenset({Operation.HEALTH, Operation.READY, Operation.OPENAPI})


def right_for(operation: Operation) -> Right:
    """Return the right that an operation requires."""
    return _RIGHTS.get(operation, Right.LISTEN)


@attrs.frozen
class AccessKey:
    """A shared access key of the gateway. Clients sign their tokens with it.

    Example::

        AccessKey("app", "SECRET", frozenset({Right.SEND, Right.LISTEN}))

    Args:
        name: The name of the key. Clients send it in their tokens.
        key: The secret. It is not part of the ``repr``.
        rights: The rights of clients with this key. By default all rights.
    """

    name: str
    key: str = attrs.field(repr=False)
    rights: frozenset[Right] = frozenset({Right.MANAGE})

    @classmethod
    def parse(cls, text: str) -> AccessKey:
        """Return the key that a text describes.

        Example::

            AccessKey.parse("app:SECRET:Send,Listen")

        Args:
            text: Name, secret and rights in the form ``NAME:KEY:RIGHTS``. The name has 1 to 64 letters, digits, ``.``, ``_``
                or ``-``. The secret has no white space and no ``;``. The rights are Send, Listen and Manage, separated by
                commas.

        Raises:
            ConfigurationError: The text has another form. The message does not contain the secret.
        """
        name, _, rest = text.partition(":")
        key, _, names = rest.rpartition(":")
        try:
            rights = frozenset(Right(right.strip().capitalize()) for right in names.split(","))
        except ValueError:
            rights = frozenset()
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or not key or not rights or re.search(r"[;\s\ud800-\udfff]", key):
            # A connection string cannot contain a key with such characters, and UTF-8 cannot encode a lone surrogate.
            raise ConfigurationError(
                "an access key must have the form NAME:KEY:RIGHTS with the rights Send, Listen or Manage, for example "
                "app:SECRET:Send,Listen"
            )
        return cls(name, key, rights)

    @classmethod
    def generate(cls, name: str = "RootManageSharedAccessKey") -> AccessKey:
        """Return a new key with a random secret of 256 bits, and with all rights.

        Args:
            name: The name of the key. The default is the name that Azure gives the first key of a namespace.
        """
        return cls(name, base64.b64encode(secrets.token_bytes(32)).decode())

    def allows(self, right: Right) -> bool:
        """Return whether the key has a right, itself or through `Right.MANAGE`."""
        return right in self.rights or Right.MANAGE in self.rights


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


class Guard:
    """Checks the tokens of requests. Safe to use from many threads.

    Args:
        keys: The keys whose tokens are accepted.
        hosts: Host names that tokens may be for, besides the host name in the request.
    """

    def __init__(self, keys: Iterable[AccessKey], hosts: Iterable[str] = ()) -> None:
        self._keys = {key.name: key for key in keys}
        self._hosts = frozenset(host.lower() for host in hosts)
        self._lock = threading.Lock()  # Guards changes of _known.
        #: Tokens that were accepted, by the digest of their text. A token that is refused takes the same steps each time.
        self._known: dict[bytes, _Token] = {}

    def check(
        self, authorization: str | None, host: str, resource: tuple[str, ...] | None, operation: Operation | None
    ) -> None:
        """Return if the token allows this operation on this resource.

        Args:
            authorization: The header ``Authorization`` of the request.
            host: The host that the request was sent to.
            resource: The decoded segments of the path. `None` if the path is not in the protocol: a token for any resource
                of this host is accepted then.
            operation: The operation; `None` requires no right.

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
        right = None if operation is None else right_for(operation)
        if right is not None and not token.key.allows(right):
            raise PermissionDeniedError(f"the key {token.key.name!r} lacks the right {right.value}")

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
