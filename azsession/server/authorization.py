"""Who may do what: shared access keys, their rights, and the check of the tokens that are signed with them.

`app` asks a `Guard` before it looks at anything else; a refusal says nothing about which part was wrong, nor whether the
queue exists.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from enum import Enum
from urllib.parse import unquote, unquote_plus, urlsplit

import attrs

from ..errors import AuthenticationFailedError, ConfigurationError, PermissionDeniedError
from ..protocol.routes import Operation

#: Characters of an authorization header that are looked at; a longer one is refused unread.
MAX_TOKEN_LENGTH = 4096

_SCHEME = "SharedAccessSignature "
_FIELDS = {"sr", "sig", "se", "skn"}
#: What stands for the fields of a token that is none, so that refusing it takes the same steps.
_NO_FIELDS = dict.fromkeys(_FIELDS, "")
#: What no resource has: characters that URLs are read without, or that end the path, and would make a token for more of it.
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\?#]")


class Right(Enum):
    """What a key allows, as in Azure Service Bus. Manage implies the others."""

    SEND = "Send"
    LISTEN = "Listen"
    MANAGE = "Manage"


#: The right that an operation needs, where it is not Listen.
_RIGHTS = {
    Operation.SEND: Right.SEND,
    Operation.CREATE_QUEUE: Right.MANAGE,
    Operation.GET_QUEUE: Right.MANAGE,
    Operation.DELETE_QUEUE: Right.MANAGE,
    Operation.LIST_QUEUES: Right.MANAGE,
}
#: What is answered without a token: it says nothing about any queue.
OPEN = frozenset({Operation.HEALTH, Operation.OPENAPI})


def right_for(operation: Operation) -> Right:
    """Return the right that an operation needs."""
    return _RIGHTS.get(operation, Right.LISTEN)


@attrs.frozen
class AccessKey:
    """A shared access key of the gateway: its name, its secret, and what it allows."""

    name: str
    key: str = attrs.field(repr=False)
    rights: frozenset[Right] = frozenset({Right.MANAGE})

    @classmethod
    def parse(cls, text: str) -> AccessKey:
        """Return the key that ``NAME:KEY:RIGHTS`` describes; rights are Send, Listen and Manage, divided by commas.

        Raises:
            ConfigurationError: It is not of this form. The message does not hold the key.
        """
        name, _, rest = text.partition(":")
        key, _, names = rest.rpartition(":")
        try:
            rights = frozenset(Right(right.strip().capitalize()) for right in names.split(","))
        except ValueError:
            rights = frozenset()
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or not key or not rights or re.search(r"[;\s\ud800-\udfff]", key):
            # A connection string could not carry a key with such characters, nor UTF-8 the half of one.
            raise ConfigurationError(
                "a key is NAME:KEY:RIGHTS, with rights of Send, Listen and Manage, such as app:SECRET:Send,Listen"
            )
        return cls(name, key, rights)

    @classmethod
    def generate(cls, name: str = "RootManageSharedAccessKey") -> AccessKey:
        """Return a new key with all rights."""
        return cls(name, base64.b64encode(secrets.token_bytes(32)).decode())

    def allows(self, right: Right) -> bool:
        """Tell whether the key has this right."""
        return right in self.rights or Right.MANAGE in self.rights


class Guard:
    """Checks the tokens of requests.

    Args:
        keys: The keys whose tokens are accepted.
        hosts: Names that tokens may be for besides the one that the request was sent to.
    """

    def __init__(self, keys: Iterable[AccessKey], hosts: Iterable[str] = ()) -> None:
        self._keys = {key.name: key for key in keys}
        self._hosts = frozenset(host.lower() for host in hosts)
        # Signed against where the key's name is unknown, so that a wrong name takes as long as a wrong signature.
        self._nobody = AccessKey.generate("nobody")

    def check(
        self, authorization: str | None, host: str, resource: tuple[str, ...] | None, operation: Operation | None
    ) -> None:
        """Return where the token is good for this operation on this resource.

        Args:
            authorization: The request's header.
            host: The host that the request was sent to.
            resource: The decoded segments of the path; `None` where the path means nothing, and a token for anything here is
                enough to be told so.
            operation: What is asked for; `None` needs no right.

        Raises:
            AuthenticationFailedError: There is no token, or not a good one for this resource.
            PermissionDeniedError: Its key lacks the right.
        """
        key = self._authenticate(authorization or "", host, resource)
        if key is None:
            raise AuthenticationFailedError(
                "the request needs a SharedAccessSignature that is not expired, is for this host and path, and is "
                "signed with a key of this gateway"
            )
        right = None if operation is None else right_for(operation)
        if right is not None and not key.allows(right):
            raise PermissionDeniedError(f"the key {key.name!r} lacks the right {right.value}")

    def _authenticate(self, authorization: str, host: str, resource: tuple[str, ...] | None) -> AccessKey | None:
        # Every step is taken whatever the one before it found: a refusal's time does not tell what was wrong.
        found = _fields_of(authorization)
        fields = found or _NO_FIELDS
        known = self._keys.get(_undo_double(fields["skn"]))
        signed = f"{fields['sr']}\n{fields['se']}".encode("utf-8", "surrogatepass")
        secret = (known or self._nobody).key.encode()
        expected = hmac.new(secret, signed, hashlib.sha256).digest()
        try:
            signature = base64.b64decode(unquote(fields["sig"]), validate=True)
        except (binascii.Error, ValueError):
            signature = b""
        good = hmac.compare_digest(expected, signature)
        in_time = re.fullmatch(r"[0-9]{1,12}", fields["se"]) is not None and int(fields["se"]) > time.time()
        covers = self._covers(fields["sr"], host, resource)
        return known if found and good and in_time and covers else None

    def _covers(self, encoded: str, host: str, resource: tuple[str, ...] | None) -> bool:
        """Tell whether a token for `encoded` is good at this host for this path, segment by segment."""
        try:
            url = unquote_plus(encoded, errors="strict")
            parts = urlsplit(url if "://" in url else f"//{url}")
            name = (parts.hostname or "").lower()
            own = (urlsplit(f"//{host}").hostname or "").lower()
            # A slash more than needed stands where a base that ends with one and a path that begins with one were joined.
            path = parts.path.lstrip("/").removesuffix("/")
            segments = tuple(unquote(segment, errors="strict") for segment in path.split("/")) if path else ()
        except ValueError:
            return False
        if not name or (name != own and name not in self._hosts) or "@" in parts.netloc or _UNREADABLE.search(url):
            return False
        return resource is None or resource[: len(segments)] == segments


def _fields_of(authorization: str) -> dict[str, str] | None:
    """Return the four fields of a token, or `None` where it is none: each is there once, and nothing else is."""
    if len(authorization) > MAX_TOKEN_LENGTH or not authorization.startswith(_SCHEME):
        return None
    fields = dict(re.findall(r"(?:^|&)([^=&]*)=([^&]*)", authorization[len(_SCHEME) :]))
    return fields if set(fields) == _FIELDS and authorization.count("&") == 3 else None


def _undo_double(name: str) -> str:
    """Return a key's name. Azure's own generator encodes it twice, others once; names that need no encoding are the same."""
    return unquote_plus(unquote_plus(name))
